"""Files whose latents a network refines."""

import io
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ulcodec.codec import tiling
from ulcodec.codec.effort import Refinement, refinement_of
from ulcodec.codec.image import Codec, Encoding, encode_batch
from ulcodec.codec.networks import Array
from ulcodec.codec.rate_control import encode_to_size
from ulcodec.codec.torch_networks import TorchNetworks
from ulcodec.coding.latents import SimulatedCoding
from ulcodec.errors import ModelError
from ulcodec.format.container import Container
from ulcodec.io.picture import Picture
from ulcodec.model.prior import LOG_SCALE_STEP, SCALE_MIN
from ulcodec.model.refiner_config import LARGEST_STEP, STILL_SCALE, STILL_TABLES
from ulcodec.model.tiles import Tile


def segments_of(data: bytes) -> tuple[bytes, ...]:
    return Container.from_bytes(data).segments


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Array]]:
    """Record what the refiner sees."""
    inputs, refine = list[dict[str, Array]](), TorchNetworks.refine

    def record(self: TorchNetworks, latent: Array, rounding: Array, error: Array, quality: int, tile: Tile) -> Array:
        inputs.append({"latent": latent, "rounding": rounding, "error": error})
        return refine(self, latent, rounding, error, quality, tile)

    monkeypatch.setattr(TorchNetworks, "refine", record)
    return inputs


def test_effort_2_is_the_refiner_if_there_is_one() -> None:
    assert refinement_of(1, has_refiner=True) == Refinement(0)
    assert refinement_of(2, has_refiner=True) == Refinement(by_refiner=True)
    assert refinement_of(2, has_refiner=False) == Refinement(1)
    assert refinement_of(3, has_refiner=True) == Refinement(2)


def test_pictures_are_refined_by_default(refined_codec: Codec, tiny_codec: Codec, picture: np.ndarray) -> None:
    assert (refined_codec.default_effort, tiny_codec.default_effort) == (2, 1)
    refined, plain = (refined_codec.encode(picture, quality=60, effort=effort) for effort in (2, 1))
    assert refined_codec.encode(picture, quality=60) == refined
    assert encode_batch(refined_codec, [picture], quality=60) == [refined]
    assert tiny_codec.encode(picture, quality=60) == plain
    clips = [b"".join(refined_codec.encode_video([picture], quality=60, **option)) for option in ({}, {"effort": 1})]
    assert clips[0] == clips[1]


def test_refined_files_are_other_files_of_the_same_codec(
    refined_codec: Codec, tiny_codec: Codec, picture: np.ndarray
) -> None:
    files = [refined_codec.encode(picture, quality=60, effort=effort) for effort in (1, 2)]
    assert files[0] == tiny_codec.encode(picture, quality=60)
    plain, refined = map(segments_of, files)
    assert all(one != other for one, other in zip(plain, refined, strict=True))
    assert not np.array_equal(*map(tiny_codec.decode_array, files))


@pytest.mark.parametrize("shape", [(80, 96, 3), (37, 51, 3), (80, 96), (1, 1, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_refiner_sees_the_error_of_the_file_without_it(
    refined_codec: Codec, picture: np.ndarray, shape: tuple[int, ...], dtype: Any, seen: list[dict[str, Array]]
) -> None:
    original = picture[: shape[0], : shape[1]].astype(dtype) * (257 if dtype == np.uint16 else 1)
    original = original[:, :, 0] if len(shape) == 2 else original
    refined_codec.encode(original, quality=60, effort=2)
    [inputs] = seen
    decoded = refined_codec.decode_array(refined_codec.encode(original, quality=60, effort=1)).astype(np.float64)
    error = (original - decoded) / np.iinfo(dtype).max
    rounding = 0.51 / np.iinfo(dtype).max
    height, width = shape[:2]
    in_picture = inputs["error"][0, :height, :width]
    np.testing.assert_allclose(in_picture, error if error.ndim == 3 else np.dstack([error] * 3), atol=rounding)
    assert not inputs["error"][0, height:].any()
    assert not inputs["error"][0, :, width:].any()


def test_elements_move_by_four_fifths_of_a_step_unless_they_are_surely_zero(
    refined_codec: Codec, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks, rng = refined_codec.networks, np.random.default_rng(0)
    y = rng.normal(size=(2, 5, 6, networks.config.latent_channels)).astype(np.float32)
    tables = rng.integers(0, 12, y.shape, dtype=np.uint8)
    coded = SimulatedCoding(np.rint(16 * y).astype(np.int32), tables)
    steps, seen = rng.normal(size=y.shape).astype(np.float32), []

    def refine(self: TorchNetworks, latent: Array, rounding: Array, *_: object) -> Array:
        seen.append(rounding)
        return steps.copy()

    monkeypatch.setattr(TorchNetworks, "refine", refine)
    before, refined = y.copy(), tiling.refined_latents(networks, [picture, picture], y, 60, coded)
    assert np.array_equal(y, before)
    may_move = tables >= STILL_TABLES
    np.testing.assert_allclose(refined, y + 0.8 * steps * may_move, atol=1e-6)
    np.testing.assert_allclose(seen[0], (coded.y_16 / 16 - y) * may_move, atol=1e-6)


@pytest.mark.parametrize("tile", [4, 8])
@pytest.mark.parametrize("size", [(37, 201), (130, 96), (16, 16)])
def test_tiles_change_nothing(
    refined_codec: Codec, monkeypatch: pytest.MonkeyPatch, tile: int, size: tuple[int, int]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    data = refined_codec.encode(noise, effort=2)
    monkeypatch.setattr(tiling, "CODEC_TILE", tile)
    assert refined_codec.encode(noise, effort=2) == data


def test_batches_equal_single_pictures(refined_codec: Codec, picture: np.ndarray) -> None:
    originals = [picture, picture[:, :, 0], picture[::-1], picture[:37, :51]]
    files = encode_batch(refined_codec, originals, quality=60, effort=2)
    assert files == [refined_codec.encode(original, quality=60, effort=2) for original in originals]


def test_thrift_and_target_sizes(refined_codec: Codec, picture: np.ndarray) -> None:
    encoding = Encoding(refined_codec, Picture(picture), effort=2)
    assert encoding.code(90) == refined_codec.encode(picture, quality=90, effort=2)
    assert len(encoding.code(90, 8.0)) < len(encoding.code(90))
    limit = len(encoding.code(90)) - 5
    assert len(encode_to_size(refined_codec, Picture(picture), limit, effort=2)) <= limit


@pytest.mark.usefixtures("in_float32")
def test_intra_frames_are_refined(refined_codec: Codec, picture: np.ndarray) -> None:
    clips = [b"".join(refined_codec.encode_video([picture], quality=60, effort=effort)) for effort in (1, 2)]
    assert clips[0] != clips[1]
    [frame] = refined_codec.decode_video(io.BytesIO(clips[1]))
    expected = refined_codec.decode_array(refined_codec.encode(picture, quality=60, effort=2))
    assert np.abs(frame.pixels.astype(int) - expected).max() <= 1


def test_steps_that_are_not_finite_are_refused(
    refined_codec: Codec, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TorchNetworks, "refine", lambda self, latent, *_: np.full_like(latent, np.nan))
    with pytest.raises(ModelError, match="steps are not finite"):
        refined_codec.encode(picture, effort=2)


def test_steps_are_limited(refined_codec: Codec) -> None:
    inputs = [np.full((1, 16 * scale, 16 * scale, n), 1e6, np.float32) for scale, n in ((1, 32), (1, 32), (16, 3))]
    tile = tiling.tiles((16, 16), 96, 0)[0]
    step = refined_codec.networks.refine(*inputs, 50, tile)
    assert np.abs(step).max() == LARGEST_STEP


def test_tables_of_elements_that_are_surely_zero() -> None:
    assert round(math.log(STILL_SCALE / SCALE_MIN) / LOG_SCALE_STEP) == STILL_TABLES


def test_model_without_a_refiner(tiny_codec: Codec, picture: np.ndarray) -> None:
    files = [tiny_codec.encode(picture, quality=60, effort=effort) for effort in (1, 2)]
    assert segments_of(files[0])[0] != segments_of(files[1])[0]
    networks = replace(tiny_codec.networks, refiner=None)  # type: ignore[type-var]
    with pytest.raises(ModelError, match="no refiner"):
        networks.refine(*[np.zeros((1, 1, 1, 32), np.float32)] * 3, 50, None)  # type: ignore[arg-type]
