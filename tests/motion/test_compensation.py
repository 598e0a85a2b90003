"""Motion compensation against a slow definition in integers, and its golden bytes."""

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fields import pattern_field, random_field
from numpy.typing import NDArray

from ulcodec.motion.compensation import CELLS_AT_ONCE, compensate
from ulcodec.motion.field import MotionField, Use, grid_of

SHAPES = [(1, 1), (1, 1, 3), (17, 33), (17, 33, 3), (40, 24), (40, 24, 3), (9, 130, 3), (16, 16, 3)]

GOLDEN_HASHES = {
    (17, 33): "d5c2745d1f0b15b01f11805016379fab3b08443e8e7bccbe7239b6b9fd68ae1a",
    (40, 24, 3): "727001ec7ee4bb10a9e7e2c0c1637fbbd0438b3e886890fd017454f04e51bd61",
}
"""SHA-256 of predictions. They must never change: files of the format decode to them."""

FILTERS = [
    [0, 0, 0, 64, 0, 0, 0, 0],
    [-1, 4, -10, 58, 17, -5, 1, 0],
    [-1, 4, -11, 40, 40, -11, 4, -1],
    [0, 1, -5, 17, 58, -10, 4, -1],
]


def noise(shape: tuple[int, ...], seed: int) -> NDArray[np.uint8]:
    """Draw pixels, half of them 0 or 255."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < 0.5, rng.integers(0, 256, shape), 255 * rng.integers(0, 2, shape)).astype(
        np.uint8
    )


def slow_sample(reference: NDArray[np.int64], row: int, column: int, vector: NDArray[np.int32]) -> NDArray[np.int64]:
    """Interpolate one sample of a reference [H, W, C], in 16ths."""
    vertical, horizontal = (FILTERS[component & 3] for component in vector.tolist())
    rows = np.clip(row + (int(vector[0]) >> 2) + np.arange(-3, 5), 0, len(reference) - 1)
    columns = np.clip(column + (int(vector[1]) >> 2) + np.arange(-3, 5), 0, reference.shape[1] - 1)
    patch = reference[rows][:, columns]
    weights = np.array(vertical)[:, None, None] * np.array(horizontal)[:, None]
    return ((weights * patch).sum((0, 1)) + 128) >> 8


def slow_prediction(references: list[NDArray[np.uint8]], field: MotionField) -> NDArray[np.uint8]:
    """Predict a picture sample by sample, as the format states it."""
    shape, cells = references[0].shape, field.cells
    sources = [np.atleast_3d(reference).astype(np.int64) for reference in references]
    sums = np.zeros(sources[0].shape, np.int64)
    window = [1, 3, 5, 7, 9, 11, 13, 15, 15, 13, 11, 9, 7, 5, 3, 1]
    for y in range(shape[0]):
        for x in range(shape[1]):
            for i in ((y + 4) // 8 - 1, (y + 4) // 8):
                for j in ((x + 4) // 8 - 1, (x + 4) // 8):
                    row, column = min(max(i, 0), cells.shape[1] - 1), min(max(j, 0), cells.shape[2] - 1)
                    weight = window[y - 8 * i + 4] * window[x - 8 * j + 4]
                    use = Use(int(field.uses[row // 2, column // 2]))
                    multipliers = {Use.BOTH: (1, 1), Use.FIRST: (2, 0), Use.SECOND: (0, 2)}[use]
                    for source, vectors, multiplier in zip(sources, cells, multipliers, strict=False):
                        sums[y, x] += weight * multiplier * slow_sample(source, y, x, vectors[row, column])
    return np.clip((sums + 4096) >> 13, 0, 255).astype(np.uint8).reshape(shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n_references", [1, 2])
@pytest.mark.parametrize("largest", [3, 120, 2**13])
def test_equals_the_slow_definition(shape: tuple[int, ...], n_references: int, largest: int) -> None:
    references = [noise(shape, seed) for seed in range(n_references)]
    field = random_field(n_references, grid_of(*shape[:2]), largest, seed=len(shape))
    np.testing.assert_array_equal(compensate(references, field), slow_prediction(references, field))


def test_chunks_of_rows_join() -> None:
    """A picture so wide that one chunk holds one row of cells, and a narrow one with all rows in few chunks."""
    wide, narrow = (40, 8 * CELLS_AT_ONCE + 16), (400, 20)
    for shape in (wide, narrow):
        reference = noise(shape, 0)
        field = random_field(1, grid_of(*shape), 50, seed=1)
        whole = compensate([reference], field)
        crop = (slice(0, 40), slice(0, 40))
        np.testing.assert_array_equal(whole[crop], slow_crop(reference, field, 40))


def slow_crop(reference: NDArray[np.uint8], field: MotionField, side_px: int) -> NDArray[np.uint8]:
    """Predict the first pixels of a picture: the reference and the field beyond them do not matter."""
    height, width = (min(side, side_px + 80) for side in reference.shape)
    rows, columns = grid_of(height, width)
    part = MotionField(field.uses[:rows, :columns], field.vectors[:, :rows, :columns], field.deltas[:, :rows, :columns])
    return slow_prediction([reference[:height, :width]], part)[:side_px, :side_px]


def test_zero_motion_returns_the_reference() -> None:
    reference = noise((37, 50, 3), 0)
    for n_references in (1, 2):
        field = MotionField.zero(n_references, (3, 4))
        np.testing.assert_array_equal(compensate([reference] * n_references, field), reference)


def test_whole_pixel_motion_moves_the_reference() -> None:
    reference = noise((64, 80, 3), 0)
    field = MotionField(
        np.full((4, 5), Use.FIRST, np.uint8),
        np.broadcast_to(np.array([8, -12], np.int32), (1, 4, 5, 2)),
        np.zeros((1, 4, 5, 2, 2, 2), np.int32),
    )
    np.testing.assert_array_equal(compensate([reference], field)[:60, 5:], reference[2:62, 2:77])


def test_vectors_of_unused_references_do_not_matter() -> None:
    references = [noise((40, 24, 3), seed) for seed in range(2)]
    field = random_field(2, (3, 2), 40, seed=3)
    vectors = np.where(field.used[..., None], field.vectors, -7).astype(np.int32)
    deltas = np.where(field.used[..., None, None, None], field.deltas, 0).astype(np.int32)
    other = MotionField(field.uses, vectors, deltas)
    np.testing.assert_array_equal(compensate(references, field), compensate(references, other))


@pytest.mark.parametrize("shape", list(GOLDEN_HASHES))
def test_golden_predictions(shape: tuple[int, ...]) -> None:
    assert golden_hash(shape) == GOLDEN_HASHES[shape]


def golden_hash(shape: tuple[int, ...]) -> str:
    references = [_pattern(shape, 7), _pattern(shape, 11)]
    prediction = compensate(references, pattern_field(2, grid_of(*shape[:2])))
    return hashlib.sha256(prediction.tobytes()).hexdigest()


def _pattern(shape: tuple[int, ...], factor: int) -> NDArray[np.uint8]:
    """Make pixels without a random number generator, whose numbers may change."""
    positions = np.arange(int(np.prod(shape)), dtype=np.int64)
    return ((positions * positions * factor + 13 * positions) % 251).astype(np.uint8).reshape(shape)


def test_concurrent_calls_do_not_change_the_prediction() -> None:
    references = [noise((120, 200, 3), seed) for seed in range(2)]
    field = random_field(2, grid_of(120, 200), 100, seed=5)
    expected = compensate(references, field)
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: compensate(references, field), range(8)):
            np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_number_of_threads_does_not_change_the_prediction(n_threads: int) -> None:
    """NumPy's library of linear algebra reads its number of threads when the process starts."""
    code = "import test_compensation as t; print(t.golden_hash((40, 24, 3)))"
    threads = {f"{library}_NUM_THREADS": str(n_threads) for library in ("OMP", "OPENBLAS", "MKL")}
    environment = {**os.environ, **threads, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == GOLDEN_HASHES[40, 24, 3]


def test_references_must_fit() -> None:
    picture, field = noise((20, 20), 0), MotionField.zero(1, (2, 2))
    for references in ([], [picture, picture], [picture.astype(np.int32)], [picture[:16]], [picture[0]]):
        with pytest.raises(ValueError, match=r"references|picture"):
            compensate(references, field)
    with pytest.raises(ValueError, match="one shape"):
        compensate([picture, picture[:19]], MotionField.zero(2, (2, 2)))
