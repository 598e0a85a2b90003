"""Motion fields to bytes and back, through the range coder of `ulcodec.coding`.

This module is a part of the format. Blocks are coded from coarse to fine in the steps of `coding_steps`, so that most
blocks have known neighbours on opposite sides. A step has up to four groups of symbols, each in rising order of
reference and then of block in raster order:

1. with two references only, the uses;
2. the vertical differences between vectors and their prediction, for the references that a block uses;
3. the horizontal differences, likewise;
4. whether blocks are split, likewise.

Two groups follow the last step: vertical and then horizontal deltas of the split blocks, cell by cell. `KnownField`
computes what both directions must know alike: predictions and tables. A reference that a block does not use gets the
prediction as its vector.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ulcodec.coding.range_coder import TOTAL
from ulcodec.coding.symbols import SymbolDecoder, SymbolEncoder
from ulcodec.coding.tables import FrequencyTables
from ulcodec.errors import CorruptDataError
from ulcodec.motion.field import MAX_VECTOR, USED, Grid, MotionField, Use

Int32Array = NDArray[np.int32]
Indices = NDArray[np.intp]
BoolArray = NDArray[np.bool_]

DOWN, RIGHT = 0, 1

DIAGONAL = ((-1, -1), (-1, 1), (1, -1), (1, 1))
AXIAL = ((-1, 0), (1, 0), (0, -1), (0, 1))
N_NEIGHBOURS = 4

# Tables: the first number of each kind, and the number of tables of each kind

N_CLASSES = 10
CLASS_LIMITS = 1 << np.arange(N_CLASSES - 1)
"""An activity's class is its number of binary digits, at most 9."""

SPLIT_CLASS_LIMITS = (2, 8, 32)
MAX_SPLIT_NEIGHBOURS = 3

VECTOR_TABLES = 0
DELTA_TABLES = VECTOR_TABLES + N_CLASSES
SPLIT_TABLES = DELTA_TABLES + N_CLASSES
USE_TABLES = SPLIT_TABLES + (MAX_SPLIT_NEIGHBOURS + 1) * (len(SPLIT_CLASS_LIMITS) + 1)

LARGEST_IN_TABLE = 255
FIRST_WEIGHT = 2**40

VECTOR_SHAPES: tuple[tuple[int, int, int, int], ...] = (
    (995, 8, 0, 8),
    (949, 6, 0, 20),
    (763, 6, 0, 28),
    (631, 5, 0, 16),
    (460, 12, 0, 12),
    (318, 17, 6, 12),
    (225, 62, 11, 10),
    (171, 83, 32, 10),
    (118, 340, 45, 8),
    (64, 2100, 22, 4),
)
DELTA_SHAPES: tuple[tuple[int, int, int, int], ...] = (
    (734, 28, 4, 14),
    (694, 37, 1, 12),
    (627, 12, 1, 12),
    (564, 5, 2, 14),
    (519, 3, 16, 24),
    (463, 3, 180, 80),
    (422, 3, 256, 64),
    (442, 3, 256, 40),
    (443, 9, 128, 16),
    (406, 2120, 11, 5),
)
"""Frequencies of 0 and of the escape, in units of 2^-10 and 2^-16 of all, and the numbers `a` and `b` of
`_difference_row`, by class of activity."""

SPLIT_SHARES: tuple[int, ...] = (4, 6, 28, 75, 36, 110, 167, 264, 145, 325, 419, 499, 279, 569, 710, 737)
"""Frequency of a split, in units of 2^-10, by number of split neighbours and class of activity."""

USE_SHARES: tuple[tuple[int, int], ...] = ((792, 175), (398, 540), (981, 22), (588, 228), (785, 64), (413, 111))
"""Frequencies of the uses of both references and of the first, in units of 2^-10: by the reference that more neighbours
use alone (first, neither, second), and by whether more than one neighbour uses only one."""


def _difference_row(zero: int, escape: int, a: int, b: int) -> list[int]:
    """Return the frequencies of -255 .. 255 and of the escape.

    Magnitudes have weights `w(1) = 2^40` and `w(k + 1) = floor(w(k) (4 k + a) / (4 k + a + b))`. Their frequencies are
    proportional to them, rounded down, but at least 1. What is left over goes to 0.
    """
    weights = [FIRST_WEIGHT]
    for k in range(1, LARGEST_IN_TABLE):
        weights.append(weights[-1] * (4 * k + a) // (4 * k + a + b))
    side, escapes = (TOTAL - (zero << 14)) // 2, escape << 8
    side -= escapes // 2
    tail = [max(1, weight * side // sum(weights)) for weight in weights]
    return [*tail[::-1], TOTAL - escapes - 2 * sum(tail), *tail, escapes]


def _static_tables() -> FrequencyTables:
    """Build the tables of the format."""
    rows = [_difference_row(*shape) for shape in (*VECTOR_SHAPES, *DELTA_SHAPES)]
    rows += [[TOTAL - (split << 14) - 1, split << 14, 1] for split in SPLIT_SHARES]
    rows += [[both << 14, first << 14, TOTAL - (both + first << 14) - 1, 1] for both, first in USE_SHARES]
    lengths = np.array([len(row) for row in rows], np.int32)
    frequencies = np.zeros((len(rows), lengths.max()), np.int32)
    for target, row in zip(frequencies, rows, strict=True):
        target[: len(row)] = row
    minima = np.where(np.arange(len(rows)) < SPLIT_TABLES, -LARGEST_IN_TABLE, 0).astype(np.int32)
    return FrequencyTables(frequencies, lengths, minima)


TABLES = _static_tables()


# The order of blocks


class Step(NamedTuple):
    """Blocks that are coded together, and their neighbours, which are known by then.

    `blocks` [N]: numbers of the blocks in raster order. `neighbours` [N, 4]: those of their neighbours; `exists`
    [N, 4]: which of these lie inside the grid.
    """

    blocks: Indices
    neighbours: Indices
    exists: BoolArray


@lru_cache(maxsize=16)
def coding_steps(grid: Grid) -> tuple[Step, ...]:
    """Return the steps that code a grid.

    The spacing is at first the smallest power of two that is at least both sides: the first step is block (0, 0). Each
    spacing `2 s` is halved by two steps: blocks at odd multiples of `s` in both directions, with diagonal neighbours
    at distance `s`; then the other blocks at multiples of `s`, with neighbours above, below, left and right at
    distance `s`. Steps without blocks are left out.
    """
    none = np.zeros((1, N_NEIGHBOURS), np.intp)
    steps = [Step(np.zeros(1, np.intp), none, none > 0)]
    spacing = 1 << (max(grid) - 1).bit_length()
    while spacing > 1:
        spacing //= 2
        rows, columns = np.mgrid[: grid[0] : spacing, : grid[1] : spacing]
        is_odd_row, is_odd_column = rows // spacing % 2, columns // spacing % 2
        for chosen, directions in ((is_odd_row & is_odd_column, DIAGONAL), (is_odd_row ^ is_odd_column, AXIAL)):
            mask = chosen.astype(bool)
            if mask.any():
                steps.append(_step(rows[mask], columns[mask], spacing * np.array(directions), grid))
    return tuple(steps)


def _step(rows: Indices, columns: Indices, offsets: Indices, grid: Grid) -> Step:
    near_rows, near_columns = rows[:, None] + offsets[:, 0], columns[:, None] + offsets[:, 1]
    exists = (near_rows >= 0) & (near_rows < grid[0]) & (near_columns >= 0) & (near_columns < grid[1])
    return Step(rows * grid[1] + columns, np.where(exists, near_rows * grid[1] + near_columns, 0), exists)


# What both directions compute alike


class KnownField:
    """The part of a field that is coded: `uses` [h w], `vectors` [R, h w, 2], `is_split` [R, h w]."""

    def __init__(self, n_references: int, grid: Grid) -> None:
        n_blocks = grid[0] * grid[1]
        self.grid = grid
        self.uses = np.full(n_blocks, Use.FIRST, np.int32)
        self.vectors = np.zeros((n_references, n_blocks, 2), np.int32)
        self.is_split = np.zeros((n_references, n_blocks), bool)

    def used(self, step: Step) -> BoolArray:
        """Whether the blocks of a step use each reference, [R, N]."""
        return np.asarray(USED[: len(self.vectors), self.uses[step.blocks]])

    def use_tables(self, step: Step) -> Indices:
        """Return the tables of the uses of a step, [N]."""
        uses = self.uses[step.neighbours]
        n_first, n_second = (np.count_nonzero((uses == use) & step.exists, axis=1) for use in (Use.FIRST, Use.SECOND))
        return np.asarray(USE_TABLES + 2 * (np.sign(n_second - n_first) + 1) + (n_first + n_second > 1))

    def predict(self, step: Step) -> tuple[Int32Array, Int32Array]:
        """Return prediction and spread of the vectors of a step, both [R, N, 2].

        The prediction is the median of the neighbours; of an even number, the mean of the middle two, rounded down; 0
        without neighbours. The spread is the largest minus the smallest; `MAX_VECTOR` without neighbours.
        """
        count = np.count_nonzero(step.exists, axis=1)
        vectors = self.vectors[:, step.neighbours]  # [R, N, 4, 2]
        ordered = np.sort(np.where(step.exists[:, :, None], vectors, 2 * MAX_VECTOR), axis=2)
        blocks = np.arange(len(count))
        last = np.maximum(count - 1, 0)
        lower, upper, largest = (ordered[:, blocks, place] for place in (last // 2, count // 2 % N_NEIGHBOURS, last))
        is_known = (count > 0)[:, None]
        return np.where(is_known, lower + upper >> 1, 0), np.where(is_known, largest - ordered[:, :, 0], MAX_VECTOR)

    def split_tables(self, step: Step, spread: Int32Array, differences: Int32Array) -> Indices:
        """Return the tables of the split flags of a step, [R, N]."""
        n_split = np.count_nonzero(self.is_split[:, step.neighbours] & step.exists, axis=2)
        activity = (spread + np.abs(differences)).sum(axis=2)
        classes = np.searchsorted(SPLIT_CLASS_LIMITS, activity, side="right")
        n_classes = len(SPLIT_CLASS_LIMITS) + 1
        return np.asarray(SPLIT_TABLES + np.minimum(n_split, MAX_SPLIT_NEIGHBOURS) * n_classes + classes)

    def cell_spread(self) -> Int32Array:
        """Return, for each cell of the split blocks, the spread around its block's vector: [n_split, 2, 2, 2].

        It is the sum of the differences from the vectors of two neighbours of the block: that above or below, and that
        left or right, on the cell's side. Outside of the grid, the nearest block counts.
        """
        height, width = self.grid
        padding = ((0, 0), (1, 1), (1, 1), (0, 0))
        padded = np.pad(self.vectors.reshape(-1, height, width, 2), padding, mode="edge")
        reference, row, column = np.nonzero(self.is_split.reshape(-1, height, width))
        own = padded[reference, row + 1, column + 1][:, None]
        vertical = np.abs(padded[reference[:, None], row[:, None] + [0, 2], column[:, None] + 1] - own)
        horizontal = np.abs(padded[reference[:, None], row[:, None] + 1, column[:, None] + [0, 2]] - own)
        return np.asarray(vertical[:, :, None] + horizontal[:, None])


def difference_tables(first_table: int, spread: Int32Array, differences: Int32Array, axis: int) -> Indices:
    """Return the tables of the differences along an axis, [...], from spread and differences [..., 2].

    The activity is twice the spread along the axis, plus that along the other one; for horizontal differences, plus
    twice the magnitude of the vertical difference.
    """
    activity = spread.sum(axis=-1) + spread[..., axis]
    if axis == RIGHT:
        activity = activity + 2 * np.abs(differences[..., DOWN])
    return np.asarray(first_table + np.searchsorted(CLASS_LIMITS, activity, side="right"))


# Both directions


def encode_field(field: MotionField) -> bytes:
    """Encode a motion field. Vectors and deltas of references that a block does not use are not encoded."""
    encoder, known = SymbolEncoder(), KnownField(field.n_references, field.grid)
    uses = field.uses.astype(np.int32).ravel()
    vectors = field.vectors.reshape(len(known.vectors), -1, 2)
    is_split = (field.deltas.any(axis=(3, 4, 5)) & field.used).reshape(known.is_split.shape)
    for step in coding_steps(field.grid):
        if field.n_references > 1:
            encoder.encode(uses[step.blocks], known.use_tables(step), TABLES)
            known.uses[step.blocks] = uses[step.blocks]
        used, (prediction, spread) = known.used(step), known.predict(step)
        differences = np.where(used[:, :, None], vectors[:, step.blocks] - prediction, 0)
        for axis in (DOWN, RIGHT):
            tables = difference_tables(VECTOR_TABLES, spread, differences, axis)
            encoder.encode(differences[used, axis], tables[used], TABLES)
        known.vectors[:, step.blocks] = prediction + differences
        tables = known.split_tables(step, spread, differences)
        encoder.encode(is_split[:, step.blocks][used].astype(np.int32), tables[used], TABLES)
        known.is_split[:, step.blocks] = is_split[:, step.blocks]
    spread, deltas = known.cell_spread(), field.deltas.reshape(*is_split.shape, 2, 2, 2)[is_split]
    for axis in (DOWN, RIGHT):
        tables = difference_tables(DELTA_TABLES, spread, deltas, axis)
        encoder.encode(deltas[..., axis].ravel(), tables.ravel(), TABLES)
    return encoder.finish()


def decode_field(data: bytes, n_references: int, grid: Grid) -> MotionField:
    """Decode a motion field of `grid` blocks. Raises CorruptDataError for bytes that no encoder writes."""
    decoder, known = SymbolDecoder(data), KnownField(n_references, grid)
    for step in coding_steps(grid):
        if n_references > 1:
            known.uses[step.blocks] = _at_most(decoder.decode(known.use_tables(step), TABLES), max(Use), "use")
        used, (prediction, spread) = known.used(step), known.predict(step)
        differences = np.zeros_like(prediction)
        for axis in (DOWN, RIGHT):
            tables = difference_tables(VECTOR_TABLES, spread, differences, axis)
            differences[used, axis] = decoder.decode(tables[used], TABLES)
        known.vectors[:, step.blocks] = _legal_vectors(prediction + differences)
        tables = known.split_tables(step, spread, differences)
        splits = np.zeros(used.shape, bool)
        splits[used] = _at_most(decoder.decode(tables[used], TABLES), 1, "split flag")
        known.is_split[:, step.blocks] = splits
    spread = known.cell_spread()
    deltas = np.zeros_like(spread)
    for axis in (DOWN, RIGHT):
        tables = difference_tables(DELTA_TABLES, spread, deltas, axis)
        deltas[..., axis] = decoder.decode(tables.ravel(), TABLES).reshape(tables.shape)
    decoder.finish()
    return _field(known, deltas)


def _at_most(symbols: Int32Array, largest: int, name: str) -> Int32Array:
    if np.any((symbols < 0) | (symbols > largest)):
        raise CorruptDataError(f"a motion field has a {name} that is not 0 to {largest}")
    return symbols


def _legal_vectors(vectors: Int32Array) -> Int32Array:
    if np.any(np.abs(vectors) > MAX_VECTOR):
        raise CorruptDataError(f"a motion vector has a component beyond {MAX_VECTOR}")
    return vectors


def _field(known: KnownField, deltas: Int32Array) -> MotionField:
    """Return the decoded field; `deltas` [n_split, 2, 2, 2] are those of the split blocks."""
    if not deltas.any(axis=(1, 2, 3)).all():
        raise CorruptDataError("a block of a motion field is split into cells of one vector")
    _legal_vectors(known.vectors[known.is_split][:, None, None] + deltas)
    all_deltas = np.zeros((*known.is_split.shape, 2, 2, 2), np.int32)
    all_deltas[known.is_split] = deltas
    uses, shape = known.uses.astype(np.uint8).reshape(known.grid), (len(known.vectors), *known.grid)
    return MotionField(uses, known.vectors.reshape(*shape, 2), all_deltas.reshape(*shape, 2, 2, 2))
