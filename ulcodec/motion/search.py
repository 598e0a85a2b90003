"""Motion search of the encoder. A decoder does not need it, and its results need not be the same on all machines.

Errors are sums of absolute differences of luma in overlapping windows, weighted as in `compensation`. Vectors cost the
bits that `coding` needs for them if their neighbours are those of the previous round.

1. Full search on luma reduced by 4, with support of the neighbouring blocks.
2. Rounds over all blocks at once: vectors of the neighbours, then refinement to whole, half and quarter pixels.
3. With two references, refinement of each vector while the other reference's prediction is fixed; choice of the uses.
4. Vectors of cells, and the choice of the blocks to split.
5. Rounds of polishing against the overlapped prediction itself: a quarter of the windows at a time, which do not
   overlap, while the others are fixed.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ulcodec.coding.range_coder import TOTAL
from ulcodec.coding.symbols import ESCAPE_HEAD_BITS
from ulcodec.motion.coding import (
    DELTA_TABLES,
    DOWN,
    LARGEST_IN_TABLE,
    RIGHT,
    SPLIT_TABLES,
    TABLES,
    VECTOR_TABLES,
    difference_tables,
)
from ulcodec.motion.compensation import OVERLAP_PX, TAPS, TAPS_BEFORE, WINDOW
from ulcodec.motion.field import BLOCK_PX, CELL_PX, MAX_VECTOR, USED, VECTOR_SCALE, Grid, MotionField, Use, grid_of

Float32Array = NDArray[np.float32]
Int32Array = NDArray[np.int32]
BoolArray = NDArray[np.bool_]
Pixels = NDArray[np.uint8]

DEFAULT_THOROUGHNESS = 2
"""More rounds gain less than 0.02 dB each."""

LUMA_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)

REDUCTION = 4
COARSE_REACH = 16
"""Reach of the full search in pixels of the reduced picture."""
COARSE_ERROR_SCALE = 0.6
"""Factor for errors of reduced luma, which lack detail and thus weigh less against bits."""
COARSE_TABLE = VECTOR_TABLES + 6
"""Table for the bits of vectors whose neighbours are not known yet."""
SUPPORT = 0.5
"""Weight of the mean error of 3x3 blocks in the full search."""

MARGIN_PX = 32
"""Pixels around a reference that windows may use. Further outside, all samples of a row or column are equal."""

SAMPLES_AT_ONCE = 2**17
"""Number of samples that are compared together, so that they stay in the cache."""

FAR_PX, NEAR_PX = 3, 1
"""Reach of the refinement to whole pixels in the first round, and in later ones."""


# Pictures


class Reference:
    """A decoded picture, uint8 [H, W, 3] or [H, W], with what searches need of it. It can serve many searches."""

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels
        self.luma = luma_of(pixels)

    @cached_property
    def reduced(self) -> Float32Array:
        """Luma reduced by `REDUCTION`, of whole blocks."""
        return reduce_luma(_pad_to_blocks(self.luma))

    @cached_property
    def phases(self) -> Pixels:
        """Luma at all quarter-pixel phases with a margin, [4, 4, H' + 2 M, W' + 2 M], where H' and W' are whole blocks.

        Rounded to 8 bits: the error is small beside that of coding, and there are 16 of these planes.
        """
        padded = _pad_to_blocks(self.luma, MARGIN_PX + TAPS_BEFORE, MARGIN_PX + TAPS.shape[1] - 1 - TAPS_BEFORE)
        n_rows, n_columns = (length - TAPS.shape[1] + 1 for length in padded.shape)
        phases = np.empty((VECTOR_SCALE, VECTOR_SCALE, n_rows, n_columns), np.uint8)
        for vertical, taps in enumerate(TAPS):
            rows = _filter_rows(padded, taps)
            for horizontal, other_taps in enumerate(TAPS):
                samples = _filter_rows(rows.T, other_taps).T
                phases[vertical, horizontal] = np.clip(samples + 0.5, 0, 255)
        return phases

    def windows(self, top: Int32Array, left: Int32Array, vectors: Int32Array, side_px: int) -> Pixels:
        """Return the luma of windows, [..., side, side].

        They lie at rows `top` and columns `left`, displaced by vectors [..., 2].
        """
        n_rows, n_columns = self.phases.shape[2:]
        whole, phase = vectors // VECTOR_SCALE, vectors % VECTOR_SCALE
        rows = np.clip(top + whole[..., DOWN] + MARGIN_PX, 0, n_rows - side_px)
        columns = np.clip(left + whole[..., RIGHT] + MARGIN_PX, 0, n_columns - side_px)
        views = np.lib.stride_tricks.sliding_window_view(self.phases, (side_px, side_px), axis=(2, 3))
        return np.asarray(views[phase[..., DOWN], phase[..., RIGHT], rows, columns])


def luma_of(pixels: Pixels) -> Float32Array:
    """Return the luma [H, W], rounded like that of `Reference.phases`, so that equal pictures have no error."""
    luma = pixels.astype(np.float32)
    return luma if luma.ndim == 2 else np.rint(luma @ LUMA_WEIGHTS)


def reduce_luma(luma: Float32Array) -> Float32Array:
    height, width = luma.shape
    reduced = luma.reshape(height // REDUCTION, REDUCTION, width // REDUCTION, REDUCTION).mean(axis=(1, 3))
    return np.asarray(reduced, np.float32)


def _filter_rows(samples: Float32Array, taps: NDArray[np.integer[Any]]) -> Float32Array:
    n_rows = len(samples) - len(taps) + 1
    filtered = np.zeros((n_rows, samples.shape[1]), np.float32)
    for first, tap in enumerate(taps.tolist()):
        if tap:
            filtered += np.float32(tap / taps.sum()) * samples[first : first + n_rows]
    return filtered


def _pad_to_blocks(luma: Float32Array, before_px: int = 0, after_px: int = 0) -> Float32Array:
    """Repeat the border, to whole blocks and a margin."""
    height, width = luma.shape
    padding = [(before_px, -length % BLOCK_PX + after_px) for length in (height, width)]
    return np.pad(luma, padding, mode="edge")


# Bits


def _difference_bits() -> Float32Array:
    """Return the bits of differences by table and magnitude, up to that of the largest difference."""
    magnitudes = np.arange(2 * MAX_VECTOR + 1)
    frequencies = TABLES.frequencies[:SPLIT_TABLES].astype(np.float64)
    of_escape = ESCAPE_HEAD_BITS + np.log2(np.maximum(magnitudes - LARGEST_IN_TABLE, 1))
    inside = frequencies[:, LARGEST_IN_TABLE + np.minimum(magnitudes, LARGEST_IN_TABLE)]
    escapes = frequencies[:, [2 * LARGEST_IN_TABLE + 1]]
    is_inside = magnitudes <= LARGEST_IN_TABLE
    bits = np.log2(TOTAL) - np.where(is_inside, np.log2(inside), np.log2(escapes)) + np.where(is_inside, 0, of_escape)
    return np.asarray(bits, np.float32)


DIFFERENCE_BITS = _difference_bits()
UNSPLIT_BITS, SPLIT_BITS = 0.3, 4.0
"""Typical bits of a split flag."""
USE_BITS = np.array([0.4, 2.2, 2.2], np.float32)
"""Typical bits of a use, by `Use`."""


class Expectation(NamedTuple):
    """What the coder expects of vectors: prediction and spread, both [N, 2], and the first table."""

    prediction: Int32Array
    spread: Int32Array
    first_table: int

    def bits(self, vectors: Int32Array) -> Float32Array:
        """Return the bits of vectors [N, K, 2]: [N, K]."""
        differences, spread = vectors - self.prediction[:, None], self.spread[:, None]
        magnitudes = np.abs(differences)
        total = np.zeros(vectors.shape[:2], np.float32)
        for axis in (DOWN, RIGHT):
            tables = difference_tables(self.first_table, spread, differences, axis)
            total += DIFFERENCE_BITS[tables, magnitudes[..., axis]]
        return total

    def take(self, chosen: NDArray[np.intp]) -> "Expectation":
        return self._replace(prediction=self.prediction[chosen], spread=self.spread[chosen])


def neighbours(vectors: Int32Array) -> Int32Array:
    """Return the vectors above, below, left and right: [h, w, 2] -> [4, h, w, 2]. The border is repeated."""
    padded = np.pad(vectors, ((1, 1), (1, 1), (0, 0)), mode="edge")
    return np.stack([padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]])


def expect_vectors(vectors: Int32Array) -> Expectation:
    """Return what the coder expects of blocks if their four neighbours are known."""
    ordered = np.sort(neighbours(vectors), axis=0)
    prediction = (ordered[1] + ordered[2]) >> 1
    return Expectation(prediction.reshape(-1, 2), (ordered[3] - ordered[0]).reshape(-1, 2), VECTOR_TABLES)


def expect_cells(vectors: Int32Array) -> tuple[Expectation, Int32Array]:
    """Return what the coder expects of cells, and the vectors of the three nearest blocks, [4 h w, 3, 2]."""
    above, below, left, right = neighbours(vectors)
    own = cells_of(vectors)
    vertical = np.where(np.arange(len(own))[:, None, None] % 2, cells_of(below), cells_of(above))
    horizontal = np.where(np.arange(own.shape[1])[:, None] % 2, cells_of(right), cells_of(left))
    spread = np.abs(vertical - own) + np.abs(horizontal - own)
    near = np.stack([vertical, horizontal, vertical + horizontal - own], axis=2)
    return Expectation(own.reshape(-1, 2), spread.reshape(-1, 2), DELTA_TABLES), near.reshape(-1, 3, 2)


def cells_of(blocks: NDArray[Any]) -> NDArray[Any]:
    """Repeat values of blocks for their cells: [h, w, ...] -> [2 h, 2 w, ...]."""
    return blocks.repeat(2, axis=0).repeat(2, axis=1)


# Errors


class Windows(NamedTuple):
    """Windows of `size` + 8 pixels around blocks or cells, and the target that a vector's samples should come near.

    The error of a prediction is the sum of `|target - weights * samples|`. `target` and `weights` [N, side, side];
    `top` and `left` [N], in pixels.
    """

    target: Float32Array
    weights: Float32Array
    top: Int32Array
    left: Int32Array

    @property
    def side_px(self) -> int:
        return int(self.target.shape[1])

    def take(self, chosen: NDArray[np.intp]) -> "Windows":
        return Windows(self.target[chosen], self.weights[chosen], self.top[chosen], self.left[chosen])

    def predict(self, reference: Reference, vectors: Int32Array) -> Float32Array:
        """Return the weighted samples [N, side, side] at vectors [N, 2]."""
        return reference.windows(self.top, self.left, vectors, self.side_px) * self.weights

    def errors(self, reference: Reference, vectors: Int32Array) -> Float32Array:
        """Return the errors of candidates [N, K, 2]: [N, K]."""
        errors = np.empty(vectors.shape[:2], np.float32)
        for part in self._parts(vectors.shape[1]):
            top, left = self.top[part, None], self.left[part, None]
            errors[part] = self._errors(part, reference.windows(top, left, vectors[part], self.side_px))
        return errors

    def nearby_errors(self, reference: Reference, centres: Int32Array, reach_px: int) -> Float32Array:
        """Return the errors at all whole pixels near vectors [N, 2], in the order of `offsets`: [N, K]."""
        n = 2 * reach_px + 1
        errors = np.empty((len(centres), n * n), np.float32)
        first = centres - VECTOR_SCALE * reach_px
        for part in self._parts(n * n):
            areas = reference.windows(self.top[part], self.left[part], first[part], self.side_px + 2 * reach_px)
            views = np.lib.stride_tricks.sliding_window_view(areas, (self.side_px, self.side_px), axis=(1, 2))
            errors[part] = self._errors(part, views.reshape(len(areas), n * n, self.side_px, self.side_px))
        return errors

    def _parts(self, n_candidates: int) -> list[slice]:
        n_at_once = max(1, SAMPLES_AT_ONCE // (n_candidates * self.side_px**2))
        return [slice(start, start + n_at_once) for start in range(0, len(self.top), n_at_once)]

    def _errors(self, part: slice, samples: Pixels) -> Float32Array:
        differences = samples * self.weights[part, None]
        differences -= self.target[part, None]
        return _absolute_sums(differences)


def _absolute_sums(differences: Float32Array) -> Float32Array:
    """Return the sums of the magnitudes of windows [..., side, side]. Overwrites its argument."""
    np.abs(differences, out=differences)
    n_samples = differences.shape[-2] * differences.shape[-1]
    return np.asarray(differences.reshape(*differences.shape[:-2], n_samples) @ np.ones(n_samples, np.float32))


def windows_around(luma: Float32Array, size_px: int) -> Windows:
    """Return the windows of all blocks or cells of a picture, in raster order. The target is the picture."""
    grid = [length * BLOCK_PX // size_px for length in grid_of(*luma.shape)]
    side_px = size_px + 2 * OVERLAP_PX
    padded = _pad_to_blocks(luma, OVERLAP_PX, OVERLAP_PX)
    views = np.lib.stride_tricks.sliding_window_view(padded, (side_px, side_px))[::size_px, ::size_px]
    rows, columns = (_profiles(n, size_px, length) for n, length in zip(grid, luma.shape, strict=True))
    weights = (rows[:, None, :, None] * columns[:, None, :]).reshape(-1, side_px, side_px)
    top, left = (axis.ravel() * size_px - OVERLAP_PX for axis in np.mgrid[: grid[0], : grid[1]].astype(np.int32))
    return Windows(views.reshape(weights.shape) * weights, weights, top, left)


def _profiles(n: int, size_px: int, length_px: int) -> Float32Array:
    """Return the weights along one axis of the windows of n blocks or cells, [n, side].

    Blocks at the border have its pixels for themselves. Pixels outside of the picture do not count.
    """
    profile = np.full(size_px + 2 * OVERLAP_PX, 1, np.float32)
    ramp = WINDOW[: 2 * OVERLAP_PX] / (2 * WINDOW[: 2 * OVERLAP_PX].mean())
    profile[: len(ramp)], profile[-len(ramp) :] = ramp, ramp[::-1]
    profiles = np.tile(profile, (n, 1))
    profiles[0, : len(ramp)] = 1
    profiles[-1, -len(ramp) :] = 1
    positions = np.arange(n)[:, None] * size_px - OVERLAP_PX + np.arange(len(profile))
    return np.where((positions >= 0) & (positions < length_px), profiles, 0).astype(np.float32)


def offsets(reach: int, step: int) -> Int32Array:
    """Return all vectors of up to `reach` steps in each direction, [K, 2]."""
    steps = np.arange(-reach, reach + 1, dtype=np.int32) * step
    return np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)


HALF_PIXEL, QUARTER_PIXEL = offsets(1, 2), offsets(1, 1)


class Found(NamedTuple):
    """Vectors [N, 2] and their costs [N]."""

    vectors: Int32Array
    costs: Float32Array


class Search(NamedTuple):
    """A search of windows in one reference: the cost is the error plus `bit_cost` a bit."""

    windows: Windows
    reference: Reference
    expectation: Expectation
    bit_cost: float

    def best(self, candidates: Int32Array) -> Found:
        """Return the best of the candidates [N, K, 2]."""
        legal = np.clip(candidates, -MAX_VECTOR, MAX_VECTOR)
        return self._best(legal, self.windows.errors(self.reference, legal))

    def _best(self, candidates: Int32Array, errors: Float32Array) -> Found:
        costs = errors + self.bit_cost * self.expectation.bits(candidates)
        windows, place = np.arange(len(costs)), costs.argmin(axis=1)
        return Found(candidates[windows, place], costs[windows, place])

    def refined(self, vectors: Int32Array, reach_px: int) -> Found:
        """Refine vectors [N, 2] to whole, half and quarter pixels."""
        limit = MAX_VECTOR - VECTOR_SCALE * reach_px
        centres = np.clip(vectors, -limit, limit)
        errors = self.windows.nearby_errors(self.reference, centres, reach_px)
        found = self._best(centres[:, None] + offsets(reach_px, VECTOR_SCALE), errors)
        for ring in (HALF_PIXEL, QUARTER_PIXEL):
            found = self.best(found.vectors[:, None] + ring)
        return found


# Steps


def find_motion(
    pixels: Pixels, references: Sequence[Reference], lagrangian: float, thoroughness: int = DEFAULT_THOROUGHNESS
) -> MotionField:
    """Find the motion between a picture, uint8 [H, W, 3] or [H, W], and 1 or 2 references of its size.

    `lagrangian`: weight of the squared error in 8-bit units, mean over the channels and summed over the pixels, against
    bits. `thoroughness`: number of rounds of polishing; there is one more round of block search. Raises ValueError for
    references that do not fit, and for numbers out of range.
    """
    if not 1 <= len(references) <= 2 or any(reference.pixels.shape != pixels.shape for reference in references):
        shapes = [reference.pixels.shape for reference in references]
        raise ValueError(f"need 1 or 2 references of the shape {pixels.shape}, got {shapes}")
    if not lagrangian > 0 or thoroughness < 0:
        raise ValueError(f"lagrangian must be positive and thoroughness at least 0, got {lagrangian}, {thoroughness}")
    luma, bit_cost = luma_of(pixels), lagrangian**-0.5
    reduced = reduce_luma(_pad_to_blocks(luma))
    blocks, cells = windows_around(luma, BLOCK_PX), windows_around(luma, CELL_PX)
    vectors = np.stack(
        [
            search_blocks(
                blocks, reference, coarse_search(reduced, reference.reduced, bit_cost), bit_cost, thoroughness
            )
            for reference in references
        ]
    )
    uses = np.full(vectors.shape[1:3], Use.FIRST, np.uint8)
    if len(references) > 1:
        uses, vectors = choose_uses(blocks, references, vectors, bit_cost)
    field = MotionField(uses, vectors, split_blocks(cells, references, uses, vectors, bit_cost))
    overlapped = Overlapped(luma, references, field, cells)
    for _ in range(thoroughness):
        field = overlapped.polish_blocks(field, blocks, bit_cost)
        field = overlapped.polish_cells(field, cells, bit_cost)
    return field


def coarse_search(current: Float32Array, reference: Float32Array, bit_cost: float) -> list[Int32Array]:
    """Search reduced luma: the best vectors [h, w, 2] with and without the support of the neighbouring blocks."""
    side = BLOCK_PX // REDUCTION
    height, width = current.shape[0] // side, current.shape[1] // side
    shifts = VECTOR_SCALE * REDUCTION * np.arange(-COARSE_REACH, COARSE_REACH + 1, dtype=np.int32)
    bits = DIFFERENCE_BITS[COARSE_TABLE, np.abs(shifts)]
    padded = np.pad(reference, COARSE_REACH, mode="edge")
    shifted = np.lib.stride_tricks.sliding_window_view(padded, current.shape[1], axis=1)  # [y, shift, x]
    found = [np.zeros((height, width, 2), np.int32) for _ in range(2)]
    lowest = [np.full((height, width), np.inf, np.float32) for _ in range(2)]
    for row, shift in enumerate(shifts):
        differences = np.abs(shifted[row : row + len(current)] - current[:, None])
        errors = differences.reshape(height, side, len(shifts), -1).sum(axis=1)
        errors = errors.reshape(height, len(shifts), width, side).sum(axis=3)
        errors *= COARSE_ERROR_SCALE * REDUCTION**2
        penalty = (bit_cost * (bits[row] + bits))[:, None]
        for vectors, costs, candidates in zip(
            found, lowest, (errors + SUPPORT * _mean_3x3(errors), errors), strict=True
        ):
            total = candidates + penalty
            place = total.argmin(axis=1)
            best = np.take_along_axis(total, place[:, None], axis=1)[:, 0]
            better = best < costs
            costs[better] = best[better]
            vectors[better, DOWN], vectors[better, RIGHT] = shift, shifts[place[better]]
    return found


def _mean_3x3(errors: Float32Array) -> Float32Array:
    """Average over 3x3 blocks, [h, n, w]. The border is repeated."""
    padded = np.pad(errors, ((1, 1), (0, 0), (1, 1)), mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return np.asarray((rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / 9)


def search_blocks(
    blocks: Windows, reference: Reference, starts: list[Int32Array], bit_cost: float, thoroughness: int
) -> Int32Array:
    """Return the vectors of all blocks, [h, w, 2]."""
    vectors = starts[0]
    for number in range(thoroughness + 1):
        search = Search(blocks, reference, expect_vectors(vectors), bit_cost)
        candidates = [vectors, *neighbours(vectors), np.zeros_like(vectors)]
        candidates += [search.expectation.prediction.reshape(vectors.shape)]
        candidates += starts[1:] if number == 0 else []
        found = search.best(np.stack(candidates, axis=2).reshape(-1, len(candidates), 2))
        found = search.refined(found.vectors, FAR_PX if number == 0 else NEAR_PX)
        vectors = found.vectors.reshape(vectors.shape)
    return vectors


def choose_uses(
    blocks: Windows, references: Sequence[Reference], vectors: Int32Array, bit_cost: float
) -> tuple[NDArray[np.uint8], Int32Array]:
    """Choose the use of each block, [h, w], and return the vectors for it, [2, h, w, 2].

    `vectors` [2, h, w, 2] are those for each reference alone.
    """
    expectations = [expect_vectors(own) for own in vectors]
    alone = list(vectors.reshape(2, -1, 2))
    predictions = [blocks.predict(reference, own) for reference, own in zip(references, alone, strict=True)]
    halves, together = [np.float32(0.5) * prediction for prediction in predictions], list(alone)
    for number, reference in enumerate(references):
        rest = blocks._replace(target=blocks.target - halves[1 - number], weights=np.float32(0.5) * blocks.weights)
        search = Search(rest, reference, expectations[number], bit_cost)
        together[number] = search.refined(alone[number], NEAR_PX).vectors
        halves[number] = rest.predict(reference, together[number])
    bits_alone, bits_together = (
        [expected.bits(own[:, None])[:, 0] for expected, own in zip(expectations, fields, strict=True)]
        for fields in (alone, together)
    )
    bits = {Use.BOTH: bits_together[0] + bits_together[1], Use.FIRST: bits_alone[0], Use.SECOND: bits_alone[1]}
    predicted = {Use.BOTH: halves[0] + halves[1], Use.FIRST: predictions[0], Use.SECOND: predictions[1]}
    costs = [_absolute_sums(predicted[use] - blocks.target) + bit_cost * (bits[use] + USE_BITS[use]) for use in Use]
    uses = np.argmin(costs, axis=0)
    chosen = np.where((uses == Use.BOTH)[:, None], together, alone)
    return uses.astype(np.uint8).reshape(vectors.shape[1:3]), chosen.reshape(vectors.shape)


def split_blocks(
    cells: Windows, references: Sequence[Reference], uses: NDArray[np.uint8], vectors: Int32Array, bit_cost: float
) -> Int32Array:
    """Return the deltas [R, h, w, 2, 2, 2], zero for blocks that are not worth a split."""
    deltas = np.zeros((*vectors.shape[:-1], 2, 2, 2), np.int32)
    is_both = (cells_of(uses) == Use.BOTH).reshape(-1, 1, 1)
    for number, reference in enumerate(references):
        windows = cells
        if len(references) > 1:
            field = MotionField(uses, vectors, deltas)
            other = cells.predict(references[1 - number], field.cells[1 - number].reshape(-1, 2))
            target = np.where(is_both, cells.target - other / 2, cells.target)
            windows = cells._replace(target=target, weights=np.where(is_both, cells.weights / 2, cells.weights))
        expectation, near = expect_cells(vectors[number])
        search, own = Search(windows, reference, expectation, bit_cost), expectation.prediction
        start = search.best(np.concatenate([own[:, None], near], axis=1))
        found = search.refined(start.vectors, NEAR_PX)
        gain = _by_block(windows.errors(reference, own[:, None])[:, 0] - found.costs, uses.shape).sum(axis=(2, 3))
        is_split = (gain > bit_cost * (SPLIT_BITS - UNSPLIT_BITS)) & USED[number, uses]
        deltas[number] = np.where(is_split[..., None, None, None], _by_block(found.vectors - own, uses.shape), 0)
    return deltas


def _by_block(values: NDArray[Any], grid: Grid) -> NDArray[Any]:
    """Arrange values of cells by block: [4 h w, ...] -> [h, w, 2, 2, ...]."""
    return np.asarray(values.reshape(grid[0], 2, grid[1], 2, *values.shape[1:]).swapaxes(1, 2))


class Overlapped:
    """Luma of a picture and its prediction by overlapped windows, with a margin of `OVERLAP_PX`."""

    def __init__(self, luma: Float32Array, references: Sequence[Reference], field: MotionField, cells: Windows) -> None:
        self.picture = _pad_to_blocks(luma, OVERLAP_PX, OVERLAP_PX)
        self.predicted = np.zeros_like(self.picture)
        self.references = references
        self.weights = np.where(field.uses == Use.BOTH, np.float32(0.5), field.used).astype(np.float32)  # [R, h, w]
        for number, reference in enumerate(references):
            windows = cells.predict(reference, field.cells[number].reshape(-1, 2))
            windows *= cells_of(self.weights[number]).reshape(-1, 1, 1)
            lattice = windows.reshape(2 * field.grid[0], 2 * field.grid[1], *windows.shape[1:])
            for row, column in PARITIES:
                _lattice_views(self.predicted, CELL_PX, row, column)[...] += lattice[row::2, column::2]

    def polish_blocks(self, field: MotionField, blocks: Windows, bit_cost: float) -> MotionField:
        """Search the vectors of blocks that are not split again."""
        vectors = field.vectors.copy()
        is_split = np.any(field.deltas, axis=(0, 3, 4, 5))
        for number in range(field.n_references):
            expectation = expect_vectors(field.vectors[number])
            near = neighbours(field.vectors[number]).reshape(4, -1, 2).swapaxes(0, 1)
            near = np.concatenate([near, expectation.prediction[:, None]], axis=1)
            movable = field.used[number] & ~is_split
            self._polish(number, blocks, expectation, near, vectors[number], movable, bit_cost)
        return MotionField(field.uses, vectors, field.deltas)

    def polish_cells(self, field: MotionField, cells: Windows, bit_cost: float) -> MotionField:
        """Search the vectors of cells of split blocks again."""
        deltas = field.deltas.copy()
        is_split = np.any(field.deltas, axis=(3, 4, 5))
        for number in range(field.n_references):
            expectation, near = expect_cells(field.vectors[number])
            near = np.concatenate([near, expectation.prediction[:, None]], axis=1)
            vectors = field.cells[number]
            self._polish(number, cells, expectation, near, vectors, cells_of(is_split[number]), bit_cost)
            deltas[number] = _by_block(vectors.reshape(-1, 2) - expectation.prediction, field.grid)
        return MotionField(field.uses, field.vectors, deltas)

    def _polish(
        self,
        number: int,
        windows: Windows,
        expectation: Expectation,
        near: Int32Array,
        vectors: Int32Array,
        movable: BoolArray,
        bit_cost: float,
    ) -> None:
        """Improve the `movable` vectors [y, x, 2] for one reference in place, a quarter of the lattice at a time.

        `near` [N, K, 2]: candidates besides the vectors themselves.
        """
        reference, size_px = self.references[number], windows.side_px - 2 * OVERLAP_PX
        reference_weights = self.weights[number] if size_px == BLOCK_PX else cells_of(self.weights[number])
        numbers = np.arange(movable.size).reshape(movable.shape)
        for row, column in PARITIES:
            quarter = (slice(row, None, 2), slice(column, None, 2))
            chosen = movable[quarter]
            if not chosen.any():
                continue
            part = windows.take(numbers[quarter][chosen])
            part = part._replace(weights=part.weights * reference_weights[quarter][chosen][:, None, None])
            own = vectors[quarter][chosen]
            picture, predicted = (
                _lattice_views(plane, size_px, row, column) for plane in (self.picture, self.predicted)
            )
            before = part.predict(reference, own)
            rest = picture[chosen] - predicted[chosen] + before
            part = part._replace(target=np.where(part.weights > 0, rest, 0))
            search = Search(part, reference, expectation.take(numbers[quarter][chosen]), bit_cost)
            candidates = np.concatenate([own[:, None], near[numbers[quarter][chosen]]], axis=1)
            found = search.best(candidates)
            for ring in (HALF_PIXEL, QUARTER_PIXEL):
                found = search.best(found.vectors[:, None] + ring)
            predicted[chosen] += part.predict(reference, found.vectors) - before
            vectors[quarter][chosen] = found.vectors


PARITIES = ((0, 0), (0, 1), (1, 0), (1, 1))
"""First row and column of the quarters of a lattice. Windows of one quarter do not overlap."""


def _lattice_views(plane: Float32Array, size_px: int, row: int, column: int) -> Float32Array:
    """Return a writable view of the windows of a quarter of the lattice, [y, x, side, side]."""
    side_px = size_px + 2 * OVERLAP_PX
    views = np.lib.stride_tricks.sliding_window_view(plane, (side_px, side_px), writeable=True)
    return views[row * size_px :: 2 * size_px, column * size_px :: 2 * size_px]
