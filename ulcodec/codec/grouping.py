"""Group pictures for the networks: pictures of one latent grid share every pass.

A small picture leaves a GPU idle. On a CPU, the calls themselves take most of the time of a picture of 64x64 pixels.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch

POSITIONS_ON_CPU, POSITIONS_ON_GPU = 2**10, 2**14
"""Latent positions, of 256 pixels each, per group: measured on a CPU (docs/lab-notes/coding-speed.md), and what fits
the memory of a GPU."""

Kind = tuple[Any, ...]
"""Properties that all pictures of a group share, the latent grid first."""


def group_size(device: torch.device, grid: tuple[int, int]) -> int:
    """Number of pictures of a latent grid that the device takes at once."""
    limit = POSITIONS_ON_CPU if device.type == "cpu" else POSITIONS_ON_GPU
    return max(limit // (grid[0] * grid[1]), 1)


def group_by_grid(device: torch.device, kinds: Sequence[Kind]) -> list[list[int]]:
    """Group the indices of pictures of one kind, each group as large as the device takes at once."""
    members: dict[Kind, list[int]] = defaultdict(list)
    for index, kind in enumerate(kinds):
        members[kind].append(index)
    groups = []
    for (grid, *_), indices in members.items():
        size = group_size(device, grid)
        groups += [indices[start : start + size] for start in range(0, len(indices), size)]
    return groups
