"""Frequency tables of the entropy coder: integers that sum to 2^24 in each table, from scales or from counts."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ulcodec.coding.backend import categorical
from ulcodec.coding.range_coder import TOTAL
from ulcodec.errors import ModelError

MAX_TABLES = 256

MAX_TABLE_LENGTH = 4096
MIN_FREQUENCY = 16
ESCAPE_FREQUENCY = 64
TABLE_WIDTH_SCALES = 5.0
"""Reach of a Gaussian table to each side, in standard deviations."""

Int32Array = NDArray[np.int32]
IntArray = NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class FrequencyTables:
    """Tables of integer frequencies: `frequencies` int32 [T, L], `lengths` int32 [T], `minima` int32 [T].

    Row t codes the symbols `minima[t] .. minima[t] + lengths[t] - 2`; its last used entry is the escape. Used entries
    are at least 1 and sum to 2^24, unused ones are 0. A row of length 1 is not coded: its symbol is 0. Raises
    ModelError for anything else.
    """

    frequencies: Int32Array
    lengths: Int32Array
    minima: Int32Array

    def __post_init__(self) -> None:
        arrays = (self.frequencies, self.lengths, self.minima)
        if any(array.dtype != np.int32 for array in arrays) or [array.ndim for array in arrays] != [2, 1, 1]:
            types = ", ".join(f"{array.dtype} {array.shape}" for array in arrays)
            raise ModelError(f"frequency tables must be int32, one row a table, got {types}")
        n_tables, width = self.frequencies.shape
        if not 1 <= n_tables <= MAX_TABLES or {len(array) for array in arrays} != {n_tables}:
            lengths = [len(array) for array in arrays]
            raise ModelError(f"need 1 to {MAX_TABLES} frequency tables, all arrays of that length, got {lengths}")
        if width > MAX_TABLE_LENGTH or np.any((self.lengths < 1) | (self.lengths > width)):
            raise ModelError(f"a frequency table has a length out of range: 1 to {min(width, MAX_TABLE_LENGTH)}")
        if np.any((self.minima < -MAX_TABLE_LENGTH) | (self.minima > MAX_TABLE_LENGTH)):
            raise ModelError(f"a frequency table begins at a symbol out of range: +-{MAX_TABLE_LENGTH}")
        used = np.arange(width) < self.lengths[:, None]
        if np.any((self.frequencies >= 1) != used) or np.any(self.frequencies < 0):
            raise ModelError("frequencies must be at least 1 where used, 0 elsewhere")
        if np.any(self.frequencies.sum(axis=1, dtype=np.int64) != TOTAL):
            raise ModelError(f"the frequencies of a table must sum to {TOTAL}")

    def __getstate__(self) -> dict[str, Any]:
        """Leave out cached models: constriction's objects cannot be pickled."""
        return {name: getattr(self, name) for name in ("frequencies", "lengths", "minima")}

    @cached_property
    def models(self) -> list[Any]:
        """Range coder models, one per table; None for tables that are not coded."""
        return [
            categorical(row[:length]) if length > 1 else None
            for row, length in zip(self.frequencies, self.lengths, strict=True)
        ]

    @cached_property
    def escapes(self) -> Int32Array:
        """Position of each table's escape, int32 [T]. It equals the number of symbols that the table covers."""
        return (self.lengths - 1).astype(np.int32, copy=False)


def gaussian_tables(scales: NDArray[np.float64]) -> FrequencyTables:
    """Build tables of `N(0, scale^2)` integrated over unit bins, for standard deviations `scales` float64 [T].

    `scales` are in symbols. The first row is the one that is not coded. Runs when a model is exported; a decoder reads
    the integers from the model.
    """
    rows = [np.array([TOTAL])] + [_gaussian_row(float(scale)) for scale in scales[1:]]
    lengths = np.array([len(row) for row in rows], dtype=np.int32)
    frequencies = np.zeros((len(rows), int(lengths.max())), dtype=np.int32)
    for target, row in zip(frequencies, rows, strict=True):
        target[: len(row)] = row
    minima = np.where(lengths > 1, -(lengths - 2) // 2, 0).astype(np.int32)
    return FrequencyTables(frequencies, lengths, minima)


def _gaussian_row(scale: float) -> NDArray[np.int64]:
    """Return the frequencies of the symbols -K .. K and of the escape, where K is five standard deviations."""
    reach = max(1, math.ceil(TABLE_WIDTH_SCALES * scale))
    edges = (np.arange(-reach, reach + 2) - 0.5) / (scale * math.sqrt(2))
    below = np.array([math.erfc(-edge) / 2 for edge in edges])
    free = TOTAL - ESCAPE_FREQUENCY - MIN_FREQUENCY * (2 * reach + 1)
    share = np.diff(below) / (below[-1] - below[0])
    row = np.floor(share * free).astype(np.int64) + MIN_FREQUENCY
    row[reach] += TOTAL - ESCAPE_FREQUENCY - row.sum()
    return np.append(row, ESCAPE_FREQUENCY)


def fit_tables(tables: FrequencyTables, counts: NDArray[np.int64], prior_count: float = 200.0) -> FrequencyTables:
    """Fit tables of the same reach to counted symbols: `counts` int64 [T, L] of each row's entries.

    `tables` are symmetric around 0, and so is the result. Each of their rows counts as `prior_count` further symbols.
    """
    frequencies = np.zeros_like(tables.frequencies)
    rows = zip(frequencies, tables.frequencies, counts, tables.lengths, strict=True)
    for fitted, initial, row_counts, length in rows:
        share = row_counts[:length] + prior_count * initial[:length] / TOTAL
        share[:-1] += share[:-1][::-1].copy()
        share[:-1] /= 2
        free = TOTAL - MIN_FREQUENCY * length
        fitted[:length] = np.floor(share / share.sum() * free) + MIN_FREQUENCY
        fitted[(length - 1) // 2] += TOTAL - fitted.sum()
    return FrequencyTables(frequencies, tables.lengths, tables.minima)
