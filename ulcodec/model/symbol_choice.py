"""Choice between the nearest symbol of an element and the one before it, for tensors in training and for arrays."""

from typing import Any

SQUARED_BIN_BITS = 14.0
"""Bits that a squared error of one bin is worth in the choice of symbols.

At high rate it is `6 / ln 2 = 8.7`, the derivative of `-log2 width` over that of `width^2 / 12`. The larger value
accounts for the elements that are predicted from the erroneous one. Of 8.7, 11, 14, 18 and 24 it gave the smallest
files at equal quality (docs/lab-notes/rate-distortion-optimisation.md)."""


def is_worth_a_step(symbols: Any, signs: Any, residual: Any, saved_bits: Any) -> Any:
    """Whether the bits saved by the symbol one nearer to zero outweigh the added squared error.

    `symbols`: `residual` rounded to integers, and their `signs`; `saved_bits`: what the nearer symbol saves. All are
    tensors or all are arrays, float, of one shape.
    """
    added_error = 1 + 2 * (residual - symbols) * signs
    return saved_bits > SQUARED_BIN_BITS * added_error
