"""Shapes of values per picture of a batch."""

from torch import Tensor


def per_picture(x: Tensor) -> Tensor:
    """Make values per picture broadcastable to pictures: [B] -> [B, 1, 1, 1]."""
    return x[:, None, None, None]


def sum_per_picture(x: Tensor) -> Tensor:
    """Sum over all axes but the first: [B, ...] -> [B]."""
    return x.flatten(1).sum(1)
