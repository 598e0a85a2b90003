"""Pictures to files and back with the tiny model."""

import dataclasses
import re
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ulcodec
from ulcodec.codec import tiling
from ulcodec.codec.image import Codec, latent_grid
from ulcodec.coding import latents as latent_coding
from ulcodec.coding.latents import decode_latent, encode_latent
from ulcodec.errors import (
    ArithmeticMismatchError,
    ChecksumError,
    CorruptDataError,
    FormatError,
    ImageError,
    ModelError,
    UnknownModelError,
)
from ulcodec.format.container import Attachment, Container
from ulcodec.io.picture import Picture
from ulcodec.io.pictures import load_image
from ulcodec.model.config import TINY, spread_reveal
from ulcodec.model.reveal import pass_map
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.store.model_directory import save_model

SIZES = [(1, 1), (7, 1), (17, 5), (64, 64), (96, 80)]
"""Width, height."""


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def coded(tiny_codec: Codec, picture: np.ndarray) -> bytes:
    return tiny_codec.encode(picture, quality=70)


def psnr_db(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2)))


def test_fewer_reveal_steps(picture: np.ndarray, tmp_path: Path) -> None:
    model = UnifiedLatentModel(dataclasses.replace(TINY, reveal=spread_reveal("11112233")))
    save_model(tmp_path / "three", "three", model, {})
    codec = ulcodec.load(tmp_path / "three", device="cpu")
    data = codec.encode(picture, quality=60)
    assert len(Container.from_bytes(data).segments) == 4
    assert psnr_db(picture, codec.decode_array(data)) > 25


def test_more_reveal_steps_than_segments_are_refused(tmp_path: Path) -> None:
    model = UnifiedLatentModel(dataclasses.replace(TINY, reveal=spread_reveal("12345555")))
    with pytest.raises(ModelError, match="a file holds 4 reveal steps, and the model has 5"):
        save_model(tmp_path / "five", "five", model, {})
    assert not (tmp_path / "five").exists()


@pytest.mark.parametrize("layout", ["RGB", "L"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_round_trip(tiny_codec: Codec, picture: np.ndarray, width: int, height: int, layout: str) -> None:
    pixels = np.asarray(Image.fromarray(picture).convert(layout))[:height, :width]
    data = tiny_codec.encode(pixels, quality=60)
    decoded = tiny_codec.decode_array(data)
    assert decoded.shape == pixels.shape
    assert decoded.dtype == np.uint8
    image = tiny_codec.decode(data)
    assert image.mode == layout
    np.testing.assert_array_equal(np.asarray(image), decoded)


def test_pictures_come_back_recognisable_and_better_with_quality(tiny_codec: Codec, picture: np.ndarray) -> None:
    files = [tiny_codec.encode(picture, quality=quality) for quality in (0, 50, 100)]
    sizes = [len(file) for file in files]
    assert sizes == sorted(set(sizes))
    assert psnr_db(picture, tiny_codec.decode_array(files[2])) > psnr_db(picture, np.full_like(picture, 128)) + 1


def test_every_kind_of_input_gives_the_same_bytes(
    tiny_codec: Codec, picture: np.ndarray, tmp_path: Path, coded: bytes
) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(picture).save(path)
    tensor = torch.from_numpy(picture.copy()).permute(2, 0, 1)
    sources = [Image.fromarray(picture), np.asfortranarray(picture), tensor, tensor.float() / 255, path, str(path)]
    for source in sources:
        assert tiny_codec.encode(source, quality=70) == coded
    grey = picture[:, :, 0]
    assert tiny_codec.encode(grey) == tiny_codec.encode(torch.from_numpy(grey.copy())[None])


def test_views_are_encoded_as_they_look(tiny_codec: Codec, picture: np.ndarray) -> None:
    view = picture[::-1, ::-2]
    assert tiny_codec.encode(view) == tiny_codec.encode(np.ascontiguousarray(view))


def test_equal_pictures_give_equal_bytes(tiny_codec: Codec, picture: np.ndarray, coded: bytes) -> None:
    assert tiny_codec.encode(picture, quality=70) == coded


def test_a_fresh_codec_decodes_the_same(tiny_model_dir: Path, tiny_codec: Codec, coded: bytes) -> None:
    other = ulcodec.load(str(tiny_model_dir), device="cpu")
    assert (other.fingerprint, other.name) == (tiny_codec.fingerprint, "tiny")
    np.testing.assert_array_equal(other.decode_array(coded), tiny_codec.decode_array(coded))


def latents_of(codec: Codec, data: bytes) -> latent_coding.DecodedLatent:
    return codec.decode_latents(Container.from_bytes(data))


@pytest.fixture
def restored(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """What the encoder and the decoder restore, in the order of coding."""
    recorded: list[torch.Tensor] = []
    restore = latent_coding.restore

    def recording(*arguments: object) -> torch.Tensor:
        result = restore(*arguments)
        recorded.append(result.flatten())
        return result

    monkeypatch.setattr(latent_coding, "restore", recording)
    return recorded


def assert_same_at_both_ends(restored: list[torch.Tensor]) -> None:
    assert len(restored) == 10
    assert all(torch.equal(a, b) for a, b in zip(restored[:5], restored[5:], strict=True))


@pytest.mark.parametrize("quality", [0, 41, 100])
def test_decoder_restores_exactly_what_the_encoder_did(
    tiny_codec: Codec, picture: np.ndarray, quality: int, restored: list[torch.Tensor]
) -> None:
    y, hyper = tiny_codec.analyse(picture, quality)
    coded = encode_latent(tiny_codec.coder, y, hyper, quality)
    decoded = decode_latent(tiny_codec.coder, coded.segments, coded.symbol_check, quality, (y.shape[1], y.shape[2]))
    assert_same_at_both_ends(restored)
    assert all(torch.equal(one, other) for one, other in zip(coded.latent, decoded, strict=True))
    assert sum(part.numel() for part in restored[1:5]) == decoded.y_16.numel() == y.numel()
    error = (decoded.y_16 / 16 - y.flatten(1).T).abs()
    assert (error <= 0.5 + 1e-6).float().mean() > 0.9, "all but the elements that are not coded"


def test_a_latent_may_be_overwritten_by_what_is_restored(tiny_codec: Codec, picture: np.ndarray) -> None:
    y, hyper = tiny_codec.analyse(picture, 41)
    kept = y.clone(memory_format=torch.preserve_format)
    plain = encode_latent(tiny_codec.coder, y, hyper, 41)
    assert torch.equal(y, kept)
    coded = encode_latent(tiny_codec.coder, y, hyper, 41, overwrite_y=True)
    assert (coded.segments, coded.symbol_check) == (plain.segments, plain.symbol_check)
    assert all(torch.equal(one, other) for one, other in zip(coded.latent, plain.latent, strict=True))
    assert coded.latent.y_16.data_ptr() == y.data_ptr(), "no memory of its own"


def test_latents_do_not_depend_on_the_thread_count(
    tiny_codec: Codec, coded: bytes, set_threads: Callable[[int], None]
) -> None:
    decoded = []
    for n_threads in (1, 2):
        set_threads(n_threads)
        decoded.append(latents_of(tiny_codec, coded))
    for one, other in zip(*decoded, strict=True):
        assert torch.equal(one, other)


def test_far_latents_are_escaped(tiny_codec: Codec, restored: list[torch.Tensor]) -> None:
    """Symbols beyond every table, and beyond what the format holds, which are clamped."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(32, 3, 4, generator=generator) * 10.0 ** torch.arange(12).reshape(3, 4).clamp(max=7)
    hyper = torch.full((8, 1, 1), -4e5)
    coded = encode_latent(tiny_codec.coder, y, hyper, 100)
    decoded = decode_latent(tiny_codec.coder, coded.segments, coded.symbol_check, 100, (3, 4))
    assert_same_at_both_ends(restored)
    assert (decoded.hyper_16 / 16 + 4e5).abs().max() <= 0.5
    assert decoded.y_16.abs().max() / 16 == pytest.approx(latent_coding.LARGEST_CODED_SYMBOL, rel=0.01)


def test_info(tiny_codec: Codec, picture: np.ndarray, coded: bytes) -> None:
    said = ulcodec.info(coded)
    segment_bytes = said.pop("segment_bytes")
    assert said == {
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
        "fingerprint": tiny_codec.fingerprint,
        "file_bytes": len(coded),
        "overhead_bytes": len(coded) - sum(segment_bytes),
        "bits_per_pixel": pytest.approx(8 * len(coded) / (96 * 80)),
    }
    assert len(segment_bytes) == 4
    assert said["overhead_bytes"] <= 26
    assert ulcodec.info(tiny_codec.encode(picture[:, :, 0]))["layout"] == "GREY"


@pytest.mark.parametrize("quality", [20, 60, 100])
def test_files_are_close_to_their_bound(tiny_codec: Codec, picture: np.ndarray, quality: int) -> None:
    """Room: 64 tables in place of continuous scales, means on a grid, and the ends of four segments."""
    data = tiny_codec.encode(picture, quality=quality)
    said = tiny_codec.describe(data)
    assert said["file_bits"] == 8 * len(data)
    assert said["payload_bits"] == 8 * sum(ulcodec.info(data)["segment_bytes"])
    assert said["payload_bits"] == pytest.approx(said["bound_bits"], rel=0.03, abs=4 * 16)


def test_overhead_of_one_pixel_is_small(tiny_codec: Codec) -> None:
    said = tiny_codec.describe(tiny_codec.encode(np.zeros((1, 1), dtype=np.uint8), quality=0))
    assert said["payload_bits"] < said["bound_bits"] * 1.03 + 4 * 16
    assert said["file_bits"] - said["payload_bits"] <= 8 * 26


def test_another_models_file(tiny_codec: Codec, coded: bytes) -> None:
    other = dataclasses.replace(tiny_codec, name="other", fingerprint_bytes=bytes(4))
    for refuse in (other.decode, other.decode_array, other.describe):
        with pytest.raises(UnknownModelError, match=f"model {tiny_codec.fingerprint}.*other.*00000000.*installed"):
            refuse(coded)


def test_damaged_files(tiny_codec: Codec, coded: bytes) -> None:
    flipped = bytearray(coded)
    flipped[len(coded) // 2] ^= 4
    with pytest.raises(ChecksumError):
        tiny_codec.decode(bytes(flipped))
    for length in (0, 2, 20, len(coded) - 1):
        with pytest.raises(FormatError):
            tiny_codec.decode(coded[:length])
    with pytest.raises(CorruptDataError, match="expected 4 segments, got 3"):
        decode_latent(tiny_codec.coder, Container.from_bytes(coded).segments[:3], 0, 70, (5, 6))


def test_wrong_arithmetic_is_told_from_damage(tiny_codec: Codec, coded: bytes) -> None:
    container = Container.from_bytes(coded)
    other = dataclasses.replace(container, symbol_check=container.symbol_check ^ 1).to_bytes()
    with pytest.raises(ArithmeticMismatchError, match="other symbols than were encoded"):
        tiny_codec.decode(other)


@pytest.mark.parametrize("quality", [-1, 101, 50.5, float("nan")])
def test_quality_out_of_range(tiny_codec: Codec, picture: np.ndarray, quality: float) -> None:
    with pytest.raises(ValueError, match=f"a whole number from 0 to 100, got {re.escape(str(quality))}"):
        tiny_codec.encode(picture, quality=quality)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3), dtype=np.float32),
        np.zeros((4, 4, 5), dtype=np.uint8),
        np.zeros((4, 4, 3), dtype=np.int16),
        np.zeros((3, 4, 4, 3), dtype=np.uint8),
        np.zeros(4, dtype=np.uint8),
        np.zeros((0, 4, 3), dtype=np.uint8),
        torch.zeros(4, 4),
        torch.zeros(5, 4, 4),
        torch.zeros(3, 4, 4, dtype=torch.int32),
        torch.zeros(3, 0, 4),
        b"not a picture",
    ],
    ids=lambda image: f"{type(image).__name__}-{getattr(image, 'dtype', '')}-{list(getattr(image, 'shape', []))}",
)
def test_what_is_not_a_picture(tiny_codec: Codec, image: object) -> None:
    with pytest.raises(ImageError):
        tiny_codec.encode(image)


def test_pixel_limit(tiny_codec: Codec, picture: np.ndarray, coded: bytes) -> None:
    for source in (picture, Image.fromarray(picture)):
        with pytest.raises(ImageError, match="more than 7679 pixels"):
            tiny_codec.encode(source, max_pixels=96 * 80 - 1)
    with pytest.raises(FormatError):
        tiny_codec.decode_array(coded, max_pixels=96 * 80 - 1)


def test_missing_model(tmp_path: Path) -> None:
    for model in ("no-such-model", tmp_path):
        with pytest.raises(ModelError, match=r"neither a shipped model .* nor a model directory"):
            ulcodec.load(model)


def damaged_at(coded: bytes, segment: int) -> bytes:
    """The file with one bit flipped in the middle of a segment's payload."""
    payload = Container.from_bytes(coded).segments[segment]
    position = coded.index(payload) + len(payload) // 2
    return coded[:position] + bytes([coded[position] ^ 4]) + coded[position + 1 :]


def transparent(pixels: np.ndarray) -> np.ndarray:
    """A soft disc of it."""
    height, width = pixels.shape[:2]
    row, column = np.mgrid[0:height, 0:width]
    distance = np.hypot(row - height / 2, column - width / 2)
    return (255 * np.clip((height / 2 - distance) / 8, 0, 1)).astype(np.uint8)


@pytest.mark.parametrize("grey", [False, True])
def test_alpha_is_kept_exactly(tiny_codec: Codec, picture: np.ndarray, grey: bool) -> None:
    pixels, alpha = picture[:, :, 0] if grey else picture, transparent(picture)
    decoded = tiny_codec.decode_array(tiny_codec.encode(np.dstack([pixels, alpha]), quality=90))
    np.testing.assert_array_equal(decoded[:, :, -1], alpha)
    opaque = tiny_codec.decode_array(tiny_codec.encode(pixels, quality=90))
    errors = [np.abs(a[alpha == 255] - np.dstack([pixels])[alpha == 255].astype(float)).mean()
              for a in (decoded[:, :, :-1], np.dstack([opaque]))]  # fmt: skip
    assert errors[0] < 1.2 * errors[1]
    image = tiny_codec.decode(tiny_codec.encode(Image.fromarray(np.dstack([pixels, alpha]))))
    assert image.mode == ("LA" if grey else "RGBA")


def test_hidden_colour_costs_nothing(tiny_codec: Codec, picture: np.ndarray) -> None:
    alpha = transparent(picture)
    noise = np.random.default_rng(0).integers(0, 256, picture.shape, dtype=np.uint8)
    noisy = np.where(alpha[:, :, None] > 0, picture, noise)
    assert tiny_codec.encode(np.dstack([noisy, alpha])) == tiny_codec.encode(np.dstack([picture, alpha]))
    hidden, shown = (np.full(alpha.shape, value, np.uint8) for value in (0, 254))
    assert len(tiny_codec.encode(np.dstack([noise, hidden]))) < len(tiny_codec.encode(np.dstack([noise, shown])))


def test_opaque_alpha_is_not_stored(tiny_codec: Codec, picture: np.ndarray) -> None:
    opaque = np.full(picture.shape[:2], 255, np.uint8)
    assert tiny_codec.encode(np.dstack([picture, opaque])) == tiny_codec.encode(picture)


def test_alpha_with_a_quality_of_its_own(tiny_codec: Codec, picture: np.ndarray) -> None:
    samples = np.dstack([picture, transparent(picture)])
    files = [tiny_codec.encode(samples, alpha_quality=quality) for quality in (0, 95)]
    errors = [np.abs(tiny_codec.decode_array(f)[:, :, 3].astype(int) - samples[:, :, 3]).mean() for f in files]
    assert errors[1] < errors[0]
    assert set(ulcodec.info(files[0])["attachment_bytes"]) == {"alpha_ulc"}
    with pytest.raises(ValueError, match="a whole number"):
        tiny_codec.encode(samples, alpha_quality=101)


def test_alpha_that_does_not_belong_to_its_picture(tiny_codec: Codec, picture: np.ndarray) -> None:
    container = Container.from_bytes(tiny_codec.encode(picture))
    grey, small = picture[:, :, 0], picture[:40, :, 0]
    nested = tiny_codec.encode(np.dstack([grey, grey]))
    for alpha in (
        tiny_codec.encode(picture),
        tiny_codec.encode(small),
        tiny_codec.encode(grey.astype(np.uint16)),
        nested,
    ):
        forged = dataclasses.replace(container, attachments=((Attachment.ALPHA_ULC, alpha),))
        with pytest.raises(FormatError):
            tiny_codec.decode(forged.to_bytes())


def test_sixteen_bits_in_and_out(tiny_codec: Codec, picture: np.ndarray) -> None:
    deep = picture.astype(np.uint16) * 257
    data = tiny_codec.encode(deep, quality=70)
    decoded = tiny_codec.decode_array(data)
    assert decoded.dtype == np.uint16
    shallow = tiny_codec.decode_array(tiny_codec.encode(picture, quality=70))
    assert np.abs(decoded / 257 - shallow).max() <= 0.51
    assert len(np.unique(decoded)) > 256
    assert ulcodec.info(data)["bit_depth"] == 16
    assert tiny_codec.decode(tiny_codec.encode(deep[:, :, 0])).mode == "I;16"
    assert tiny_codec.decode(data).mode == "RGB"


def test_metadata_goes_through(tiny_codec: Codec, picture: np.ndarray) -> None:
    whole = Picture(picture, None, b"a profile" * 99, b"MM\0*", b"<x/>")
    data = tiny_codec.encode(whole)
    decoded = tiny_codec.decode_picture(data)
    assert (decoded.icc, decoded.exif, decoded.xmp) == (whole.icc, whole.exif, whole.xmp)
    stripped = tiny_codec.decode_picture(tiny_codec.encode(whole, strip=True))
    assert (stripped.icc, stripped.exif, stripped.xmp) == (whole.icc, None, None)
    info = tiny_codec.decode(data).info
    assert info == {"icc_profile": whole.icc, "exif": b"Exif\0\0MM\0*", "xmp": b"<x/>"}
    assert len(data) < len(tiny_codec.encode(picture)) + 60


@pytest.mark.parametrize("tile", [4, 8, 12])
@pytest.mark.parametrize("size", [(37, 201), (130, 96), (16, 16), (65, 1)])
def test_tiles_change_neither_bytes_nor_pixels(
    tiny_codec: Codec, monkeypatch: pytest.MonkeyPatch, tile: int, size: tuple[int, int]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    data = tiny_codec.encode(noise)
    decoded = tiny_codec.decode_array(data)
    monkeypatch.setattr(tiling, "CODEC_TILE", tile)
    assert tiny_codec.encode(noise) == data
    np.testing.assert_array_equal(tiny_codec.decode_array(data), decoded)


def test_shipped_model_in_tiles(picture: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    small = ulcodec.load("small", device="cpu")
    wide = np.tile(picture, (2, 3, 1))
    data = small.encode(wide)
    decoded = small.decode_array(data)
    monkeypatch.setattr(tiling, "CODEC_TILE", 8)
    assert small.encode(wide) == data
    np.testing.assert_array_equal(small.decode_array(data), decoded)


@pytest.mark.parametrize("crop", [(0, 0, 96, 80), (5, 9, 1, 1), (40, 33, 50, 20), (95, 79, 1, 1), (0, 64, 96, 16)])
def test_crop_is_part_of_the_whole(
    tiny_codec: Codec, picture: np.ndarray, crop: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny_codec.encode(np.dstack([picture, transparent(picture)]))
    left, top, width, height = crop
    whole = tiny_codec.decode_array(data)[top : top + height, left : left + width]
    for tile in (128, 4):
        monkeypatch.setattr(tiling, "CODEC_TILE", tile)
        part = tiny_codec.decode_picture(data, crop=crop)
        np.testing.assert_array_equal(np.dstack([part.pixels, part.alpha]), whole)


@pytest.mark.parametrize("crop", [(0, 0, 97, 80), (-1, 0, 5, 5), (0, 0, 0, 5), (90, 79, 7, 1)])
def test_crop_outside_of_the_picture(tiny_codec: Codec, coded: bytes, crop: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="is not inside 96x80"):
        tiny_codec.decode_picture(coded, crop=crop)


def test_every_fraction_decodes(tiny_codec: Codec, picture: np.ndarray, coded: bytes) -> None:
    qualities = []
    for fraction in np.linspace(0, 1, 21):
        qualities.append(psnr_db(tiny_codec.decode_array(coded, fraction=fraction), picture))
    assert qualities[0] < qualities[10] < qualities[-1]
    container = Container.from_bytes(coded)
    for n in (1, 2, 3):
        cut = container.truncated(n).to_bytes()
        assert len(cut) < len(coded)
        part = tiny_codec.decode_array(coded, fraction=len(cut) / len(coded) + 1e-9)
        np.testing.assert_array_equal(tiny_codec.decode_array(cut), part)
        assert ulcodec.info(cut)["segment_bytes"] == [*(len(segment) for segment in container.segments[:n]), 0]


def test_a_cut_file_gives_the_sure_symbols_of_the_whole_one() -> None:
    """Elements of whole steps are exact, those of the step that was cut exact or the prior's mean."""
    small = ulcodec.load(device="cpu")
    photograph = load_image((files("skimage.data") / "coffee.png").read_bytes()).pixels[:192, :256]
    container = Container.from_bytes(small.encode(photograph, quality=60))
    whole = small.decode_latents(container).y_16
    steps = pass_map(small.model.config, latent_grid(container)).flatten(1).T
    for n, share in ((1, 0.5), (2, 0.1), (3, 0.9)):
        part = container.segments[n][: int(share * len(container.segments[n]))]
        cut = dataclasses.replace(container, segments=(*container.segments[:n], part), symbol_check=None)
        found = small.decode_latents(Container.from_bytes(cut.to_bytes())).y_16
        assert torch.equal(found[steps <= n], whole[steps <= n])
        now = steps == n + 1
        means = small.decode_latents(container.truncated(n)).y_16[now]
        sure = found[now] == whole[now]
        assert torch.equal(found[now][~sure], means[~sure])
        changed = whole[now] != means
        assert 0.8 * share < sure[changed].float().mean() < 1
    half = dataclasses.replace(container, segments=(container.segments[0][:-9] + b"\0", b""), symbol_check=None)
    with pytest.raises(CorruptDataError):
        small.decode_latents(half)


def test_recovery_shows_what_comes_before_the_damage(tiny_codec: Codec, picture: np.ndarray, coded: bytes) -> None:
    whole = tiny_codec.recover(coded)
    assert (whole.n_segments, whole.damage) == (4, None)
    np.testing.assert_array_equal(whole.picture.pixels, tiny_codec.decode_array(coded))
    quality_db = []
    for segment in (1, 2, 3):
        recovered = tiny_codec.recover(damaged_at(coded, segment))
        assert recovered.n_segments == segment
        assert isinstance(recovered.damage, ChecksumError)
        quality_db.append(psnr_db(recovered.picture.pixels, picture))
    assert 10 < quality_db[0] < quality_db[1] < quality_db[2] < psnr_db(whole.picture.pixels, picture)
    with pytest.raises(ChecksumError):
        tiny_codec.recover(damaged_at(coded, 0))


def test_recovery_of_a_cut_file(tiny_codec: Codec, picture: np.ndarray, coded: bytes) -> None:
    cut = tiny_codec.recover(coded[: coded.index(Container.from_bytes(coded).segments[2]) + 3])
    assert cut.n_segments == 2
    assert cut.picture.pixels.shape == picture.shape
    with pytest.raises(FormatError):
        tiny_codec.recover(coded[:20])


def test_recovery_ends_at_a_segment_that_no_encoder_writes(tiny_codec: Codec, coded: bytes) -> None:
    container = Container.from_bytes(coded)
    first, second, _, last = container.segments
    forged = dataclasses.replace(container, segments=(first, second, b"\xff" * 40, last)).to_bytes()
    with pytest.raises(CorruptDataError):
        tiny_codec.decode(forged)
    recovered = tiny_codec.recover(forged)
    assert recovered.n_segments == 2
    assert isinstance(recovered.damage, CorruptDataError)
