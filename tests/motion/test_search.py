"""Motion search: known motion of textured pictures, and pictures of any size."""

import numpy as np
import pytest
from numpy.typing import NDArray

from ulcodec.motion import search
from ulcodec.motion.coding import decode_field, encode_field
from ulcodec.motion.compensation import compensate
from ulcodec.motion.field import MotionField, Use, grid_of
from ulcodec.motion.search import Reference, find_motion

LAGRANGIAN = 0.02


def texture(height_px: int, width_px: int, seed: int = 0, scale: int = 1) -> NDArray[np.float64]:
    """Make a smooth random texture in [0, 255] with `scale` samples a pixel, [H scale, W scale]."""
    rng = np.random.default_rng(seed)
    frequencies = [np.fft.fftfreq(length)[:, None] * scale for length in (height_px * scale, width_px * scale)]
    radius = np.hypot(frequencies[0], frequencies[1].T)
    noise = np.fft.fft2(rng.normal(size=radius.shape)) * np.exp(-((radius / 0.12) ** 2))
    samples = np.fft.ifft2(noise).real
    return np.clip(128 + 45 * samples / samples.std(), 0, 255)


def moved(samples: NDArray[np.float64], down: int, right: int, scale: int = 1) -> NDArray[np.uint8]:
    """Return the picture whose motion vector to the texture is (down, right), in samples."""
    return np.roll(samples, (-down, -right), axis=(0, 1))[::scale, ::scale].round().astype(np.uint8)


def mse(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(np.mean((a.astype(np.float64) - b) ** 2))


@pytest.mark.parametrize("shift_px", [(3, -5), (-21, 37), (0, 1)])
def test_finds_a_shift_by_whole_pixels(shift_px: tuple[int, int]) -> None:
    samples = texture(144, 176)
    field = find_motion(moved(samples, *shift_px), [Reference(moved(samples, 0, 0))], LAGRANGIAN)
    inner = field.vectors[0, 2:-2, 3:-3]
    np.testing.assert_array_equal(inner, np.broadcast_to(4 * np.array(shift_px), inner.shape))
    assert not field.deltas[0, 2:-2, 3:-3].any()


def test_finds_a_shift_by_fractions_of_pixels() -> None:
    samples = texture(96, 128, scale=4)
    for shift in ((2, -2), (9, 3)):
        field = find_motion(moved(samples, *shift, scale=4), [Reference(moved(samples, 0, 0, scale=4))], LAGRANGIAN)
        inner = field.vectors[0, 1:-1, 1:-1]
        np.testing.assert_array_equal(inner, np.broadcast_to(shift, inner.shape))


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (5, 3, 3), (33, 50, 3), (64, 64)])
@pytest.mark.parametrize("n_references", [1, 2])
def test_identical_pictures_have_no_motion(shape: tuple[int, ...], n_references: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    field = find_motion(picture, [Reference(picture)] * n_references, LAGRANGIAN)
    assert field.grid == grid_of(*shape[:2])
    assert not field.vectors.any()
    assert not field.deltas.any()
    np.testing.assert_array_equal(compensate([picture] * n_references, field), picture)


def test_flat_pictures_have_no_motion() -> None:
    field = find_motion(np.full((40, 56), 90, np.uint8), [Reference(np.full((40, 56), 91, np.uint8))], LAGRANGIAN)
    assert not field.vectors.any()


@pytest.mark.parametrize("shape", [(1, 1), (2, 300, 3), (17, 33), (90, 70, 3)])
@pytest.mark.parametrize("n_references", [1, 2])
@pytest.mark.parametrize("thoroughness", [0, 2])
def test_pictures_of_any_size(shape: tuple[int, ...], n_references: int, thoroughness: int) -> None:
    """Noise has no motion to find, but the field must be legal, and its prediction no worse than without motion."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, shape, dtype=np.uint8)
    others = [rng.integers(0, 256, shape, dtype=np.uint8) for _ in range(n_references)]
    field = find_motion(picture, [Reference(other) for other in others], LAGRANGIAN, thoroughness)
    assert decode_field(encode_field(field), n_references, field.grid).grid == field.grid
    still = compensate(others, MotionField.zero(n_references, field.grid))
    assert mse(compensate(others, field), picture) <= 1.05 * mse(still, picture)


def test_two_objects_are_split_at_their_border() -> None:
    """The border between two motions lies in the middle of a block."""
    near, far = texture(96, 128, seed=1), texture(96, 128, seed=2)
    before = np.where(np.arange(128) < 72, moved(near, 0, 0), moved(far, 0, 0))
    after = np.where(np.arange(128) < 72, moved(near, 0, 6), moved(far, 0, -6))
    field = find_motion(after, [Reference(before)], LAGRANGIAN)
    is_split = field.deltas[0].any(axis=(2, 3, 4))
    assert is_split[:, 4].mean() > 0.6
    assert is_split.mean() < 0.4
    np.testing.assert_array_equal(field.cells[0, 2:-2, 2:7].reshape(-1, 2), [[0, 24]] * 40)


def test_covered_parts_use_the_other_reference() -> None:
    """Each reference lacks one half of the picture; its noise makes the mean of both better where both show it."""
    samples, noise = texture(96, 144), np.random.default_rng(0).normal(0, 6, (2, 96, 144))
    picture = moved(samples, 0, 0)
    first, second = (np.clip(picture + n, 0, 255).round().astype(np.uint8) for n in noise)
    first[:, :48], second[:, 96:] = 0, 0
    field = find_motion(picture, [Reference(first), Reference(second)], LAGRANGIAN)
    assert (field.uses[:, :3] == Use.SECOND).mean() > 0.9
    assert (field.uses[:, 4] == Use.BOTH).mean() > 0.9
    assert (field.uses[:, 6:] == Use.FIRST).mean() > 0.9


def test_bits_fall_with_the_lagrangian() -> None:
    rng = np.random.default_rng(0)
    reference = Reference(moved(texture(96, 128), 0, 0))
    picture = np.clip(moved(texture(96, 128), 2, 3) + rng.normal(0, 15, (96, 128)), 0, 255).astype(np.uint8)
    n_bytes = [len(encode_field(find_motion(picture, [reference], weight))) for weight in (0.5, 0.02, 0.001)]
    assert n_bytes == sorted(n_bytes, reverse=True)
    assert n_bytes[0] > n_bytes[-1]


def test_overlapped_sums_are_the_prediction() -> None:
    """Polishing works on float sums of the same windows that the decoder adds."""
    samples = texture(40, 56)
    picture, others = moved(samples, 0, 0), [moved(samples, 3, 1), moved(samples, -2, 4)]
    picture[10:30, 20:30] = 0
    references = [Reference(other) for other in others]
    field = find_motion(picture, references, LAGRANGIAN, thoroughness=0)
    cells = search.windows_around(search.luma_of(picture), 8)
    overlapped = search.Overlapped(search.luma_of(picture), references, field, cells)
    before = overlapped.predicted[4:44, 4:60].copy()
    assert np.abs(before - compensate(others, field)).max() < 1.5
    blocks = search.windows_around(search.luma_of(picture), 16)
    field = overlapped.polish_cells(overlapped.polish_blocks(field, blocks, 1.0), cells, 1.0)
    assert np.abs(overlapped.predicted[4:44, 4:60] - compensate(others, field)).max() < 1.5
    assert np.abs(before - overlapped.predicted[4:44, 4:60]).max() > 0.1


def test_references_must_fit() -> None:
    picture = np.zeros((20, 20), np.uint8)
    reference, other = Reference(picture), Reference(np.zeros((20, 21), np.uint8))
    for references in ([], [reference] * 3, [reference, other]):
        with pytest.raises(ValueError, match="1 or 2 references"):
            find_motion(picture, references, LAGRANGIAN)
    for lagrangian, thoroughness in ((0.0, 1), (float("nan"), 1), (1.0, -1)):
        with pytest.raises(ValueError, match="lagrangian"):
            find_motion(picture, [reference], lagrangian, thoroughness)
