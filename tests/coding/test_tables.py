"""Frequency tables: Gaussian tables are close to the Gaussian, and invalid tables are refused."""

import math

import numpy as np
import pytest
from reference_range_coder import TOTAL
from symbol_examples import GAUSSIAN, SCALES, ideal_bits, int32

from ulcodec.coding.tables import FrequencyTables
from ulcodec.errors import ModelError


def test_gaussian_tables_approximate_the_gaussian() -> None:
    """Rows sum to 2^24, are symmetric, and have frequencies close to the integrals."""
    assert GAUSSIAN.lengths[0] == 1
    assert np.all(GAUSSIAN.frequencies.sum(1, dtype=np.int64) == TOTAL)
    for table in range(1, 64):
        length, first = int(GAUSSIAN.lengths[table]), int(GAUSSIAN.minima[table])
        assert first + length - 2 == -first
        edges = (np.arange(first, first + length) - 0.5) / (SCALES[table] * math.sqrt(2))
        below = np.array([0.5 * math.erfc(-edge) for edge in edges])
        np.testing.assert_allclose(GAUSSIAN.frequencies[table, : length - 1] / TOTAL, np.diff(below), atol=2e-5)


def test_gaussian_tables_cost_little_more_than_the_gaussian() -> None:
    """The expected excess over the entropy of the integrated Gaussian, with escapes, is below 0.001 bit a symbol."""
    for table in range(1, 64):
        reach = int(-GAUSSIAN.minima[table])
        symbols = np.arange(-3 * reach, 3 * reach + 1)
        p = np.array([math.erfc(-(n + 0.5) / (SCALES[table] * math.sqrt(2))) / 2 for n in [-3 * reach - 1, *symbols]])
        p = np.diff(p)
        costs = [ideal_bits(int32([n]), int32([table]), GAUSSIAN) for n in symbols]
        entropy_bits = -sum(q * math.log2(q) for q in p.tolist() if q > 0)
        assert np.dot(p, costs) - entropy_bits < 1e-3


def table_arrays(**changes: object) -> dict[str, np.ndarray]:
    valid = {"frequencies": int32([[TOTAL, 0], [TOTAL - 1, 1]]), "lengths": int32([1, 2]), "minima": int32([0, 0])}
    return valid | changes


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
def test_invalid_tables_are_refused(changes: dict[str, np.ndarray], message: str) -> None:
    FrequencyTables(**table_arrays())
    with pytest.raises(ModelError, match=message):
        FrequencyTables(**table_arrays(**changes))


def test_too_many_tables_are_refused() -> None:
    rows = np.full((257, 1), TOTAL, dtype=np.int32)
    with pytest.raises(ModelError, match="1 to 256"):
        FrequencyTables(rows, np.ones(257, np.int32), np.zeros(257, np.int32))
