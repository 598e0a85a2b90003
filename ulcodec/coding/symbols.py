"""Symbols to bytes and back, in integers only: grouping by frequency table, escapes, and calls of the range coder.

`docs/format.md` is the specification. Symbols are grouped by table, and each table's symbols are coded as one run. A
symbol that its table does not cover is coded as the escape entry; its distance from the table follows after the runs.
A float dtype anywhere is a TypeError.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ulcodec.coding.backend import fair_bit, range_decoder, range_encoder
from ulcodec.coding.tables import MAX_TABLES, FrequencyTables, Int32Array, IntArray
from ulcodec.errors import CorruptDataError

SYMBOLS_PER_CHUNK = 2**20
"""Number of symbols that are sorted or looked up together, which bounds the memory for that."""

MAX_SYMBOL = 2**20 - 1
ESCAPE_HEAD_BITS = 6
POWERS_OF_TWO = 1 << np.arange(2 ** (ESCAPE_HEAD_BITS - 1))
WORD_BYTES = 4
PADDING_BYTES = 16
"""Length of the padding that stands for the unknown rest of a byte string: a coder looks 8 bytes ahead."""

PREFIX_CHUNK = 64
"""Number of entries that are decoded twice and compared, before it is known that all of them are certain."""


# Encoding


class SymbolEncoder:
    """Encoder that appends groups of symbols to one byte string."""

    def __init__(self) -> None:
        self._coder = range_encoder()

    def encode(self, symbols: Int32Array, table_index: IntArray, tables: FrequencyTables) -> None:
        """Encode a group of symbols; see `SymbolGroup.add`. If that raises, nothing is appended."""
        group = SymbolGroup(tables)
        group.add(symbols, table_index)
        self.encode_group(group)

    def encode_group(self, group: "SymbolGroup") -> None:
        """Append a group: a run per table, from the last table to the first, then the escapes."""
        tables = group.tables
        for chunks, model in zip(group.entries[::-1], tables.models[::-1], strict=True):
            for entries in chunks:
                self._coder.encode(entries.astype(np.int32), model)
        symbols, table_index = (np.concatenate(chunks) for chunks in zip(*group.escaped, strict=True))
        heads, distance = escape_code(symbols, table_index, tables)
        self._encode_bits(heads, np.full(len(heads), ESCAPE_HEAD_BITS))
        self._encode_bits(distance, heads >> 1)

    def _encode_bits(self, values: IntArray, widths: IntArray) -> None:
        """Append the low `widths` bits of each value, highest first."""
        number, shift = _bit_places(widths)
        bits = values[number] >> shift & 1
        if len(bits):
            self._coder.encode(bits.astype(np.int32), fair_bit())

    def finish(self) -> bytes:
        """Return the byte string; it never ends in a zero byte."""
        return shortest_bytes(self._coder)


class SymbolGroup:
    """Symbols to encode together: collected in chunks, sorted by table, one or two bytes each."""

    def __init__(self, tables: FrequencyTables) -> None:
        self.tables = tables
        self.entries: list[list[IntArray]] = [[] for _ in tables.lengths]
        self.escaped: list[tuple[IntArray, IntArray]] = [(np.empty(0, np.int32), np.empty(0, np.intp))]

    def add(self, symbols: Int32Array, table_index: IntArray) -> None:
        """Append `symbols` int32 [N], each under the table that `table_index` [N] names.

        Raises TypeError for other dtypes. Raises ValueError for unequal lengths, an index out of range, or a symbol
        beyond `MAX_SYMBOL`. Under a table that is not coded, any symbol but 0 is a ValueError, too.
        """
        _check_index(table_index, self.tables)
        _check_symbols(symbols, table_index)
        for chunk in _chunks(table_index):
            self._add_chunk(symbols[chunk], table_index[chunk])

    def _add_chunk(self, symbols: Int32Array, table_index: IntArray) -> None:
        tables, order = self.tables, sorted_positions(table_index, self.tables)
        sorted_symbols, sorted_index = symbols[order], table_index[order]
        if np.count_nonzero(symbols) != np.count_nonzero(sorted_symbols):
            raise ValueError("a symbol under a table that is not coded must be 0")
        entries = table_entries(sorted_symbols, sorted_index, tables)
        for table, run in _runs(np.bincount(sorted_index, minlength=len(tables.lengths)), tables):
            self.entries[table].append(entries[run].astype(np.min_scalar_type(tables.escapes[table])))
        escaped = np.sort(order[entries == tables.escapes[sorted_index]])
        self.escaped.append((symbols[escaped], table_index[escaped]))


# Decoding


class SymbolDecoder:
    """Decoder that reads groups of symbols from one byte string, in the order in which they were encoded.

    It encodes again what it has decoded, at a tenth of the cost of decoding, so that `finish` can compare every byte.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._coder = range_decoder(data + bytes(-len(data) % WORD_BYTES))
        self._echo = range_encoder()

    def decode(self, table_index: IntArray, tables: FrequencyTables) -> Int32Array:
        """Decode the symbols int32 [N] under the tables that `table_index` [N] names.

        Raises TypeError and ValueError as `SymbolEncoder.encode` does, CorruptDataError for data that no encoder
        writes.
        """
        return self.decode_group(count_tables(table_index, tables), tables).take(table_index)

    def decode_group(self, counts: IntArray, tables: FrequencyTables) -> "DecodedGroup":
        """Decode the group that has `counts` [T] elements under each table. Raises CorruptDataError as `decode`."""
        entries: dict[int, IntArray] = {}
        n_escapes = 0
        for table, run in _runs(counts, tables):
            entries[table] = np.empty(run.stop - run.start, np.min_scalar_type(tables.escapes[table]))
            for chunk in _chunks(entries[table]):
                entries[table][chunk] = self._decode_run(tables.models[table], len(entries[table][chunk]))
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
        """Read numbers of `widths` bits, highest bit first."""
        number, shift = _bit_places(widths)
        values = np.zeros(len(widths), dtype=np.int64)
        if len(number):
            np.add.at(values, number, self._decode_run(fair_bit(), len(number)).astype(np.int64) << shift)
        return values

    def finish(self) -> None:
        """Check the byte string. Raises CorruptDataError unless it is the one that encodes the decoded symbols."""
        if shortest_bytes(self._echo) != self._data:
            raise CorruptDataError("a segment is not what an encoder writes for its symbols")


class DecodedGroup:
    """Decoded symbols of a group, sorted by table; `take` returns them in the order of the group.

    `entries` lists the entries of each table. Entries that are missing at the end of a table are unknown symbols,
    which are 0. `escapes` holds heads and low bits as in `_escaped_symbols`, None if escaped symbols are unknown.
    """

    def __init__(
        self,
        tables: FrequencyTables,
        entries: Mapping[int, IntArray],
        escapes: tuple[IntArray, IntArray] | None = None,
    ) -> None:
        self._tables, self._entries, self._escapes = tables, entries, escapes
        self._n_taken = np.zeros(len(tables.lengths), dtype=np.intp)
        self._n_escapes_taken = 0

    def take(self, table_index: IntArray) -> Int32Array:
        """Return the next symbols, int32 [N], under the tables that `table_index` [N] names.

        Raises CorruptDataError for a symbol beyond `MAX_SYMBOL`.
        """
        symbols = [self._take_chunk(table_index[chunk]) for chunk in _chunks(table_index)]
        return np.concatenate([np.empty(0, np.int32), *symbols]) if len(symbols) != 1 else symbols[0]

    def _take_chunk(self, table_index: IntArray) -> Int32Array:
        order = sorted_positions(table_index, self._tables)
        symbols = np.zeros(len(table_index), dtype=np.int32)
        escaped = [np.empty(0, order.dtype)]
        counts = np.bincount(table_index[order], minlength=len(self._tables.lengths))
        for table, run in _runs(counts, self._tables):
            start = self._n_taken[table]
            entries = self._entries[table][start : start + run.stop - run.start]
            positions = order[run][: len(entries)]
            symbols[positions] = entries + self._tables.minima[table]
            escaped.append(positions[entries == self._tables.escapes[table]])
        self._n_taken += counts
        escaped_positions = np.sort(np.concatenate(escaped))
        symbols[escaped_positions] = self._take_escapes(table_index[escaped_positions])
        return symbols

    def _take_escapes(self, table_index: IntArray) -> IntArray:
        if self._escapes is None:
            return np.zeros(len(table_index), dtype=np.int32)
        taken = slice(self._n_escapes_taken, self._n_escapes_taken + len(table_index))
        self._n_escapes_taken = taken.stop
        heads, low_bits = self._escapes
        symbols = _escaped_symbols(heads[taken], low_bits[taken], table_index, self._tables)
        if np.any((symbols < -MAX_SYMBOL) | (symbols > MAX_SYMBOL)):
            raise CorruptDataError(f"an escaped symbol is beyond {MAX_SYMBOL}")
        return symbols


def decode_prefix(data: bytes, table_index: IntArray, tables: FrequencyTables) -> Int32Array:
    """Decode a prefix of the byte string of one group: symbols int32 [N], 0 where they are not certain."""
    return decode_group_prefix(data, count_tables(table_index, tables), tables).take(table_index)


def decode_group_prefix(data: bytes, counts: IntArray, tables: FrequencyTables) -> DecodedGroup:
    """Decode a prefix of the byte string of one group that has `counts` [T] elements under each table.

    A symbol is certain if it is the same whatever bytes follow. An escape never is: its distance comes after all runs.
    """
    entries: dict[int, IntArray] = {table: np.empty(0, np.int32) for table, _ in _runs(counts, tables)}
    n_padding = PADDING_BYTES + -len(data) % WORD_BYTES
    lowest, highest = (range_decoder(data + byte * n_padding) for byte in (b"\0", b"\xff"))
    for table, run in _runs(counts, tables):
        entries[table] = _certain_entries(lowest, highest, tables.models[table], run.stop - run.start)
        if len(entries[table]) < run.stop - run.start:
            break
    return DecodedGroup(tables, entries)


def _certain_entries(lowest: Any, highest: Any, model: Any, count: int, at_once: int = PREFIX_CHUNK) -> Int32Array:
    """Return the first of `count` entries, up to the first on which the two decoders differ, or that one cannot read.

    `at_once`: entries that are decoded before they are compared.
    """
    certain = [np.empty(0, np.int32)]
    for start in range(0, count, at_once):
        n_now = min(at_once, count - start)
        before = lowest.clone(), highest.clone()
        try:
            entries, others = (decoder.decode(model, n_now) for decoder in (lowest, highest))
        except AssertionError:
            if n_now > 1:
                certain.append(_certain_entries(*before, model, n_now, at_once=1))
            break
        n_certain = int(np.argmin([*(entries == others), False]))
        certain.append(entries[:n_certain])
        if n_certain < n_now:
            break
    return np.concatenate(certain)


# The order of coding, which both directions share


def count_tables(table_index: IntArray, tables: FrequencyTables) -> NDArray[np.intp]:
    """Count the elements under each table: [T]."""
    _check_index(table_index, tables)
    counts = np.zeros(len(tables.lengths), dtype=np.intp)
    for chunk in _chunks(table_index):
        counts += np.bincount(table_index[chunk], minlength=len(counts))
    return counts


def sorted_positions(table_index: IntArray, tables: FrequencyTables) -> NDArray[np.intp]:
    """Return the positions of the coded elements: from the last table to the first, in rising order within a table."""
    coded = np.flatnonzero((tables.escapes > 0)[table_index])
    return coded[np.argsort(MAX_TABLES - 1 - table_index[coded].astype(np.uint8), kind="stable")]


def _runs(counts: IntArray, tables: FrequencyTables) -> Iterator[tuple[int, slice]]:
    """Iterate over the tables that code elements, `counts` [T] of them: the table, and its slice in coding order."""
    start = 0
    for table in np.flatnonzero(np.where(tables.escapes > 0, counts, 0))[::-1].tolist():
        yield table, slice(start, start + int(counts[table]))
        start += int(counts[table])


def _chunks(elements: IntArray) -> Iterator[slice]:
    """Divide elements into slices of `SYMBOLS_PER_CHUNK`: sorting takes several times their memory."""
    for start in range(0, len(elements), SYMBOLS_PER_CHUNK):
        yield slice(start, start + SYMBOLS_PER_CHUNK)


def table_entries(symbols: Int32Array, table_index: IntArray, tables: FrequencyTables) -> Int32Array:
    """Return the positions of symbols in their table's row; the escape for symbols that the table does not cover."""
    entries, escapes = symbols - tables.minima[table_index], tables.escapes[table_index]
    return np.where((entries < 0) | (entries >= escapes), escapes, entries).astype(np.int32, copy=False)


# Escapes


def escape_code(symbols: Int32Array, table_index: IntArray, tables: FrequencyTables) -> tuple[IntArray, IntArray]:
    """Return escaped symbols as `(head, distance)`.

    `head = 2 n_bits + below`, where `below` is 1 if the symbol lies below the table; `distance` has `n_bits + 1` bits.
    """
    first, last = _covered_range(table_index, tables)
    below = symbols < first
    distance = np.where(below, first - symbols, symbols - last)
    n_bits = np.searchsorted(POWERS_OF_TWO, distance, side="right") - 1
    return 2 * n_bits + below, distance


def _escaped_symbols(heads: IntArray, low_bits: IntArray, table_index: IntArray, tables: FrequencyTables) -> IntArray:
    """Invert `escape_code`; `low_bits` are the distances without their top bit."""
    first, last = _covered_range(table_index, tables)
    distance = low_bits + (1 << (heads >> 1))
    return np.where(heads & 1, first - distance, last + distance)


def _covered_range(table_index: IntArray, tables: FrequencyTables) -> tuple[IntArray, IntArray]:
    """Return the first and the last symbol that each table covers, int32."""
    first = tables.minima[table_index]
    return first, first + tables.escapes[table_index] - 1


def _bit_places(widths: IntArray) -> tuple[IntArray, IntArray]:
    """Return, for each bit of numbers of `widths` bits written one after another, its number and its shift.

    The highest bit of a number comes first.
    """
    number = np.repeat(np.arange(len(widths)), widths)
    return number, np.repeat(np.cumsum(widths), widths) - 1 - np.arange(len(number))


# Bytes and checks


def shortest_bytes(encoder: Any) -> bytes:
    """Return the shortest byte string in a range coder's final interval, and the smallest of that length.

    A decoder reads zeros after the end of the string. The coder keeps only the low 64 bits of the interval's lower end;
    `start` is that end in full.
    """
    n_words, (lower, width) = encoder.pos()
    words = encoder.get_compressed()
    n_bits = 32 * n_words + 64
    inside = int.from_bytes(words.astype(">u4").tobytes(), "big") << (n_bits - 32 * len(words))
    start = inside - (inside - int(lower)) % 2**64
    for n_bytes in range(4 * n_words, n_bits // 8):
        shift = n_bits - 8 * n_bytes
        value = -(-start >> shift)
        if value << shift < start + int(width):
            return bytes(value.to_bytes(n_bytes, "big").rstrip(b"\0"))
    raise AssertionError("an interval of 2^32 or more holds a multiple of 2^8")


def _check_index(table_index: IntArray, tables: FrequencyTables) -> None:
    if not np.issubdtype(table_index.dtype, np.integer):
        raise TypeError(f"table indices must be integers, got {table_index.dtype}")
    if table_index.ndim != 1:
        raise ValueError(f"table indices must be one row, got {table_index.shape}")
    if len(table_index) and not 0 <= int(table_index.min()) <= int(table_index.max()) < len(tables.lengths):
        lowest, highest = int(table_index.min()), int(table_index.max())
        raise ValueError(f"table indices must be 0 to {len(tables.lengths) - 1}, got {lowest} to {highest}")


def _check_symbols(symbols: Int32Array, table_index: IntArray) -> None:
    if symbols.dtype != np.int32:
        raise TypeError(f"symbols must be int32, got {symbols.dtype}")
    if symbols.shape != table_index.shape:
        raise ValueError(f"{symbols.shape} symbols but {table_index.shape} table indices")
    if np.any((symbols < -MAX_SYMBOL) | (symbols > MAX_SYMBOL)):
        largest = int(np.abs(symbols.astype(np.int64)).max())
        raise ValueError(f"a symbol is beyond {MAX_SYMBOL}: its magnitude is {largest}")
