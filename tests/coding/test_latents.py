"""Quantisation: the symbol with the lower sum of rate and distortion."""

import numpy as np
import pytest
from symbol_examples import ideal_bits

from ulcodec.coding.fixed_point import MEAN_GRID, CodingParameters
from ulcodec.coding.latents import quantise, zeroward_saved_bits
from ulcodec.coding.tables import FrequencyTables
from ulcodec.model.symbol_choice import SQUARED_BIN_BITS
from ulcodec.store.model_directory import initial_tables

TABLES = initial_tables()


def bits(symbol: int, table: int) -> float:
    return ideal_bits(np.array([symbol], dtype=np.int32), np.array([table]), TABLES)


@pytest.mark.parametrize(("table", "symbol"), [(5, 1), (20, 1), (20, -1), (40, 9), (63, 100)])
def test_saved_bits_are_differences_of_code_lengths(table: int, symbol: int) -> None:
    nearer = symbol - int(np.sign(symbol))
    expected = bits(symbol, table) - bits(nearer, table)
    assert float(zeroward_saved_bits(TABLES)[table, abs(symbol)]) == pytest.approx(expected, abs=1e-3)
    assert expected > 0


def test_quantisation_chooses_the_cheaper_of_two_symbols() -> None:
    rng = np.random.default_rng(0)
    n = 400
    table = rng.integers(64, size=n)
    mean_16 = rng.integers(-100, 100, size=n, dtype=np.int32)
    scale = 0.11 * np.exp(table * np.log(64 / 0.11) / 63)
    residual = rng.normal(size=n) * np.maximum(scale, 0.4)
    parameters = CodingParameters(mean_16, table.astype(np.uint8))
    y = (residual + mean_16 / MEAN_GRID).astype(np.float32)
    plain = quantise(y, parameters)
    chosen = quantise(y, parameters, zeroward_saved_bits(TABLES))

    def cost(symbol: int, i: int) -> float:
        error = float(y[i]) - mean_16[i] / MEAN_GRID - symbol
        return bits(symbol, int(table[i])) + SQUARED_BIN_BITS * error**2

    for i in np.flatnonzero(table):
        nearest, symbol = int(plain[i]), int(chosen[i])
        candidates = {nearest, nearest - int(np.sign(nearest))}
        assert symbol in candidates
        assert cost(symbol, i) <= min(cost(candidate, i) for candidate in candidates) + 1e-6
    assert 10 < np.count_nonzero(plain != chosen) < n / 2
    assert not chosen[table == 0].any()


def test_tables_that_cover_one_sign_only_save_nothing() -> None:
    frequencies = np.array([[2**24, 0, 0, 0], [2**23, 2**22, 2**21, 2**21]], dtype=np.int32)
    for minimum in (-5, 0, 3):
        minima = np.array([0, minimum], dtype=np.int32)
        tables = FrequencyTables(frequencies, np.array([1, 4], dtype=np.int32), minima)
        assert not zeroward_saved_bits(tables).any()
