"""Symbols to bytes and back, in integers only: frequency tables and the range coder of `constriction`.

`docs/format.md` is the specification. Symbols are grouped by table and each group is coded as one run; what a table
does not cover is coded as its escape entry, and its distance from the table follows after the runs. A float dtype
anywhere is a TypeError.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ulcodec import range_coder
from ulcodec.errors import CorruptDataError, ModelError
from ulcodec.range_coder import PRECISION_BITS, TOTAL

MAX_TABLES = 256

ELEMENTS_AT_ONCE = 2**22
"""What is sorted or looked up together, which bounds the memory for that."""

MAX_TABLE_LENGTH = 4096
MAX_SYMBOL = 2**20 - 1
MIN_FREQUENCY = 16
ESCAPE_FREQUENCY = 64
TABLE_WIDTH_SCALES = 5.0
ESCAPE_HEAD_BITS = 6
POWERS_OF_TWO = 1 << np.arange(2 ** (ESCAPE_HEAD_BITS - 1))
WORD_BYTES = 4
REST_BYTES = 16
"""What stands for the unknown rest of a byte string: more than the 8 bytes that a coder looks ahead."""

FRONT_CHUNK = 64

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
            raise ModelError("frequency tables must be int32, one row a table")
        n_tables, width = self.frequencies.shape
        if not 1 <= n_tables <= MAX_TABLES or {len(array) for array in arrays} != {n_tables}:
            raise ModelError(f"need 1 to {MAX_TABLES} frequency tables, all arrays of that length")
        if width > MAX_TABLE_LENGTH or np.any((self.lengths < 1) | (self.lengths > width)):
            raise ModelError("a frequency table has a length out of range")
        if np.any((self.minima < -MAX_TABLE_LENGTH) | (self.minima > MAX_TABLE_LENGTH)):
            raise ModelError("a frequency table begins at a symbol out of range")
        used = np.arange(width) < self.lengths[:, None]
        if np.any((self.frequencies >= 1) != used) or np.any(self.frequencies < 0):
            raise ModelError("frequencies must be at least 1 where used, 0 elsewhere")
        if np.any(self.frequencies.sum(axis=1, dtype=np.int64) != TOTAL):
            raise ModelError(f"the frequencies of a table must sum to {TOTAL}")

    @cached_property
    def models(self) -> list[Any]:
        """One constriction model a table, None where nothing is coded."""
        return [
            categorical(row[:length]) if length > 1 else None
            for row, length in zip(self.frequencies, self.lengths, strict=True)
        ]

    @cached_property
    def escapes(self) -> Int32Array:
        """Position of each table's escape, int32 [T]: also the number of symbols that it covers."""
        return (self.lengths - 1).astype(np.int32, copy=False)


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


def fit_tables(tables: FrequencyTables, counts: NDArray[np.int64], prior_count: float = 200.0) -> FrequencyTables:
    """Tables of the same reach for symbols that were counted: `counts` int64 [T, L] of each row's entries.

    `tables` are symmetric around 0, and so is the result; they count as `prior_count` symbols more in every row.
    """
    frequencies = np.zeros_like(tables.frequencies)
    for fitted, given, counted, length in zip(frequencies, tables.frequencies, counts, tables.lengths, strict=True):
        share = counted[:length] + prior_count * given[:length] / TOTAL
        share[:-1] += share[:-1][::-1].copy()
        share[:-1] /= 2
        free = TOTAL - MIN_FREQUENCY * length
        fitted[:length] = np.floor(share / share.sum() * free) + MIN_FREQUENCY
        fitted[(length - 1) // 2] += TOTAL - fitted.sum()
    return FrequencyTables(frequencies, tables.lengths, tables.minima)


def coder() -> Any:
    """constriction's stream module, or ours in plain Python where it is not installed: both give the same bytes."""
    try:
        import constriction
    except ImportError:
        return range_coder
    return constriction.stream


def categorical(frequencies: IntArray) -> Any:
    """A constriction model of exactly `frequencies / 2^24`: it adds one to each weight that it is given."""
    return coder().model.Categorical((frequencies - 1).astype(np.float64), perfect=False)


def fair_bit() -> Any:
    return categorical(np.array([TOTAL // 2, TOTAL // 2]))


def check_index(table_index: IntArray, tables: FrequencyTables) -> None:
    if not np.issubdtype(table_index.dtype, np.integer):
        raise TypeError(f"table indices must be integers, got {table_index.dtype}")
    if table_index.ndim != 1:
        raise ValueError(f"table indices must be one row, got {table_index.shape}")
    if len(table_index) and not 0 <= int(table_index.min()) <= int(table_index.max()) < len(tables.lengths):
        raise ValueError(f"table indices must be 0 to {len(tables.lengths) - 1}")


def coding_order(table_index: IntArray, tables: FrequencyTables) -> IntArray:
    """Positions of the coded elements: by falling table, and in their own order within one."""
    check_index(table_index, tables)
    is_coded = tables.escapes > 0
    places = dict(runs(table_index, tables))
    n_coded = sum(place.stop - place.start for place in places.values())
    order = np.empty(n_coded, dtype=np.min_scalar_type(len(table_index)))
    following = {table: place.start for table, place in places.items()}
    for number, part in enumerate(portions(table_index)):
        own = sorted_positions(part, is_coded)
        for table, run in runs(part, tables):
            place = slice(following[table], following[table] + run.stop - run.start)
            order[place] = own[run] + number * ELEMENTS_AT_ONCE
            following[table] = place.stop
    return order


def portions(elements: IntArray) -> Iterator[IntArray]:
    """Some elements at a time: what is done with them takes several times their memory."""
    for start in range(0, len(elements), ELEMENTS_AT_ONCE):
        yield elements[start : start + ELEMENTS_AT_ONCE]


def sorted_positions(table_index: IntArray, is_coded: NDArray[np.bool_]) -> NDArray[np.intp]:
    coded = np.flatnonzero(is_coded[table_index])
    return coded[np.argsort(MAX_TABLES - 1 - table_index[coded].astype(np.uint8), kind="stable")]


def runs(table_index: IntArray, tables: FrequencyTables) -> Iterator[tuple[int, slice]]:
    """Each table under which elements are coded, with where they are in coding order."""
    counts = np.zeros(len(tables.lengths), dtype=np.intp)
    for part in portions(table_index):
        counts += np.bincount(part, minlength=len(counts))
    start = 0
    for table in np.flatnonzero(np.where(tables.escapes > 0, counts, 0))[::-1].tolist():
        yield table, slice(start, start + int(counts[table]))
        start += int(counts[table])


def table_entries(symbols: Int32Array, table_index: IntArray, tables: FrequencyTables) -> Int32Array:
    """Positions of the symbols in their table's row; what it does not cover becomes the escape."""
    entries, escapes = symbols - tables.minima[table_index], tables.escapes[table_index]
    return np.where((entries < 0) | (entries >= escapes), escapes, entries).astype(np.int32, copy=False)


def covered_range(table_index: IntArray, tables: FrequencyTables) -> tuple[IntArray, IntArray]:
    """First and last symbol that each table covers, int32."""
    first = tables.minima[table_index]
    return first, first + tables.escapes[table_index] - 1


def escape_code(symbols: Int32Array, table_index: IntArray, tables: FrequencyTables) -> tuple[IntArray, IntArray]:
    """Escaped symbols as `(head, distance)`: `head = 2 n_bits + below`, and `distance` has `n_bits + 1` bits."""
    first, last = covered_range(table_index, tables)
    below = symbols < first
    distance = np.where(below, first - symbols, symbols - last)
    n_bits = np.searchsorted(POWERS_OF_TWO, distance, side="right") - 1
    return 2 * n_bits + below, distance


def escaped_symbols(heads: IntArray, low_bits: IntArray, table_index: IntArray, tables: FrequencyTables) -> IntArray:
    """Inverse of `escape_code`, `low_bits` being the distances without their top bit."""
    first, last = covered_range(table_index, tables)
    distance = low_bits + (1 << (heads >> 1))
    return np.where(heads & 1, first - distance, last + distance)


def bit_places(widths: IntArray) -> tuple[IntArray, IntArray]:
    """For numbers of `widths` bits written one after another, highest bit first: each bit's number and its shift."""
    number = np.repeat(np.arange(len(widths)), widths)
    return number, np.repeat(np.cumsum(widths), widths) - 1 - np.arange(len(number))


def shortest_bytes(range_encoder: Any) -> bytes:
    """The shortest byte string in a range coder's final interval, and of that length the smallest.

    A decoder reads zeros after its end. `start` is the lower end in full: the coder keeps only its low 64 bits.
    """
    n_words, (lower, width) = range_encoder.pos()
    words = range_encoder.get_compressed()
    n_bits = 32 * n_words + 64
    inside = int.from_bytes(words.astype(">u4").tobytes(), "big") << (n_bits - 32 * len(words))
    start = inside - (inside - int(lower)) % 2**64
    for n_bytes in range(4 * n_words, n_bits // 8):
        shift = n_bits - 8 * n_bytes
        value = -(-start >> shift)
        if value << shift < start + int(width):
            return bytes(value.to_bytes(n_bytes, "big").rstrip(b"\0"))
    raise AssertionError("an interval of 2^32 or more holds a multiple of 2^8")


class SymbolEncoder:
    """Appends groups of symbols to one byte string."""

    def __init__(self) -> None:
        self._coder = coder().queue.RangeEncoder()

    def encode(self, symbols: Int32Array, table_index: IntArray, tables: FrequencyTables) -> None:
        """Code `symbols` int32 [N], each under the table that `table_index` [N] names.

        Raises TypeError for other dtypes; ValueError for unequal lengths, an index out of range, a symbol beyond
        `MAX_SYMBOL`, or one that is not 0 under a table that is not coded. Nothing is appended then.
        """
        order = coding_order(table_index, tables)
        check_symbols(symbols, table_index)
        if np.count_nonzero(symbols) != sum(np.count_nonzero(symbols[part]) for part in portions(order)):
            raise ValueError("a symbol under a table that is not coded must be 0")
        escapes = [np.empty(0, order.dtype)]
        for table, run in runs(table_index, tables):
            for positions in portions(order[run]):
                entries = table_entries(symbols[positions], table_index[positions], tables)
                self._coder.encode(entries, tables.models[table])
                escapes.append(positions[entries == tables.escapes[table]])
        escaped = np.sort(np.concatenate(escapes))
        heads, distance = escape_code(symbols[escaped], table_index[escaped], tables)
        self._encode_bits(heads, np.full(len(heads), ESCAPE_HEAD_BITS))
        self._encode_bits(distance, heads >> 1)

    def _encode_bits(self, values: IntArray, widths: IntArray) -> None:
        """The low `widths` bits of each value, highest first."""
        number, shift = bit_places(widths)
        bits = values[number] >> shift & 1
        if len(bits):
            self._coder.encode(bits.astype(np.int32), fair_bit())

    def finish(self) -> bytes:
        """The byte string; it never ends in a zero byte."""
        return shortest_bytes(self._coder)


def check_symbols(symbols: Int32Array, table_index: IntArray) -> None:
    if symbols.dtype != np.int32:
        raise TypeError(f"symbols must be int32, got {symbols.dtype}")
    if symbols.shape != table_index.shape:
        raise ValueError(f"{symbols.shape} symbols but {table_index.shape} table indices")
    if np.any((symbols < -MAX_SYMBOL) | (symbols > MAX_SYMBOL)):
        raise ValueError(f"a symbol is beyond {MAX_SYMBOL}")


def range_decoder(words: bytes) -> Any:
    return coder().queue.RangeDecoder(np.frombuffer(words, dtype=">u4").astype(np.uint32))


class SymbolDecoder:
    """Reads groups of symbols from one byte string, in the order in which they were encoded.

    What it has read it codes again, at a tenth of the cost of decoding, so that `finish` can compare every byte.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._coder = range_decoder(data + bytes(-len(data) % WORD_BYTES))
        self._echo = coder().queue.RangeEncoder()

    def decode(self, table_index: IntArray, tables: FrequencyTables) -> Int32Array:
        """The symbols int32 [N] under the tables that `table_index` [N] names.

        Raises TypeError and ValueError as `SymbolEncoder.encode`; CorruptDataError for data that it cannot have made.
        """
        order = coding_order(table_index, tables)
        symbols = np.zeros(len(table_index), dtype=np.int32)
        escapes = [np.empty(0, order.dtype)]
        for table, run in runs(table_index, tables):
            entries = self._decode_run(tables.models[table], run.stop - run.start)
            symbols[order[run]] = entries + tables.minima[table]
            escapes.append(order[run][entries == tables.escapes[table]])
        escaped = np.sort(np.concatenate(escapes))
        symbols[escaped] = self._decode_escapes(table_index[escaped], tables)
        return symbols

    def _decode_run(self, model: Any, count: int) -> Int32Array:
        try:
            entries: Int32Array = self._coder.decode(model, count)
        except AssertionError as error:
            raise CorruptDataError("a segment holds data that no encoder writes") from error
        self._echo.encode(entries, model)
        return entries

    def _decode_escapes(self, table_index: IntArray, tables: FrequencyTables) -> IntArray:
        heads = self._decode_bits(np.full(len(table_index), ESCAPE_HEAD_BITS))
        symbols = escaped_symbols(heads, self._decode_bits(heads >> 1), table_index, tables)
        if np.any((symbols < -MAX_SYMBOL) | (symbols > MAX_SYMBOL)):
            raise CorruptDataError(f"an escaped symbol is beyond {MAX_SYMBOL}")
        return symbols

    def _decode_bits(self, widths: IntArray) -> NDArray[np.int64]:
        number, shift = bit_places(widths)
        values = np.zeros(len(widths), dtype=np.int64)
        if len(number):
            np.add.at(values, number, self._decode_run(fair_bit(), len(number)).astype(np.int64) << shift)
        return values

    def finish(self) -> None:
        """Check the whole byte string: CorruptDataError if it is not the one that encodes what has been decoded."""
        if shortest_bytes(self._echo) != self._data:
            raise CorruptDataError("a segment is not what an encoder writes for its symbols")


def decode_front(data: bytes, table_index: IntArray, tables: FrequencyTables) -> Int32Array:
    """What the front of the byte string of one group says: its symbols int32 [N], 0 for all that is not sure.

    A symbol is sure if it is the same whatever follows, and no escape, whose rest comes at the end.
    """
    order = coding_order(table_index, tables)
    symbols = np.zeros(len(table_index), dtype=np.int32)
    lowest, highest = (range_decoder(data + byte * (REST_BYTES + -len(data) % WORD_BYTES)) for byte in (b"\0", b"\xff"))
    for table, run in runs(table_index, tables):
        for start in range(run.start, run.stop, FRONT_CHUNK):
            n_now = min(FRONT_CHUNK, run.stop - start)
            try:
                entries, others = (decoder.decode(tables.models[table], n_now) for decoder in (lowest, highest))
            except AssertionError:
                return symbols
            n_sure = int(np.argmin([*(entries == others), False]))
            sure = entries[:n_sure]
            found = np.where(sure == tables.escapes[table], 0, sure + tables.minima[table])
            symbols[order[start : start + n_sure]] = found
            if n_sure < n_now:
                return symbols
    return symbols


def ideal_bits(symbols: Int32Array, table_index: IntArray, tables: FrequencyTables) -> float:
    """What an ideal coder spends under the integer frequencies, escapes included. Raises as `SymbolEncoder.encode`."""
    order = coding_order(table_index, tables)
    check_symbols(symbols, table_index)
    index, coded = table_index[order], symbols[order]
    entries = table_entries(coded, index, tables)
    escaped = entries == tables.escapes[index]
    heads, _ = escape_code(coded[escaped], index[escaped], tables)
    runs_bits = PRECISION_BITS * len(order) - np.log2(tables.frequencies[index, entries]).sum()
    return float(runs_bits + ESCAPE_HEAD_BITS * len(heads) + (heads >> 1).sum())
