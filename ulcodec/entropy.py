"""Symbols to bytes and back, in integers only: frequency tables and the range coder of `constriction`.

`docs/format.md` is the specification. Symbols are grouped by table and each group is coded as one run; what a table does
not cover is coded after the runs by its escape. A float dtype anywhere is a TypeError.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ulcodec.errors import CorruptDataError, DependencyError, ModelError

PRECISION_BITS = 24
TOTAL = 1 << PRECISION_BITS
MAX_TABLE_LENGTH = 4096
MIN_FREQUENCY = 16
ESCAPE_FREQUENCY = 64
TABLE_WIDTH_SCALES = 5.0
ESCAPE_COUNT_BITS = 5
MAX_ESCAPE_BITS = 20
WORD_BYTES = 4

Int32Array = NDArray[np.int32]
IntArray = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class FrequencyTables:
    """Tables of integer frequencies: `frequencies` int32 [T, L], `lengths` int32 [T], `minima` int32 [T].

    Row t codes the symbols `minima[t] .. minima[t] + lengths[t] - 2`; its last used entry is the escape. Used entries are at
    least 1 and sum to 2^24. A row of length 1 is not coded: its symbol is 0. Raises ModelError for anything else.
    """

    frequencies: Int32Array
    lengths: Int32Array
    minima: Int32Array

    def __post_init__(self) -> None:
        n_tables = len(self.lengths)
        arrays = (self.frequencies, self.lengths, self.minima)
        if any(array.dtype != np.int32 for array in arrays) or self.frequencies.ndim != 2:
            raise ModelError("frequency tables must be int32, one row a table")
        if not 1 <= n_tables <= 256 or {len(array) for array in arrays} != {n_tables}:
            raise ModelError("need 1 to 256 frequency tables, all arrays of that length")
        width = self.frequencies.shape[1]
        if width > MAX_TABLE_LENGTH or not np.all((self.lengths >= 1) & (self.lengths <= width) & (self.lengths != 2)):
            raise ModelError("a frequency table has a length out of range")
        used = np.arange(width) < self.lengths[:, None]
        if not np.all((self.frequencies >= 1) == used) or np.any(self.frequencies.astype(np.int64).sum(1) != TOTAL):
            raise ModelError(f"frequencies must be at least 1 where used, 0 elsewhere, and sum to {TOTAL}")

    @cached_property
    def models(self) -> list[Any]:
        """One constriction model a table, None where nothing is coded."""
        return [
            categorical(row[:length]) if length > 1 else None
            for row, length in zip(self.frequencies, self.lengths, strict=True)
        ]


def build_tables(scales: NDArray[np.float64]) -> FrequencyTables:
    """Tables of `N(0, scale^2)` integrated over unit bins, for standard deviations `scales` float64 [T] in symbols.

    The first row is the not-coded one. Used when a model is exported; a reader takes the integers from the model.
    """
    rows = [np.array([TOTAL])] + [gaussian_row(float(scale)) for scale in scales[1:]]
    lengths = np.array([len(row) for row in rows], dtype=np.int32)
    frequencies = np.zeros((len(rows), int(lengths.max())), dtype=np.int32)
    for target, row in zip(frequencies, rows, strict=True):
        target[: len(row)] = row
    minima = np.where(lengths > 1, -(lengths - 2) // 2, 0).astype(np.int32)
    return FrequencyTables(frequencies, lengths, minima)


def gaussian_row(scale: float) -> NDArray[np.int64]:
    """Frequencies of the symbols -K .. K and the escape, K five standard deviations."""
    reach = max(1, math.ceil(TABLE_WIDTH_SCALES * scale))
    edges = (np.arange(-reach, reach + 2) - 0.5) / (scale * math.sqrt(2))
    below = np.array([math.erfc(-edge) / 2 for edge in edges])
    free = TOTAL - ESCAPE_FREQUENCY - MIN_FREQUENCY * (2 * reach + 1)
    share = np.diff(below) / (below[-1] - below[0])
    row = np.floor(share * free).astype(np.int64) + MIN_FREQUENCY
    row[reach] += TOTAL - ESCAPE_FREQUENCY - row.sum()
    return np.append(row, ESCAPE_FREQUENCY)


def coder() -> Any:
    """constriction's stream module. Raises DependencyError where it is not installed."""
    try:
        import constriction
    except ImportError as error:
        raise DependencyError("entropy coding needs the package constriction: pip install constriction==0.5.0") from error
    return constriction.stream


def categorical(frequencies: IntArray) -> Any:
    """A constriction model that uses exactly `frequencies / 2^24`: it adds one to each of the weights that it is given."""
    return coder().model.Categorical((frequencies - 1).astype(np.float64), perfect=False)


def runs(table_index: IntArray, tables: FrequencyTables) -> Iterator[tuple[int, NDArray[np.intp]]]:
    """Tables in rising order with the positions of their symbols, in the symbols' order."""
    order = np.argsort(table_index, kind="stable")
    bounds = np.searchsorted(table_index[order], np.arange(len(tables.lengths) + 1))
    for table in np.flatnonzero(np.diff(bounds)):
        yield int(table), order[bounds[table] : bounds[table + 1]]


def check_index(table_index: IntArray, tables: FrequencyTables) -> None:
    if not np.issubdtype(table_index.dtype, np.integer):
        raise TypeError(f"table indices must be integers, got {table_index.dtype}")
    if table_index.ndim != 1 or (len(table_index) and int(table_index.max()) >= len(tables.lengths)):
        raise ValueError("table indices must be one row within the tables")
    if len(table_index) and int(table_index.min()) < 0:
        raise ValueError("table indices must not be negative")


def symbol_entries(symbols: Int32Array, table: int, tables: FrequencyTables) -> Int32Array:
    """Positions of the symbols in their table's row; what it does not cover becomes the escape."""
    escape = int(tables.lengths[table]) - 1
    entries = symbols - int(tables.minima[table])
    return np.where((entries < 0) | (entries >= escape), escape, entries).astype(np.int32)


class SymbolEncoder:
    """Appends groups of symbols to one byte string."""

    def __init__(self) -> None:
        self._coder = coder().queue.RangeEncoder()

    def encode(self, symbols: Int32Array, table_index: IntArray, tables: FrequencyTables) -> None:
        """Code `symbols` int32 [N], each under the table `table_index` [N] names.

        Raises TypeError for other dtypes; ValueError for unequal lengths, an index out of range, a symbol beyond 2^20, or
        one that is not 0 under a table that is not coded.
        """
        if symbols.dtype != np.int32:
            raise TypeError(f"symbols must be int32, got {symbols.dtype}")
        check_index(table_index, tables)
        if symbols.shape != table_index.shape:
            raise ValueError(f"{symbols.shape} symbols but {table_index.shape} table indices")
        escaped = []
        for table, positions in runs(table_index, tables):
            chosen = symbols[positions]
            if tables.lengths[table] == 1:
                if np.any(chosen):
                    raise ValueError("a symbol under a table that is not coded must be 0")
                continue
            entries = symbol_entries(chosen, table, tables)
            self._coder.encode(entries, tables.models[table])
            escaped.append(positions[entries == tables.lengths[table] - 1])
        self._encode_escapes(symbols, table_index, tables, np.sort(np.concatenate([np.zeros(0, np.intp), *escaped])))

    def _encode_escapes(
        self, symbols: Int32Array, table_index: IntArray, tables: FrequencyTables, positions: NDArray[np.intp]
    ) -> None:
        if not len(positions):
            return
        table = table_index[positions]
        lowest = tables.minima[table].astype(np.int64)
        highest = lowest + tables.lengths[table] - 2
        values = symbols[positions].astype(np.int64)
        negative = values < lowest
        distance = np.where(negative, lowest - values, values - highest)
        n_bits = np.array([int(d).bit_length() - 1 for d in distance])
        if n_bits.max() >= MAX_ESCAPE_BITS:
            raise ValueError(f"a symbol is beyond 2^{MAX_ESCAPE_BITS}")
        self._encode_bits((n_bits << 1 | negative), np.full(len(n_bits), ESCAPE_COUNT_BITS + 1))
        self._encode_bits(distance - (1 << n_bits), n_bits)

    def _encode_bits(self, values: NDArray[np.int64], widths: NDArray[np.int64]) -> None:
        """The low `widths` bits of each value, highest first, at one bit each."""
        bits = [value >> shift & 1 for value, width in zip(values.tolist(), widths.tolist(), strict=True)
                for shift in range(width - 1, -1, -1)]  # fmt: skip
        if bits:
            self._coder.encode(np.array(bits, dtype=np.int32), fair_bit())

    def finish(self) -> bytes:
        """The shortest byte string that decodes to what was encoded: a decoder reads zeros after its end."""
        words = self._coder.get_compressed()
        n_words, (lower, width) = self._coder.pos()
        n_bits = 32 * n_words + 64
        final = int.from_bytes(words.astype(">u4").tobytes(), "big") << (n_bits - 32 * len(words))
        start = final - ((final - lower) & (2**64 - 1))
        for n_bytes in range(n_bits // 8 - 7, n_bits // 8 + 1):
            unit = n_bits - 8 * n_bytes
            value = -(-start >> unit) if unit == 0 else (start + (1 << unit) - 1) >> unit
            if value << unit < start + width:
                return value.to_bytes(n_bytes, "big").rstrip(b"\0")
        raise AssertionError("the final interval of a range coder holds a whole word")


class SymbolDecoder:
    """Reads groups of symbols from one byte string, in the order in which they were encoded."""

    def __init__(self, data: bytes) -> None:
        padded = data + bytes(-len(data) % WORD_BYTES)
        self._coder = coder().queue.RangeDecoder(np.frombuffer(padded, dtype=">u4").astype(np.uint32))

    def decode(self, table_index: IntArray, tables: FrequencyTables) -> Int32Array:
        """The symbols int32 [N] under the tables that `table_index` [N] names. Raises CorruptDataError, TypeError, ValueError."""
        check_index(table_index, tables)
        symbols = np.zeros(len(table_index), dtype=np.int32)
        escaped = []
        for table, positions in runs(table_index, tables):
            if tables.lengths[table] == 1:
                continue
            entries = self._decode_run(tables.models[table], len(positions))
            symbols[positions] = entries + tables.minima[table]
            escaped.append(positions[entries == tables.lengths[table] - 1])
        self._decode_escapes(symbols, table_index, tables, np.sort(np.concatenate([np.zeros(0, np.intp), *escaped])))
        return symbols

    def _decode_run(self, model: Any, count: int) -> Int32Array:
        try:
            entries: Int32Array = self._coder.decode(model, count)
        except AssertionError as error:
            raise CorruptDataError("a segment holds data that no encoder writes") from error
        return entries

    def _decode_escapes(
        self, symbols: Int32Array, table_index: IntArray, tables: FrequencyTables, positions: NDArray[np.intp]
    ) -> None:
        if not len(positions):
            return
        heads = self._decode_bits(np.full(len(positions), ESCAPE_COUNT_BITS + 1))
        n_bits, negative = heads >> 1, heads & 1
        if n_bits.max() >= MAX_ESCAPE_BITS:
            raise CorruptDataError("an escaped symbol is out of range")
        distance = self._decode_bits(n_bits) + (1 << n_bits)
        table = table_index[positions]
        lowest = tables.minima[table].astype(np.int64)
        highest = lowest + tables.lengths[table] - 2
        symbols[positions] = np.where(negative == 1, lowest - distance, highest + distance)

    def _decode_bits(self, widths: NDArray[np.int64]) -> NDArray[np.int64]:
        total = int(widths.sum())
        bits = iter(self._decode_run(fair_bit(), total).tolist() if total else ())
        values = []
        for width in widths.tolist():
            value = 0
            for _ in range(width):
                value = value << 1 | next(bits)
            values.append(value)
        return np.array(values, dtype=np.int64)


def fair_bit() -> Any:
    return categorical(np.array([TOTAL // 2, TOTAL // 2]))


def ideal_bits(symbols: Int32Array, table_index: IntArray, tables: FrequencyTables) -> float:
    """What an ideal coder spends under the integer frequencies, escapes included."""
    total = 0.0
    for table, positions in runs(table_index, tables):
        if tables.lengths[table] == 1:
            continue
        entries = symbol_entries(symbols[positions], table, tables)
        total -= float(np.log2(tables.frequencies[table][entries] / TOTAL).sum())
        lowest, escape = int(tables.minima[table]), int(tables.lengths[table]) - 1
        for value in symbols[positions][entries == escape].tolist():
            distance = lowest - value if value < lowest else value - (lowest + escape - 1)
            total += ESCAPE_COUNT_BITS + distance.bit_length()
    return total
