"""Frequency tables and draws of symbols that several tests use, and the bits that an ideal coder spends."""

import numpy as np
from hypothesis import strategies as st

from ulcodec.coding.range_coder import PRECISION_BITS, TOTAL
from ulcodec.coding.symbols import ESCAPE_HEAD_BITS, SymbolGroup, escape_code, sorted_positions, table_entries
from ulcodec.coding.tables import FrequencyTables, gaussian_tables

SCALES = np.geomspace(0.11, 64, 64)
GAUSSIAN = gaussian_tables(SCALES)


def small_tables() -> FrequencyTables:
    """Make tables that code nothing, one symbol, three symbols, four rare symbols above 0, and two equal symbols."""
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


def frequency_rows() -> st.SearchStrategy[list[int]]:
    """Draw rows of two to seven frequencies, often as small as 1 or as large as possible."""
    cuts = st.one_of(st.integers(1, 6), st.integers(TOTAL - 6, TOTAL - 1), st.integers(1, TOTAL - 1))
    return st.sets(cuts, min_size=1, max_size=6).map(lambda cuts: np.diff([0, *sorted(cuts), TOTAL]).tolist())


def ideal_bits(symbols: np.ndarray, table_index: np.ndarray, tables: FrequencyTables) -> float:
    """Return the bits that an ideal coder spends under the integer frequencies, escapes included.

    Raises as `SymbolEncoder.encode`.
    """
    SymbolGroup(tables).add(symbols, table_index)
    order = sorted_positions(table_index, tables)
    sorted_index, sorted_symbols = table_index[order], symbols[order]
    entries = table_entries(sorted_symbols, sorted_index, tables)
    escaped = entries == tables.escapes[sorted_index]
    heads, _ = escape_code(sorted_symbols[escaped], sorted_index[escaped], tables)
    runs_bits = PRECISION_BITS * len(order) - np.log2(tables.frequencies[sorted_index, entries]).sum()
    return float(runs_bits + ESCAPE_HEAD_BITS * len(heads) + (heads >> 1).sum())
