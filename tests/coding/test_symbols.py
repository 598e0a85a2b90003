"""The entropy coder against `docs/format.md`, with a coder in plain Python integers as the oracle."""

import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_range_coder import TOTAL, ReferenceDecoder, ReferenceEncoder

from ulcodec.coding import range_coder
from ulcodec.coding import symbols as entropy
from ulcodec.coding.symbols import (
    ESCAPE_HEAD_BITS,
    MAX_SYMBOL,
    SymbolDecoder,
    SymbolEncoder,
    decode_prefix,
    ideal_bits,
    sorted_positions,
    table_entries,
)
from ulcodec.coding.tables import FrequencyTables, categorical, coder, gaussian_tables
from ulcodec.errors import CorruptDataError, ModelError

SCALES = np.geomspace(0.11, 64, 64)
GAUSSIAN = gaussian_tables(SCALES)


def small_tables() -> FrequencyTables:
    """Not coded; one symbol; three of them; four that begin above 0, almost never reached; frequencies of 1."""
    rows = [
        [TOTAL],
        [TOTAL - 5, 5],
        [2**22, 2**23, 2**21, 2**21],
        [1, TOTAL - 4, 1, 1, 1],
        [TOTAL // 3, TOTAL // 3, TOTAL - 2 * (TOTAL // 3)],
    ]
    frequencies = np.zeros((len(rows), 5), dtype=np.int32)
    for target, row in zip(frequencies, rows, strict=True):
        target[: len(row)] = row
    return FrequencyTables(frequencies, frequencies.astype(bool).sum(1).astype(np.int32), int32([0, 7, -1, 3, -1]))


def int32(values: object) -> np.ndarray:
    return np.array(values, dtype=np.int32)


SMALL = small_tables()

GOLDEN_SYMBOLS = int32([0, 7, 0, -1, 3, 4, 1, 2, -1, 0, 0, 7, 500, -MAX_SYMBOL, MAX_SYMBOL, -2])
GOLDEN_INDEX = np.array([0, 1, 2, 2, 3, 3, 2, 2, 4, 4, 0, 1, 1, 2, 3, 4], dtype=np.uint8)
GOLDEN = bytes.fromhex("2f684b71c4b46bb5d7fff720b36cb81acffe84feb5")
"""Must decode for ever. Do not regenerate it."""


def encoded(*calls: tuple[np.ndarray, np.ndarray], tables: FrequencyTables = SMALL) -> bytes:
    encoder = SymbolEncoder()
    for symbols, index in calls:
        encoder.encode(symbols, index, tables)
    return encoder.finish()


def gaussian_draw(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Symbols and table indices, both [count], the symbols from the tables' own distributions."""
    rng = np.random.default_rng(seed)
    index = rng.integers(0, 64, count).astype(np.uint8)
    symbols = np.where(index == 0, 0, np.round(rng.normal(size=count) * SCALES[index])).astype(np.int32)
    return symbols, index


def reference_entries(symbols: np.ndarray, index: np.ndarray, tables: FrequencyTables) -> list[tuple[int, list[int]]]:
    """What the range coder sees, as (entry, frequencies), element by element from the text of the format."""
    seen, heads, tails, fair = [], [], [], [TOTAL // 2, TOTAL // 2]
    first, n_covered = tables.minima.tolist(), (tables.lengths - 1).tolist()
    for table in reversed(range(1 if n_covered[0] == 0 else 0, len(n_covered))):
        for symbol in symbols[index == table].tolist():
            entry = symbol - first[table]
            seen.append(
                (entry if 0 <= entry < n_covered[table] else n_covered[table], tables.frequencies[table].tolist())
            )
    for symbol, table in zip(symbols.tolist(), index.tolist(), strict=True):
        last = first[table] + n_covered[table] - 1
        if n_covered[table] and not first[table] <= symbol <= last:
            below = symbol < first[table]
            binary = f"{first[table] - symbol if below else symbol - last:b}"
            heads += [*map(int, f"{len(binary) - 1:05b}"), int(below)]
            tails += [*map(int, binary[1:])]
    return seen + [(bit, fair) for bit in heads + tails]


@st.composite
def symbol_groups(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Symbols near the tables of `SMALL`, with some far away."""
    value = st.one_of(st.integers(-3, 9), st.integers(-MAX_SYMBOL, MAX_SYMBOL))
    elements = draw(st.lists(st.one_of(st.tuples(st.integers(1, 4), value), st.just((0, 0))), max_size=40))
    return int32([symbol for _, symbol in elements]), np.array([table for table, _ in elements], dtype=np.uint8)


@given(st.lists(symbol_groups(), max_size=3))
@settings(max_examples=300, deadline=None)
def test_equal_to_the_reference_byte_for_byte(calls: list[tuple[np.ndarray, np.ndarray]]) -> None:
    reference = ReferenceEncoder()
    seen = [entry for call in calls for entry in reference_entries(*call, SMALL)]
    for entry, frequencies in seen:
        reference.encode(entry, frequencies)
    data = encoded(*calls)
    assert data == reference.finish()
    other_way = ReferenceDecoder(data)
    assert [other_way.decode(frequencies) for _, frequencies in seen] == [entry for entry, _ in seen]
    decoder = SymbolDecoder(reference.finish())
    for symbols, index in calls:
        np.testing.assert_array_equal(decoder.decode(index, SMALL), symbols)
    decoder.finish()


@given(symbol_groups(), st.floats(0, 1))
@settings(max_examples=300, deadline=None)
def test_front_of_a_string_gives_its_first_symbols(group: tuple[np.ndarray, np.ndarray], share: float) -> None:
    """Sure symbols are those of the whole, in the order of coding without a gap but for escapes, whatever follows."""
    symbols, index = group
    data = encoded(group)
    front = data[: int(share * len(data))]
    found = decode_prefix(front, index, SMALL)
    order = sorted_positions(index, SMALL)
    entries = table_entries(symbols[order], index[order], SMALL)
    plain = np.where(entries == SMALL.escapes[index[order]], 0, symbols[order])
    n_sure = int(np.max(np.flatnonzero(found[order]), initial=-1)) + 1
    np.testing.assert_array_equal(found[order][:n_sure], plain[:n_sure])
    for rest in (b"", bytes(20), b"\xff" * 20, data[len(front) :]):
        longer = decode_prefix(front + rest, index, SMALL)[order]
        np.testing.assert_array_equal(longer[:n_sure], plain[:n_sure])


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_front_of_a_long_string_is_used_to_its_end(share: float) -> None:
    symbols, index = gaussian_draw(20_000)
    data = encoded((symbols, index), tables=GAUSSIAN)
    n_bytes = int(share * len(data))
    found = decode_prefix(data[:n_bytes], index, GAUSSIAN)
    known = np.flatnonzero(found)
    np.testing.assert_array_equal(found[known], symbols[known])
    order = sorted_positions(index, GAUSSIAN)
    n_sure = int(np.flatnonzero(found[order])[-1]) + 1
    assert 0 <= 8 * n_bytes - ideal_bits(symbols[order[:n_sure]], index[order[:n_sure]], GAUSSIAN) < 100


def frequency_rows() -> st.SearchStrategy[list[int]]:
    """Two to seven frequencies, often as small as 1 or as large as can be."""
    cuts = st.one_of(st.integers(1, 6), st.integers(TOTAL - 6, TOTAL - 1), st.integers(1, TOTAL - 1))
    return st.sets(cuts, min_size=1, max_size=6).map(lambda found: np.diff([0, *sorted(found), TOTAL]).tolist())


@given(st.lists(st.tuples(frequency_rows(), st.integers(0, 6)), max_size=60))
@settings(max_examples=300, deadline=None)
def test_constriction_is_the_range_coder_of_the_format(draws: list[tuple[list[int], int]]) -> None:
    """State, words, and exactly the integer frequencies: what pins constriction's version."""
    theirs, ours = coder().queue.RangeEncoder(), ReferenceEncoder()
    steps = [(number % len(frequencies), frequencies) for frequencies, number in draws]
    for entry, frequencies in steps:
        theirs.encode(int32([entry]), categorical(np.array(frequencies)))
        ours.encode(entry, frequencies)
    assert theirs.pos() == (ours.n_words, (ours.low % 2**64, ours.width))
    words = theirs.get_compressed()
    assert words.astype(">u4").tobytes() == ours.whole_words()
    decoder = coder().queue.RangeDecoder(words)
    assert [int(decoder.decode(categorical(np.array(f)))) for _, f in steps] == [entry for entry, _ in steps]


@pytest.mark.parametrize("entry", [0, 1])
def test_carries_through_many_words(entry: int) -> None:
    """An interval around the middle that narrows for hundreds of bytes before it is known on which side it lies."""
    middle, half = [TOTAL // 2 - 1, 2, TOTAL // 2 - 1], [TOTAL // 2, TOTAL // 2]
    reference, encoder = ReferenceEncoder(), coder().queue.RangeEncoder()
    for choice, row in [(1, middle)] * 200 + [(entry, half)] * 3:
        reference.encode(choice, row)
        encoder.encode(int32([choice]), categorical(np.array(row)))
    assert encoder.get_compressed().astype(">u4").tobytes() == reference.whole_words()
    assert encoder.pos()[1] == (reference.low % 2**64, reference.width)


def test_golden_bytes() -> None:
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


def test_nothing_takes_no_bytes() -> None:
    empty = (int32([]), int32([]))
    assert encoded() == encoded(empty) == encoded((int32([0] * 9), int32([0] * 9))) == b""
    decoder = SymbolDecoder(b"")
    assert decoder.decode(int32([0, 0]), SMALL).tolist() == [0, 0]
    decoder.finish()


def test_payload_never_ends_in_a_zero_byte() -> None:
    """First entries only: `low` stays 0 however many words are passed."""
    for count in (1, 2, 5, 50):
        call = (np.full(count, 3, dtype=np.int32), np.full(count, 3))
        assert encoded(call) == b""
        assert decode_all(b"", call[1], SMALL).tolist() == [3] * count


def test_calls_follow_one_another() -> None:
    calls = [gaussian_draw(count, seed) for seed, count in enumerate((100, 0, 1, 300))]
    decoder = SymbolDecoder(encoded(*calls, tables=GAUSSIAN))
    for symbols, index in calls:
        np.testing.assert_array_equal(decoder.decode(index, GAUSSIAN), symbols)
    decoder.finish()


def test_file_length_is_the_ideal_length() -> None:
    symbols, index = gaussian_draw(100_000)
    bits = ideal_bits(symbols, index, GAUSSIAN)
    assert bits / 8 < len(encoded((symbols, index), tables=GAUSSIAN)) < 1.01 * bits / 8 + 4


@given(symbol_groups())
@settings(deadline=None)
def test_short_strings_waste_at_most_a_byte(call: tuple[np.ndarray, np.ndarray]) -> None:
    """And what the floor in the coder's unit can cost at an entry: 2^-8 of the width."""
    lost_bits = -math.log2(1 - 2**-8) * len(reference_entries(*call, SMALL))
    assert 8 * len(encoded(call)) < ideal_bits(*call, SMALL) + lost_bits + 8


@given(symbol_groups())
@settings(deadline=None)
def test_ideal_bits_by_definition(call: tuple[np.ndarray, np.ndarray]) -> None:
    expected = sum(-math.log2(frequencies[entry] / TOTAL) for entry, frequencies in reference_entries(*call, SMALL))
    assert ideal_bits(*call, SMALL) == pytest.approx(expected)


@pytest.mark.parametrize("symbol", [2, -2, 3, -5, 4096, -4096, 2**19, -(2**19), MAX_SYMBOL, -MAX_SYMBOL])
def test_escaped_values(symbol: int) -> None:
    call = (int32([symbol, 0, symbol]), int32([2, 2, 4]))
    decoder = SymbolDecoder(encoded(call))
    assert decoder.decode(call[1], SMALL).tolist() == call[0].tolist()
    decoder.finish()


def test_every_symbol_of_a_table_and_beyond() -> None:
    for table in (1, 20, 40, 63):
        reach = 3 * int(GAUSSIAN.lengths[table])
        symbols = np.arange(-reach, reach + 1, dtype=np.int32)
        index = np.full(len(symbols), table)
        np.testing.assert_array_equal(
            SymbolDecoder(encoded((symbols, index), tables=GAUSSIAN)).decode(index, GAUSSIAN), symbols
        )


def test_gaussian_tables() -> None:
    """Rows of the standard deviations: sums, symmetric range, and frequencies close to the integrals."""
    assert GAUSSIAN.lengths[0] == 1
    assert np.all(GAUSSIAN.frequencies.sum(1, dtype=np.int64) == TOTAL)
    for table in range(1, 64):
        length, first = int(GAUSSIAN.lengths[table]), int(GAUSSIAN.minima[table])
        assert first + length - 2 == -first
        edges = (np.arange(first, first + length) - 0.5) / (SCALES[table] * math.sqrt(2))
        below = np.array([0.5 * math.erfc(-edge) for edge in edges])
        np.testing.assert_allclose(GAUSSIAN.frequencies[table, : length - 1] / TOTAL, np.diff(below), atol=2e-5)


def test_gaussian_tables_cost_little_more_than_the_gaussian() -> None:
    """Expected excess over the entropy of the integrated Gaussian, escapes included: under 0.001 bit a symbol."""
    for table in range(1, 64):
        reach = int(-GAUSSIAN.minima[table])
        symbols = np.arange(-3 * reach, 3 * reach + 1)
        p = np.array([math.erfc(-(n + 0.5) / (SCALES[table] * math.sqrt(2))) / 2 for n in [-3 * reach - 1, *symbols]])
        p = np.diff(p)
        costs = [ideal_bits(int32([n]), int32([table]), GAUSSIAN) for n in symbols]
        entropy_bits = -sum(q * math.log2(q) for q in p.tolist() if q > 0)
        assert np.dot(p, costs) - entropy_bits < 1e-3


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
def test_table_indices_out_of_range(index: list[int]) -> None:
    with pytest.raises(ValueError, match="table indices"):
        encoded((int32([0, 0]), int32(index)))
    with pytest.raises(ValueError, match="table indices"):
        SymbolDecoder(b"").decode(int32(index), SMALL)


def test_unequal_lengths() -> None:
    with pytest.raises(ValueError, match=r"\(2,\) symbols but \(3,\) table indices"):
        encoded((int32([0, 0]), int32([0, 0, 0])))


@pytest.mark.parametrize("symbol", [MAX_SYMBOL + 1, -MAX_SYMBOL - 1, 2**31 - 1, -(2**31)])
def test_symbol_beyond_the_limit(symbol: int) -> None:
    with pytest.raises(ValueError, match="beyond 1048575"):
        encoded((int32([symbol]), int32([2])))


def test_symbol_under_a_table_that_is_not_coded() -> None:
    with pytest.raises(ValueError, match="not coded must be 0"):
        encoded((int32([0, 1]), int32([0, 0])))


def test_refused_symbols_leave_nothing_behind() -> None:
    encoder = SymbolEncoder()
    for symbols, index in (([1, 1], [2, 0]), ([1, MAX_SYMBOL + 1], [2, 2]), ([1, 1], [2, 9])):
        with pytest.raises(ValueError, match=r"must be|beyond"):
            encoder.encode(int32(symbols), int32(index), SMALL)
    assert encoder.finish() == b""


def table_arrays(**changes: object) -> dict[str, np.ndarray]:
    good = {"frequencies": int32([[TOTAL, 0], [TOTAL - 1, 1]]), "lengths": int32([1, 2]), "minima": int32([0, 0])}
    return good | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frequencies": np.array([[TOTAL, 0], [TOTAL - 1, 1]])}, "int32"),
        ({"lengths": np.array([1.0, 2.0])}, "int32"),
        ({"lengths": int32(1)}, "one row a table"),
        ({"frequencies": int32([TOTAL, 0])}, "one row a table"),
        ({"lengths": int32([1])}, "all arrays of that length"),
        ({"minima": int32([0, 0, 0])}, "all arrays of that length"),
        ({"frequencies": np.zeros((0, 2), np.int32), "lengths": int32([]), "minima": int32([])}, "1 to 256"),
        ({"lengths": int32([0, 2])}, "length out of range"),
        ({"lengths": int32([1, 3])}, "length out of range"),
        ({"minima": int32([0, 5000])}, "begins at a symbol out of range"),
        ({"minima": int32([0, -(2**31)])}, "begins at a symbol out of range"),
        ({"lengths": int32([1, 1])}, "at least 1 where used"),
        ({"frequencies": int32([[TOTAL, 0], [TOTAL, 0]])}, "at least 1 where used"),
        ({"frequencies": int32([[TOTAL + 1, -1], [TOTAL - 1, 1]])}, "at least 1 where used"),
        ({"frequencies": int32([[TOTAL, 0], [TOTAL, 1]])}, "must sum to"),
        ({"frequencies": int32([[TOTAL, 0], [TOTAL - 2, 1]])}, "must sum to"),
    ],
)
def test_broken_tables(changes: dict[str, np.ndarray], message: str) -> None:
    FrequencyTables(**table_arrays())
    with pytest.raises(ModelError, match=message):
        FrequencyTables(**table_arrays(**changes))


def test_too_many_tables() -> None:
    rows = np.full((257, 1), TOTAL, dtype=np.int32)
    with pytest.raises(ModelError, match="1 to 256"):
        FrequencyTables(rows, np.ones(257, np.int32), np.zeros(257, np.int32))


def decode_all(data: bytes, index: np.ndarray, tables: FrequencyTables) -> np.ndarray:
    decoder = SymbolDecoder(data)
    symbols = decoder.decode(index, tables)
    decoder.finish()
    return symbols


def test_data_that_no_encoder_writes() -> None:
    with pytest.raises(CorruptDataError, match="no encoder writes"):
        SymbolDecoder(b"\xff" * 40).decode(np.full(40, 1), SMALL)


def test_bytes_after_the_end() -> None:
    for extra in (b"\0", b"\1", b"\0\0\0\0", b"\xff" * 9):
        with pytest.raises(CorruptDataError):
            decode_all(GOLDEN + extra, GOLDEN_INDEX, SMALL)


def test_truncation_at_every_length() -> None:
    """A shorter string decodes to other symbols or is refused: never to the same ones, as the whole is shortest."""
    for length in range(len(GOLDEN)):
        try:
            decoded = decode_all(GOLDEN[:length], GOLDEN_INDEX, SMALL)
        except CorruptDataError:
            continue
        assert not np.array_equal(decoded, GOLDEN_SYMBOLS)


def test_every_bit_flip() -> None:
    """The container's checksums find them; without those, a flip never gives the same symbols."""
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
    """What decodes is what would be encoded, and every error is the one that says so."""
    index = np.arange(count) % 5
    try:
        symbols = decode_all(data, index, SMALL)
    except CorruptDataError:
        return
    assert encoded((symbols, index)) == data


@pytest.mark.parametrize("below", [0, 1])
def test_escaped_symbol_beyond_the_limit(below: int) -> None:
    """The escape code could go to 2^32: an encoder never does, a reader must not follow."""
    fair, row = [TOTAL // 2, TOTAL // 2], SMALL.frequencies[2, :4].tolist()
    for n_bits in (20, 31):
        reference = ReferenceEncoder()
        reference.encode(3, row)
        for bit in [*map(int, f"{n_bits:0{ESCAPE_HEAD_BITS - 1}b}"), below, *[1] * n_bits]:
            reference.encode(bit, fair)
        with pytest.raises(CorruptDataError, match="beyond 1048575"):
            SymbolDecoder(reference.finish()).decode(int32([2]), SMALL)


def test_without_constriction(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [gaussian_draw(3000, seed) for seed in (0, 1)]
    data = encoded(*calls, tables=gaussian_tables(SCALES))
    monkeypatch.setitem(sys.modules, "constriction", None)
    assert coder() is range_coder
    tables = gaussian_tables(SCALES)
    assert encoded(*calls, tables=tables) == data
    decoder = SymbolDecoder(data)
    for symbols, index in calls:
        np.testing.assert_array_equal(decoder.decode(index, tables), symbols)
    decoder.finish()


@pytest.mark.parametrize("at_once", [999, 64])
def test_portions_of_many_elements_change_nothing(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    index = rng.integers(0, len(SMALL.lengths), 5000).astype(np.uint8)
    symbols = np.where(index > 0, rng.normal(0, 2, len(index)).round(), 0).astype(np.int32)
    whole = encoded((symbols, index))
    monkeypatch.setattr(entropy, "ELEMENTS_AT_ONCE", at_once)
    assert encoded((symbols, index)) == whole
    assert np.array_equal(decode_all(whole, index, SMALL), symbols)
