"""Pictures to files and back with the tiny model."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ulcodec
from ulcodec.codec.image import Codec
from ulcodec.errors import ArithmeticMismatchError, ChecksumError, FormatError, ModelError, UnknownModelError
from ulcodec.format.container import Container
from ulcodec.metrics import psnr_db
from ulcodec.model.config import TINY, spread_reveal
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.store.installed import shipped_models
from ulcodec.store.model_directory import save_model

SIZES = [(1, 1), (7, 1), (17, 5), (64, 64), (96, 80)]
"""Widths and heights of pictures in pixels."""


def test_model_with_fewer_reveal_passes_round_trips(picture: np.ndarray, tmp_path: Path) -> None:
    model = UnifiedLatentModel(dataclasses.replace(TINY, reveal=spread_reveal("11112233"), prior_blocks=(1, 1, 1)))
    save_model(tmp_path / "three", "three", model, {})
    codec = ulcodec.load(tmp_path / "three", device="cpu")
    data = codec.encode(picture, quality=60)
    assert len(Container.from_bytes(data).segments) == 4
    assert psnr_db(picture, codec.decode_array(data)) > 25


@pytest.mark.parametrize("layout", ["RGB", "L"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_round_trip_keeps_shape_and_mode(
    tiny_codec: Codec, picture: np.ndarray, width: int, height: int, layout: str
) -> None:
    pixels = np.asarray(Image.fromarray(picture).convert(layout))[:height, :width]
    data = tiny_codec.encode(pixels, quality=60)
    decoded = tiny_codec.decode_array(data)
    assert decoded.shape == pixels.shape
    assert decoded.dtype == np.uint8
    image = tiny_codec.decode(data)
    assert image.mode == layout
    np.testing.assert_array_equal(np.asarray(image), decoded)


def test_size_rises_with_quality_and_pictures_are_recognisable(tiny_codec: Codec, picture: np.ndarray) -> None:
    files = [tiny_codec.encode(picture, quality=quality) for quality in (0, 50, 100)]
    sizes = [len(file) for file in files]
    assert sizes == sorted(set(sizes))
    assert psnr_db(picture, tiny_codec.decode_array(files[2])) > psnr_db(picture, np.full_like(picture, 128)) + 1


def test_encoding_is_deterministic(tiny_codec: Codec, picture: np.ndarray, coded: bytes) -> None:
    assert tiny_codec.encode(picture, quality=70) == coded


def test_newly_loaded_codec_decodes_to_the_same_pixels(tiny_model_dir: Path, tiny_codec: Codec, coded: bytes) -> None:
    other = ulcodec.load(str(tiny_model_dir), device="cpu")
    assert (other.fingerprint, other.name) == (tiny_codec.fingerprint, "tiny")
    np.testing.assert_array_equal(other.decode_array(coded), tiny_codec.decode_array(coded))


def test_info_describes_the_header(tiny_codec: Codec, picture: np.ndarray, coded: bytes) -> None:
    info = ulcodec.info(coded)
    segment_bytes = info.pop("segment_bytes")
    assert info == {
        "version": 1,
        "width": 96,
        "height": 80,
        "layout": "RGB",
        "bit_depth": 8,
        "significant_bits": 8,
        "lossless": False,
        "attachment_bytes": {},
        "quality": 70,
        "model": None,
        "package": None,
        "fingerprint": tiny_codec.fingerprint,
        "file_bytes": len(coded),
        "overhead_bytes": len(coded) - sum(segment_bytes),
        "bits_per_pixel": pytest.approx(8 * len(coded) / (96 * 80)),
    }
    assert len(segment_bytes) == 4
    assert info["overhead_bytes"] <= 26
    assert ulcodec.info(tiny_codec.encode(picture[:, :, 0]))["layout"] == "GREY"


@pytest.mark.parametrize("quality", [20, 60, 100])
def test_file_size_is_close_to_its_bound(tiny_codec: Codec, picture: np.ndarray, quality: int) -> None:
    """The margin covers 64 tables instead of continuous scales, means on a grid, and the ends of four segments."""
    data = tiny_codec.encode(picture, quality=quality)
    sizes = tiny_codec.describe(data)
    assert sizes["file_bits"] == 8 * len(data)
    assert sizes["payload_bits"] == 8 * sum(ulcodec.info(data)["segment_bytes"])
    assert sizes["payload_bits"] == pytest.approx(sizes["bound_bits"], rel=0.03, abs=4 * 16)


def test_overhead_of_one_pixel_is_small(tiny_codec: Codec) -> None:
    sizes = tiny_codec.describe(tiny_codec.encode(np.zeros((1, 1), dtype=np.uint8), quality=0))
    assert sizes["payload_bits"] < sizes["bound_bits"] * 1.03 + 4 * 16
    assert sizes["file_bits"] - sizes["payload_bits"] <= 8 * 26


def test_file_of_another_model_is_refused(tiny_codec: Codec, coded: bytes) -> None:
    other = dataclasses.replace(tiny_codec, name="other", fingerprint_bytes=bytes(4))
    for read in (other.decode, other.decode_array, other.describe):
        with pytest.raises(UnknownModelError, match=f"model {tiny_codec.fingerprint}.*other.*00000000.*installed"):
            read(coded)


def test_file_of_an_installed_model_names_it(tiny_codec: Codec, coded: bytes) -> None:
    digits, whole = shipped_models()[0].fingerprint, Container.from_bytes(coded)
    header = dataclasses.replace(whole.header, fingerprint=bytes.fromhex(digits))
    with pytest.raises(UnknownModelError, match=f"made by model {digits}.*Load the installed model small$"):
        tiny_codec.decode(dataclasses.replace(whole, header=header).to_bytes())


def test_damaged_file_is_refused(tiny_codec: Codec, coded: bytes) -> None:
    flipped = bytearray(coded)
    flipped[len(coded) // 2] ^= 4
    with pytest.raises(ChecksumError):
        tiny_codec.decode(bytes(flipped))
    for length in (0, 2, 20, len(coded) - 1):
        with pytest.raises(FormatError):
            tiny_codec.decode(coded[:length])


def test_different_arithmetic_is_not_reported_as_damage(tiny_codec: Codec, coded: bytes) -> None:
    container = Container.from_bytes(coded)
    other = dataclasses.replace(container, symbol_check=container.symbol_check ^ 1).to_bytes()
    with pytest.raises(ArithmeticMismatchError, match="other symbols than were encoded"):
        tiny_codec.decode(other)


def test_missing_model_is_refused(tmp_path: Path) -> None:
    for model in ("no-such-model", tmp_path):
        with pytest.raises(ModelError, match=r"neither an installed model .* nor a model directory"):
            ulcodec.load(model)
