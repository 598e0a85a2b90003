"""Group pictures for the networks: pictures of one latent grid share every pass.

A small picture leaves a GPU idle. On a CPU, the calls themselves take most of the time of a picture of 64x64 pixels.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

Kind = tuple[Any, ...]
"""Properties that all pictures of a group share, the latent grid first."""


def group_size(positions_at_once: int, grid: tuple[int, int]) -> int:
    """Number of pictures of a latent grid that share a pass, see `Networks.positions_at_once`."""
    return max(positions_at_once // (grid[0] * grid[1]), 1)


def group_by_grid(positions_at_once: int, kinds: Sequence[Kind]) -> list[list[int]]:
    """Group the indices of pictures of one kind, each group as large as a pass takes at once."""
    members: dict[Kind, list[int]] = defaultdict(list)
    for index, kind in enumerate(kinds):
        members[kind].append(index)
    groups = []
    for (grid, *_), indices in members.items():
        size = group_size(positions_at_once, grid)
        groups += [indices[start : start + size] for start in range(0, len(indices), size)]
    return groups
