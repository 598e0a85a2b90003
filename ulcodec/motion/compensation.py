"""Overlapped block motion compensation in exact integer arithmetic: a picture predicted from its references.

This module is a part of the format. For cell (i, j) of the grid of 8x8 cells, reference r and the cell's vector (u, v)
in quarter pixels, the interpolated sample at row y and column x is

    S_r = sum over a, b in 0 .. 7 of  TAPS[u mod 4][a] TAPS[v mod 4][b] reference_r[y + (u >> 2) + a - 3,
                                                                                   x + (v >> 2) + b - 3]
    V_r = (S_r + 128) >> 8

with coordinates clamped to the picture; `mod` is never negative, and `>>` rounds down. Each cell predicts the 16x16
pixels from row 8 i - 4 and column 8 j - 4 on. Its weight at offset (k, l) in them is `WINDOW[k] WINDOW[l]`, so that the
weights of the four cells that predict a pixel sum to 256. The grid is extended by one cell on each side, with the
vector and use of the nearest cell. The predicted sample is

    min(max((sum over cells of WINDOW[k] WINDOW[l] sum over r of M_r V_r + 4096) >> 13, 0), 255)

where `M` is (1, 1) for a cell of a block that uses both references, (2, 0) for the first, and (0, 2) for the second.
A picture has `C` colour channels, which are predicted alike.

The products are in float32, which is exact in any order of summation: all values are integers below 2^24 (before
`floor`, multiples of a power of two with at most 24 significant bits). The magnitudes of a filter's taps sum to at most
112, so `|S| <= 112^2 255 = 3198720`, and so are all partial sums. `|V| <= 12496`, so weighted sums are within
`2 256 12496 = 6397952`. NumPy multiplies on the CPU, where no setting of the process reduces the precision.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ulcodec.motion.field import BLOCK_PX, CELL_PX, VECTOR_SCALE, MotionField, Use, grid_of

TAPS = np.array(
    [
        [0, 0, 0, 64, 0, 0, 0, 0],
        [-1, 4, -10, 58, 17, -5, 1, 0],
        [-1, 4, -11, 40, 40, -11, 4, -1],
        [0, 1, -5, 17, 58, -10, 4, -1],
    ]
)
"""Luma interpolation filters of HEVC (ITU-T H.265, table 8-11), by quarter-pixel phase."""

TAPS_BEFORE = 3
"""Number of taps before the sample position."""

PATCH_PX = BLOCK_PX + TAPS.shape[1] - 1
"""Side of the part of a reference that predicts the window of a cell."""

WINDOW = np.array([1, 3, 5, 7, 9, 11, 13, 15, 15, 13, 11, 9, 7, 5, 3, 1])

OVERLAP_PX = (BLOCK_PX - CELL_PX) // 2
"""Reach of a cell's window beyond the cell."""

CELLS_AT_ONCE = 256
"""Number of cells that are interpolated together, so that they stay in the cache."""

BOTH_MULTIPLIER, ONLY_MULTIPLIER = 1, 2

Picture = NDArray[np.uint8]
Float32Array = NDArray[np.float32]


def compensate(references: Sequence[Picture], field: MotionField) -> Picture:
    """Predict a picture from `references`, uint8 [H, W, 3] or [H, W], and the motion field between them and it.

    Returns uint8 of the references' shape, the same on every machine. Raises ValueError if number, shape or type of the
    references do not fit.
    """
    _check(references, field)
    height_px, width_px = references[0].shape[:2]
    sources = [Source(reference) for reference in references]
    vectors, multipliers = _extended(field.cells), _extended(_multipliers(field))
    n_rows, n_columns = vectors.shape[1:3]
    predicted = np.empty((height_px, width_px, sources[0].n_channels), np.uint8)
    # Half windows of 8x8 pixels from (-12, -12) on. The last row of a chunk continues in the next chunk.
    carry = np.zeros((n_columns + 1, CELL_PX, sources[0].n_channels, CELL_PX), np.float32)
    for rows in _chunks(n_rows, CELLS_AT_ONCE // n_columns):
        halves = np.zeros((rows.stop - rows.start + 1, *carry.shape), np.float32)
        halves[0] = carry
        for columns in _chunks(n_columns, CELLS_AT_ONCE):
            part = halves[:, columns.start : columns.stop + 1]
            for source, cells, multiplier in zip(sources, vectors, multipliers, strict=True):
                _add_windows(part, source, cells[rows, columns], multiplier[rows, columns], (rows.start, columns.start))
        carry = halves[-1]
        _store(predicted, halves[:-1], rows.start)
    return predicted.reshape(references[0].shape)


def _check(references: Sequence[Picture], field: MotionField) -> None:
    if len(references) != field.n_references:
        raise ValueError(f"a field of {field.n_references} references needs as many pictures, got {len(references)}")
    shapes = {reference.shape for reference in references}
    if len(shapes) != 1 or any(reference.dtype != np.uint8 for reference in references):
        raise ValueError(f"references must be uint8 of one shape, got {[(r.dtype, r.shape) for r in references]}")
    shape = references[0].shape
    if len(shape) not in (2, 3) or field.grid != grid_of(*shape[:2]):
        raise ValueError(f"a picture {shape} does not fit a field of {field.grid} blocks of {BLOCK_PX} pixels")


def _multipliers(field: MotionField) -> NDArray[np.int32]:
    """Return the multiplier of each reference in each cell, int32 [R, 2 h, 2 w, 1]."""
    multiplier = np.where(field.uses == Use.BOTH, BOTH_MULTIPLIER, ONLY_MULTIPLIER)
    multipliers = np.where(field.used, multiplier, 0).astype(np.int32)
    return multipliers.repeat(2, axis=1).repeat(2, axis=2)[..., None]


def _extended(cells: NDArray[np.int32]) -> NDArray[np.int32]:
    """Repeat the outermost cells once on each side: [R, y, x, n] -> [R, y + 2, x + 2, n]."""
    return np.pad(cells, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")


def _chunks(length: int, most: int) -> Iterator[slice]:
    """Divide a length into slices of at most `most`, or of 1."""
    step = max(1, most)
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


class Source:
    """A reference picture, padded so that every patch that differs from others lies inside it."""

    def __init__(self, picture: Picture) -> None:
        pixels = np.atleast_3d(picture)
        self.height_px, self.width_px, self.n_channels = pixels.shape
        # Rows, channels, columns: the pixels that a filter combines are adjacent in memory.
        margin = (PATCH_PX - 1, PATCH_PX - 1)
        padded = np.pad(pixels.swapaxes(1, 2), (margin, (0, 0), margin), mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (PATCH_PX, PATCH_PX), axis=(0, 2))
        self._patches = windows.transpose(0, 2, 3, 1, 4)  # [y, x, 23, C, 23]

    def patches(self, top: NDArray[np.integer], left: NDArray[np.integer]) -> Picture:
        """Return the patches [N, 23, C, 23] at rows `top` [N] and columns `left` [N], with clamped coordinates.

        Clamping the position to the margin is the same: all rows or columns of a patch beyond it are equal.
        """
        rows = np.clip(top, 1 - PATCH_PX, self.height_px - 1) + PATCH_PX - 1
        columns = np.clip(left, 1 - PATCH_PX, self.width_px - 1) + PATCH_PX - 1
        return np.asarray(self._patches[rows, columns])


def _add_windows(
    halves: Float32Array,
    source: Source,
    vectors: NDArray[np.int32],
    multipliers: NDArray[np.int32],
    origin: tuple[int, int],
) -> None:
    """Add the weighted windows of cells to `halves` [y + 1, x + 1, 8, C, 8].

    `vectors` [y, x, 2] and `multipliers` [y, x, 1] of the cells; `origin`: place of the first one in the extended grid.
    """
    rows, columns = np.nonzero(multipliers[:, :, 0])
    if not len(rows):
        return
    top = (rows + origin[0] - 1) * CELL_PX - OVERLAP_PX
    left = (columns + origin[1] - 1) * CELL_PX - OVERLAP_PX
    samples = interpolate(source, top, left, vectors[rows, columns])
    samples *= _WEIGHTS[multipliers[rows, columns, 0]]
    windows = np.zeros((*vectors.shape[:2], *samples.shape[1:]), np.float32)
    windows[rows, columns] = samples
    n_rows, n_columns = vectors.shape[:2]
    quarters = windows.reshape(n_rows, n_columns, 2, CELL_PX, source.n_channels, 2, CELL_PX)
    for y in (0, 1):
        for x in (0, 1):
            halves[y : y + n_rows, x : x + n_columns] += quarters[:, :, y, :, :, x]


def interpolate(
    source: Source, top: NDArray[np.integer], left: NDArray[np.integer], vectors: NDArray[np.int32]
) -> Float32Array:
    """Return the samples `V` [N, 16, C, 16] of the windows at (top, left) [N], displaced by vectors [N, 2]."""
    down, right = (vectors // VECTOR_SCALE).T
    vertical, horizontal = (vectors % VECTOR_SCALE).T
    patches = source.patches(top + down - TAPS_BEFORE, left + right - TAPS_BEFORE).astype(np.float32)
    filtered = np.matmul(_FILTERS[vertical], patches.reshape(len(patches), PATCH_PX, -1))
    rows = filtered.reshape(len(patches), -1, PATCH_PX)  # [N, 16 C, 23]
    samples = np.matmul(rows, _FILTERS_TRANSPOSED[horizontal])
    samples += 128
    samples /= 256
    np.floor(samples, out=samples)
    return np.asarray(samples.reshape(len(patches), BLOCK_PX, source.n_channels, BLOCK_PX))


def _store(predicted: Picture, halves: Float32Array, first_row: int) -> None:
    """Round sums of windows [y, x, 8, C, 8] to samples, from row `first_row` of half windows on."""
    n_rows, n_columns, _, n_channels, _ = halves.shape
    sums = (halves + 4096) / 8192
    samples = np.clip(np.floor(sums, out=sums), 0, 255).astype(np.uint8)
    pixels = samples.transpose(0, 2, 1, 4, 3).reshape(n_rows * CELL_PX, n_columns * CELL_PX, n_channels)
    border = CELL_PX + OVERLAP_PX
    start = first_row * CELL_PX - border
    first, last = max(0, start), min(start + len(pixels), len(predicted))
    if first < last:
        predicted[first:last] = pixels[first - start : last - start, border : border + predicted.shape[1]]


def _banded_filters() -> Float32Array:
    """Return, for each phase, the matrix [16, 23] that filters a patch: [4, 16, 23]."""
    filters = np.zeros((len(TAPS), BLOCK_PX, PATCH_PX), np.float32)
    for row in range(BLOCK_PX):
        filters[:, row, row : row + TAPS.shape[1]] = TAPS
    return filters


_FILTERS = _banded_filters()
_FILTERS_TRANSPOSED = np.ascontiguousarray(_FILTERS.swapaxes(1, 2))
_WEIGHTS = (np.arange(3)[:, None, None, None] * WINDOW[:, None, None] * WINDOW).astype(np.float32)  # [3, 16, 1, 16]
