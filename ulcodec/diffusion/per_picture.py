"""Shapes of values per picture, or per clip, of a batch."""

from torch import Tensor


def per_picture(x: Tensor, like: Tensor) -> Tensor:
    """Make values per picture [B] broadcastable to `like` [B, ...]: [B, 1, ...]."""
    return x.view(-1, *(1 for _ in like.shape[1:]))


def sum_per_picture(x: Tensor) -> Tensor:
    """Sum over all axes but the first: [B, ...] -> [B]."""
    return x.flatten(1).sum(1)
