"""Symbols to bytes and back, in integers only: frequency tables and the range coder of `constriction`.

`docs/format.md` is the specification. Symbols are grouped by table and each group is coded as one run; what a table
does not cover is coded as its escape entry, and its distance from the table follows after the runs. A float dtype
anywhere is a TypeError.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ulcodec.coding.range_coder import PRECISION_BITS, TOTAL
from ulcodec.coding.tables import MAX_TABLES, FrequencyTables, Int32Array, IntArray, categorical, coder
from ulcodec.errors import CorruptDataError

ELEMENTS_AT_ONCE = 2**20
"""What is sorted or looked up together, which bounds the memory for that."""
MAX_SYMBOL = 2**20 - 1
ESCAPE_HEAD_BITS = 6
POWERS_OF_TWO = 1 << np.arange(2 ** (ESCAPE_HEAD_BITS - 1))
WORD_BYTES = 4
REST_BYTES = 16
"""What stands for the unknown rest of a byte string: more than the 8 bytes that a coder looks ahead."""

FRONT_CHUNK = 64


def fair_bit() -> Any:
    return categorical(np.array([TOTAL // 2, TOTAL // 2]))


def check_index(table_index: IntArray, tables: FrequencyTables) -> None:
    if not np.issubdtype(table_index.dtype, np.integer):
        raise TypeError(f"table indices must be integers, got {table_index.dtype}")
    if table_index.ndim != 1:
        raise ValueError(f"table indices must be one row, got {table_index.shape}")
    if len(table_index) and not 0 <= int(table_index.min()) <= int(table_index.max()) < len(tables.lengths):
        raise ValueError(f"table indices must be 0 to {len(tables.lengths) - 1}")


def portions(elements: IntArray) -> Iterator[slice]:
    """Some elements at a time: what is done with them takes several times their memory."""
    for start in range(0, len(elements), ELEMENTS_AT_ONCE):
        yield slice(start, start + ELEMENTS_AT_ONCE)


def sorted_positions(table_index: IntArray, tables: FrequencyTables) -> NDArray[np.intp]:
    """Positions of the coded elements: by falling table, and in their own order within one."""
    coded = np.flatnonzero((tables.escapes > 0)[table_index])
    return coded[np.argsort(MAX_TABLES - 1 - table_index[coded].astype(np.uint8), kind="stable")]


def runs(counts: IntArray, tables: FrequencyTables) -> Iterator[tuple[int, slice]]:
    """Each table under which elements are coded, of `counts` [T] of them, and where they are in coding order."""
    start = 0
    for table in np.flatnonzero(np.where(tables.escapes > 0, counts, 0))[::-1].tolist():
        yield table, slice(start, start + int(counts[table]))
        start += int(counts[table])


def count_tables(table_index: IntArray, tables: FrequencyTables) -> NDArray[np.intp]:
    """Number of elements under each table, [T]."""
    check_index(table_index, tables)
    counts = np.zeros(len(tables.lengths), dtype=np.intp)
    for part in portions(table_index):
        counts += np.bincount(table_index[part], minlength=len(counts))
    return counts


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


class SymbolGroup:
    """The symbols of a group as they will be coded: collected in parts, sorted by table, a byte or two each."""

    def __init__(self, tables: FrequencyTables) -> None:
        self.tables = tables
        self.entries: list[list[IntArray]] = [[] for _ in tables.lengths]
        self.escaped: list[tuple[IntArray, IntArray]] = [(np.empty(0, np.int32), np.empty(0, np.intp))]

    def add(self, symbols: Int32Array, table_index: IntArray) -> None:
        """Append `symbols` int32 [N], each under the table that `table_index` [N] names.

        Raises TypeError for other dtypes; ValueError for unequal lengths, an index out of range, a symbol beyond
        `MAX_SYMBOL`, or one that is not 0 under a table that is not coded.
        """
        check_index(table_index, self.tables)
        check_symbols(symbols, table_index)
        for part in portions(table_index):
            self.add_portion(symbols[part], table_index[part])

    def add_portion(self, symbols: Int32Array, table_index: IntArray) -> None:
        tables, order = self.tables, sorted_positions(table_index, self.tables)
        coded, index = symbols[order], table_index[order]
        if np.count_nonzero(symbols) != np.count_nonzero(coded):
            raise ValueError("a symbol under a table that is not coded must be 0")
        entries = table_entries(coded, index, tables)
        for table, run in runs(np.bincount(index, minlength=len(tables.lengths)), tables):
            self.entries[table].append(entries[run].astype(np.min_scalar_type(tables.escapes[table])))
        escaped = np.sort(order[entries == tables.escapes[index]])
        self.escaped.append((symbols[escaped], table_index[escaped]))


class SymbolEncoder:
    """Appends groups of symbols to one byte string."""

    def __init__(self) -> None:
        self._coder = coder().queue.RangeEncoder()

    def encode(self, symbols: Int32Array, table_index: IntArray, tables: FrequencyTables) -> None:
        """Code a group of symbols; see `SymbolGroup.add`. Nothing is appended if that raises."""
        group = SymbolGroup(tables)
        group.add(symbols, table_index)
        self.encode_group(group)

    def encode_group(self, group: SymbolGroup) -> None:
        tables = group.tables
        for entries, model in zip(group.entries[::-1], tables.models[::-1], strict=True):
            for part in entries:
                self._coder.encode(part.astype(np.int32), model)
        symbols, index = (np.concatenate(parts) for parts in zip(*group.escaped, strict=True))
        heads, distance = escape_code(symbols, index, tables)
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


class DecodedGroup:
    """The symbols of a group, sorted by table: `take` gives them in the order of the group.

    `entries`: of each table; entries that are missing at its end stand for symbols that are not known, which are 0.
    `heads` and `low_bits` of the escaped ones as in `escaped_symbols`, or None for symbols that are not known.
    """

    def __init__(
        self,
        tables: FrequencyTables,
        entries: Mapping[int, IntArray],
        escapes: tuple[IntArray, IntArray] | None = None,
    ) -> None:
        self.tables, self.entries, self.escapes = tables, entries, escapes
        self.taken = np.zeros(len(tables.lengths), dtype=np.intp)
        self.n_escapes_taken = 0

    def take(self, table_index: IntArray) -> Int32Array:
        """The next symbols, int32 [N], under the tables that `table_index` [N] names.

        Raises CorruptDataError for a symbol beyond `MAX_SYMBOL`.
        """
        parts = [self.take_portion(table_index[part]) for part in portions(table_index)]
        return np.concatenate([np.empty(0, np.int32), *parts]) if len(parts) != 1 else parts[0]

    def take_portion(self, table_index: IntArray) -> Int32Array:
        order = sorted_positions(table_index, self.tables)
        symbols = np.zeros(len(table_index), dtype=np.int32)
        escaped = [np.empty(0, order.dtype)]
        counts = np.bincount(table_index[order], minlength=len(self.tables.lengths))
        for table, run in runs(counts, self.tables):
            found = self.entries[table][self.taken[table] : self.taken[table] + run.stop - run.start]
            own = order[run][: len(found)]
            symbols[own] = found + self.tables.minima[table]
            escaped.append(own[found == self.tables.escapes[table]])
        self.taken += counts
        places = np.sort(np.concatenate(escaped))
        symbols[places] = self.take_escapes(table_index[places])
        return symbols

    def take_escapes(self, table_index: IntArray) -> IntArray:
        if self.escapes is None:
            return np.zeros(len(table_index), dtype=np.int32)
        part = slice(self.n_escapes_taken, self.n_escapes_taken + len(table_index))
        self.n_escapes_taken = part.stop
        heads, low_bits = self.escapes
        symbols = escaped_symbols(heads[part], low_bits[part], table_index, self.tables)
        if np.any((symbols < -MAX_SYMBOL) | (symbols > MAX_SYMBOL)):
            raise CorruptDataError(f"an escaped symbol is beyond {MAX_SYMBOL}")
        return symbols


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
        return self.decode_group(count_tables(table_index, tables), tables).take(table_index)

    def decode_group(self, counts: IntArray, tables: FrequencyTables) -> DecodedGroup:
        """The group of `counts` [T] elements under each table. Raises CorruptDataError as `decode`."""
        entries: dict[int, IntArray] = {}
        n_escapes = 0
        for table, run in runs(counts, tables):
            entries[table] = np.empty(run.stop - run.start, np.min_scalar_type(tables.escapes[table]))
            for part in portions(entries[table]):
                entries[table][part] = self._decode_run(tables.models[table], len(entries[table][part]))
            n_escapes += np.count_nonzero(entries[table] == tables.escapes[table])
        heads = self._decode_bits(np.full(n_escapes, ESCAPE_HEAD_BITS))
        return DecodedGroup(tables, entries, (heads, self._decode_bits(heads >> 1)))

    def _decode_run(self, model: Any, count: int) -> Int32Array:
        try:
            entries: Int32Array = self._coder.decode(model, count)
        except AssertionError as error:
            raise CorruptDataError("a segment holds data that no encoder writes") from error
        self._echo.encode(entries, model)
        return entries

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


def decode_prefix(data: bytes, table_index: IntArray, tables: FrequencyTables) -> Int32Array:
    """What the front of the byte string of one group says: its symbols int32 [N], 0 for all that is not sure."""
    return decode_group_prefix(data, count_tables(table_index, tables), tables).take(table_index)


def decode_group_prefix(data: bytes, counts: IntArray, tables: FrequencyTables) -> DecodedGroup:
    """What the front of the byte string of one group of `counts` [T] elements says.

    A symbol is sure if it is the same whatever follows, and no escape, whose rest comes at the end.
    """
    entries: dict[int, IntArray] = {table: np.empty(0, np.int32) for table, _ in runs(counts, tables)}
    lowest, highest = (range_decoder(data + byte * (REST_BYTES + -len(data) % WORD_BYTES)) for byte in (b"\0", b"\xff"))
    for table, run in runs(counts, tables):
        entries[table] = sure_entries(lowest, highest, tables.models[table], run.stop - run.start)
        if len(entries[table]) < run.stop - run.start:
            break
    return DecodedGroup(tables, entries)


def sure_entries(lowest: Any, highest: Any, model: Any, count: int) -> Int32Array:
    """The first of `count` entries, as far as both decoders agree."""
    found = [np.empty(0, np.int32)]
    for start in range(0, count, FRONT_CHUNK):
        n_now = min(FRONT_CHUNK, count - start)
        try:
            entries, others = (decoder.decode(model, n_now) for decoder in (lowest, highest))
        except AssertionError:
            break
        n_sure = int(np.argmin([*(entries == others), False]))
        found.append(entries[:n_sure])
        if n_sure < n_now:
            break
    return np.concatenate(found)


def ideal_bits(symbols: Int32Array, table_index: IntArray, tables: FrequencyTables) -> float:
    """What an ideal coder spends under the integer frequencies, escapes included. Raises as `SymbolEncoder.encode`."""
    SymbolGroup(tables).add(symbols, table_index)
    order = sorted_positions(table_index, tables)
    index, coded = table_index[order], symbols[order]
    entries = table_entries(coded, index, tables)
    escaped = entries == tables.escapes[index]
    heads, _ = escape_code(coded[escaped], index[escaped], tables)
    runs_bits = PRECISION_BITS * len(order) - np.log2(tables.frequencies[index, entries]).sum()
    return float(runs_bits + ESCAPE_HEAD_BITS * len(heads) + (heads >> 1).sum())
