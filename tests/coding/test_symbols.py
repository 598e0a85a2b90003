"""The entropy coder against `docs/format.md`, with a coder in plain Python integers as the oracle."""

import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_range_coder import TOTAL, ReferenceDecoder, ReferenceEncoder
from symbol_examples import GAUSSIAN, SCALES, SMALL, ideal_bits, int32

from ulcodec.coding import range_coder
from ulcodec.coding import symbols as symbols_module
from ulcodec.coding.backend import range_decoder, stream_coder
from ulcodec.coding.symbols import (
    ESCAPE_HEAD_BITS,
    MAX_SYMBOL,
    PADDING_BYTES,
    SymbolDecoder,
    SymbolEncoder,
    decode_prefix,
    sorted_positions,
    table_entries,
)
from ulcodec.coding.tables import FrequencyTables, gaussian_tables
from ulcodec.errors import CorruptDataError

GOLDEN_SYMBOLS = int32([0, 7, 0, -1, 3, 4, 1, 2, -1, 0, 0, 7, 500, -MAX_SYMBOL, MAX_SYMBOL, -2])
GOLDEN_INDEX = np.array([0, 1, 2, 2, 3, 3, 2, 2, 4, 4, 0, 1, 1, 2, 3, 4], dtype=np.uint8)
GOLDEN = bytes.fromhex("2f684b71c4b46bb5d7fff720b36cb81acffe84feb5")
"""These bytes must decode forever. Do not regenerate them."""


def encoded(*calls: tuple[np.ndarray, np.ndarray], tables: FrequencyTables = SMALL) -> bytes:
    encoder = SymbolEncoder()
    for symbols, index in calls:
        encoder.encode(symbols, index, tables)
    return encoder.finish()


def gaussian_draw(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw symbols and table indices, both [count]; symbols follow the distributions of their tables."""
    rng = np.random.default_rng(seed)
    index = rng.integers(0, 64, count).astype(np.uint8)
    symbols = np.where(index == 0, 0, np.round(rng.normal(size=count) * SCALES[index])).astype(np.int32)
    return symbols, index


def reference_entries(symbols: np.ndarray, index: np.ndarray, tables: FrequencyTables) -> list[tuple[int, list[int]]]:
    """Return the input of the range coder as (entry, frequencies), element by element from the text of the format."""
    coded, heads, tails, fair = [], [], [], [TOTAL // 2, TOTAL // 2]
    first, n_covered = tables.minima.tolist(), (tables.lengths - 1).tolist()
    for table in reversed(range(1 if n_covered[0] == 0 else 0, len(n_covered))):
        for symbol in symbols[index == table].tolist():
            entry = symbol - first[table]
            coded.append(
                (entry if 0 <= entry < n_covered[table] else n_covered[table], tables.frequencies[table].tolist())
            )
    for symbol, table in zip(symbols.tolist(), index.tolist(), strict=True):
        last = first[table] + n_covered[table] - 1
        if n_covered[table] and not first[table] <= symbol <= last:
            below = symbol < first[table]
            binary = f"{first[table] - symbol if below else symbol - last:b}"
            heads += [*map(int, f"{len(binary) - 1:05b}"), int(below)]
            tails += [*map(int, binary[1:])]
    return coded + [(bit, fair) for bit in heads + tails]


@st.composite
def symbol_groups(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Draw symbols near the tables of `SMALL`, and some far away."""
    value = st.one_of(st.integers(-3, 9), st.integers(-MAX_SYMBOL, MAX_SYMBOL))
    elements = draw(st.lists(st.one_of(st.tuples(st.integers(1, 4), value), st.just((0, 0))), max_size=40))
    return int32([symbol for _, symbol in elements]), np.array([table for table, _ in elements], dtype=np.uint8)


@given(st.lists(symbol_groups(), max_size=3))
@settings(max_examples=300, deadline=None)
def test_bytes_equal_those_of_the_reference(calls: list[tuple[np.ndarray, np.ndarray]]) -> None:
    reference = ReferenceEncoder()
    coded = [entry for call in calls for entry in reference_entries(*call, SMALL)]
    for entry, frequencies in coded:
        reference.encode(entry, frequencies)
    data = encoded(*calls)
    assert data == reference.finish()
    reference_decoder = ReferenceDecoder(data)
    decoded = [reference_decoder.decode(frequencies) for _, frequencies in coded]
    assert decoded == [entry for entry, _ in coded]
    decoder = SymbolDecoder(reference.finish())
    for symbols, index in calls:
        np.testing.assert_array_equal(decoder.decode(index, SMALL), symbols)
    decoder.finish()


@given(symbol_groups(), st.floats(0, 1))
@settings(max_examples=300, deadline=None)
def test_prefix_decodes_to_the_first_symbols(group: tuple[np.ndarray, np.ndarray], share: float) -> None:
    """Symbols that a prefix determines are those of the whole string, without gaps except for escapes."""
    symbols, index = group
    data = encoded(group)
    prefix = data[: int(share * len(data))]
    decoded = decode_prefix(prefix, index, SMALL)
    order = sorted_positions(index, SMALL)
    entries = table_entries(symbols[order], index[order], SMALL)
    without_escapes = np.where(entries == SMALL.escapes[index[order]], 0, symbols[order])
    n_certain = int(np.max(np.flatnonzero(decoded[order]), initial=-1)) + 1
    np.testing.assert_array_equal(decoded[order][:n_certain], without_escapes[:n_certain])
    for rest in (b"", bytes(20), b"\xff" * 20, data[len(prefix) :]):
        longer = decode_prefix(prefix + rest, index, SMALL)[order]
        np.testing.assert_array_equal(longer[:n_certain], without_escapes[:n_certain])


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_prefix_of_a_long_string_is_used_to_its_end(share: float) -> None:
    symbols, index = gaussian_draw(20_000)
    data = encoded((symbols, index), tables=GAUSSIAN)
    n_bytes = int(share * len(data))
    decoded = decode_prefix(data[:n_bytes], index, GAUSSIAN)
    nonzero = np.flatnonzero(decoded)
    np.testing.assert_array_equal(decoded[nonzero], symbols[nonzero])
    order = sorted_positions(index, GAUSSIAN)
    n_certain = int(np.flatnonzero(decoded[order])[-1]) + 1
    assert 0 <= 8 * n_bytes - ideal_bits(symbols[order[:n_certain]], index[order[:n_certain]], GAUSSIAN) < 100


def test_prefix_is_used_up_to_the_first_symbol_that_is_not_certain() -> None:
    """Also where a decoder finds no entry a few symbols later."""
    rng = np.random.default_rng(0)
    index = np.repeat(np.array([40, 60], np.uint8), 100)
    order = sorted_positions(index, GAUSSIAN)
    for _ in range(2000):
        prefix = rng.bytes(8)
        decoders = [range_decoder(prefix + 4 * PADDING_BYTES * end) for end in (b"\0", b"\xff")]
        expected = np.zeros(len(order), np.int32)
        for place, table in enumerate(index[order]):
            entry, other = (int(decoder.decode(GAUSSIAN.models[table], 1)[0]) for decoder in decoders)
            if entry != other:
                break
            expected[place] = entry + GAUSSIAN.minima[table] if entry < GAUSSIAN.escapes[table] else 0
        np.testing.assert_array_equal(decode_prefix(prefix, index, GAUSSIAN)[order], expected)


def test_golden_bytes_are_decoded() -> None:
    assert encoded((GOLDEN_SYMBOLS, GOLDEN_INDEX)) == GOLDEN
    decoder = SymbolDecoder(GOLDEN)
    np.testing.assert_array_equal(decoder.decode(GOLDEN_INDEX, SMALL), GOLDEN_SYMBOLS)
    decoder.finish()


@pytest.mark.parametrize("count", [0, 1, 2, 63, 5000])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_round_trip(count: int, dtype: type) -> None:
    symbols, index = gaussian_draw(count)
    data = encoded((symbols, index), tables=GAUSSIAN)
    decoder = SymbolDecoder(data)
    decoded = decoder.decode(index.astype(dtype), GAUSSIAN)
    assert decoded.dtype == np.int32
    np.testing.assert_array_equal(decoded, symbols)
    decoder.finish()


def test_no_symbols_take_no_bytes() -> None:
    empty = (int32([]), int32([]))
    assert encoded() == encoded(empty) == encoded((int32([0] * 9), int32([0] * 9))) == b""
    decoder = SymbolDecoder(b"")
    assert decoder.decode(int32([0, 0]), SMALL).tolist() == [0, 0]
    decoder.finish()


def test_payload_never_ends_in_a_zero_byte() -> None:
    """With first entries only, `low` stays 0."""
    for count in (1, 2, 5, 50):
        call = (np.full(count, 3, dtype=np.int32), np.full(count, 3))
        assert encoded(call) == b""
        assert decode_all(b"", call[1], SMALL).tolist() == [3] * count


def test_groups_are_decoded_in_the_order_of_encoding() -> None:
    calls = [gaussian_draw(count, seed) for seed, count in enumerate((100, 0, 1, 300))]
    decoder = SymbolDecoder(encoded(*calls, tables=GAUSSIAN))
    for symbols, index in calls:
        np.testing.assert_array_equal(decoder.decode(index, GAUSSIAN), symbols)
    decoder.finish()


def test_length_is_close_to_the_ideal_length() -> None:
    symbols, index = gaussian_draw(100_000)
    bits = ideal_bits(symbols, index, GAUSSIAN)
    assert bits / 8 < len(encoded((symbols, index), tables=GAUSSIAN)) < 1.01 * bits / 8 + 4


@given(symbol_groups())
@settings(deadline=None)
def test_short_strings_waste_little_more_than_a_byte(call: tuple[np.ndarray, np.ndarray]) -> None:
    """They also waste the rounding of the coder's unit: at most 2^-8 of the width at each entry."""
    lost_bits = -math.log2(1 - 2**-8) * len(reference_entries(*call, SMALL))
    assert 8 * len(encoded(call)) < ideal_bits(*call, SMALL) + lost_bits + 8


@given(symbol_groups())
@settings(deadline=None)
def test_ideal_bits_follow_the_definition(call: tuple[np.ndarray, np.ndarray]) -> None:
    expected = sum(-math.log2(frequencies[entry] / TOTAL) for entry, frequencies in reference_entries(*call, SMALL))
    assert ideal_bits(*call, SMALL) == pytest.approx(expected)


@pytest.mark.parametrize("symbol", [2, -2, 3, -5, 4096, -4096, 2**19, -(2**19), MAX_SYMBOL, -MAX_SYMBOL])
def test_escaped_symbols_are_decoded(symbol: int) -> None:
    call = (int32([symbol, 0, symbol]), int32([2, 2, 4]))
    decoder = SymbolDecoder(encoded(call))
    assert decoder.decode(call[1], SMALL).tolist() == call[0].tolist()
    decoder.finish()


def test_all_symbols_in_and_beyond_a_table_are_decoded() -> None:
    for table in (1, 20, 40, 63):
        reach = 3 * int(GAUSSIAN.lengths[table])
        symbols = np.arange(-reach, reach + 1, dtype=np.int32)
        index = np.full(len(symbols), table)
        np.testing.assert_array_equal(
            SymbolDecoder(encoded((symbols, index), tables=GAUSSIAN)).decode(index, GAUSSIAN), symbols
        )


def test_float_symbols_are_refused() -> None:
    with pytest.raises(TypeError, match="symbols must be int32, got float64"):
        encoded((np.zeros(2), int32([2, 2])))
    with pytest.raises(TypeError, match="symbols must be int32, got int64"):
        encoded((np.zeros(2, dtype=np.int64), int32([2, 2])))


def test_float_table_indices_are_refused() -> None:
    for index in (np.zeros(2), np.zeros(2, dtype=bool)):
        with pytest.raises(TypeError, match="table indices must be integers"):
            encoded((int32([0, 0]), index))
        with pytest.raises(TypeError, match="table indices must be integers"):
            SymbolDecoder(b"").decode(index, SMALL)


@pytest.mark.parametrize("index", [[5, 0], [0, -1], [256, 0], [[0, 0]]])
def test_table_indices_out_of_range_are_refused(index: list[int]) -> None:
    with pytest.raises(ValueError, match="table indices"):
        encoded((int32([0, 0]), int32(index)))
    with pytest.raises(ValueError, match="table indices"):
        SymbolDecoder(b"").decode(int32(index), SMALL)


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2,\) symbols but \(3,\) table indices"):
        encoded((int32([0, 0]), int32([0, 0, 0])))


@pytest.mark.parametrize("symbol", [MAX_SYMBOL + 1, -MAX_SYMBOL - 1, 2**31 - 1, -(2**31)])
def test_symbols_beyond_the_limit_are_refused(symbol: int) -> None:
    with pytest.raises(ValueError, match="beyond 1048575"):
        encoded((int32([symbol]), int32([2])))


def test_symbols_other_than_0_under_a_table_that_is_not_coded_are_refused() -> None:
    with pytest.raises(ValueError, match="not coded must be 0"):
        encoded((int32([0, 1]), int32([0, 0])))


def test_refused_symbols_append_nothing() -> None:
    encoder = SymbolEncoder()
    for symbols, index in (([1, 1], [2, 0]), ([1, MAX_SYMBOL + 1], [2, 2]), ([1, 1], [2, 9])):
        with pytest.raises(ValueError, match=r"must be|beyond"):
            encoder.encode(int32(symbols), int32(index), SMALL)
    assert encoder.finish() == b""


def decode_all(data: bytes, index: np.ndarray, tables: FrequencyTables) -> np.ndarray:
    decoder = SymbolDecoder(data)
    symbols = decoder.decode(index, tables)
    decoder.finish()
    return symbols


def test_data_that_no_encoder_writes_is_refused() -> None:
    with pytest.raises(CorruptDataError, match="no encoder writes"):
        SymbolDecoder(b"\xff" * 40).decode(np.full(40, 1), SMALL)


def test_bytes_after_the_end_are_refused() -> None:
    for extra in (b"\0", b"\1", b"\0\0\0\0", b"\xff" * 9):
        with pytest.raises(CorruptDataError):
            decode_all(GOLDEN + extra, GOLDEN_INDEX, SMALL)


def test_truncation_at_every_length_is_detected() -> None:
    """A shorter string decodes to other symbols or is refused, since the whole string is the shortest."""
    for length in range(len(GOLDEN)):
        try:
            decoded = decode_all(GOLDEN[:length], GOLDEN_INDEX, SMALL)
        except CorruptDataError:
            continue
        assert not np.array_equal(decoded, GOLDEN_SYMBOLS)


def test_every_bit_flip_is_detected() -> None:
    """A flip never gives the same symbols, even without the checksums of the container."""
    for bit in range(8 * len(GOLDEN)):
        flipped = bytearray(GOLDEN)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            decoded = decode_all(bytes(flipped), GOLDEN_INDEX, SMALL)
        except CorruptDataError:
            continue
        assert not np.array_equal(decoded, GOLDEN_SYMBOLS)


@given(st.binary(max_size=60), st.integers(0, 200))
@settings(deadline=None)
def test_noise_is_refused_or_reproduced(data: bytes, count: int) -> None:
    """Random bytes that decode are the bytes that encode their symbols; others raise CorruptDataError."""
    index = np.arange(count) % 5
    try:
        symbols = decode_all(data, index, SMALL)
    except CorruptDataError:
        return
    assert encoded((symbols, index)) == data


@pytest.mark.parametrize("below", [0, 1])
def test_escaped_symbols_beyond_the_limit_are_refused(below: int) -> None:
    """The escape code reaches 2^32, but no encoder goes beyond the limit."""
    fair, row = [TOTAL // 2, TOTAL // 2], SMALL.frequencies[2, :4].tolist()
    for n_bits in (20, 31):
        reference = ReferenceEncoder()
        reference.encode(3, row)
        for bit in [*map(int, f"{n_bits:0{ESCAPE_HEAD_BITS - 1}b}"), below, *[1] * n_bits]:
            reference.encode(bit, fair)
        with pytest.raises(CorruptDataError, match="beyond 1048575"):
            SymbolDecoder(reference.finish()).decode(int32([2]), SMALL)


def test_bytes_are_the_same_without_constriction(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [gaussian_draw(3000, seed) for seed in (0, 1)]
    data = encoded(*calls, tables=gaussian_tables(SCALES))
    monkeypatch.setitem(sys.modules, "constriction", None)
    assert stream_coder() is range_coder
    tables = gaussian_tables(SCALES)
    assert encoded(*calls, tables=tables) == data
    decoder = SymbolDecoder(data)
    for symbols, index in calls:
        np.testing.assert_array_equal(decoder.decode(index, tables), symbols)
    decoder.finish()


@pytest.mark.parametrize("chunk_size", [999, 64])
def test_chunk_size_changes_no_byte(chunk_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    index = rng.integers(0, len(SMALL.lengths), 5000).astype(np.uint8)
    symbols = np.where(index > 0, rng.normal(0, 2, len(index)).round(), 0).astype(np.int32)
    whole = encoded((symbols, index))
    monkeypatch.setattr(symbols_module, "SYMBOLS_PER_CHUNK", chunk_size)
    assert encoded((symbols, index)) == whole
    assert np.array_equal(decode_all(whole, index, SMALL), symbols)
