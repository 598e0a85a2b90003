"""Reveal schedule over arrays, as files are coded: the elements of a pass, and what is known before it."""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ulcodec.model.config import N_CHANNEL_GROUPS, PHASE_COLUMNS, PHASE_ROWS, ModelConfig

Grid = tuple[int, int]


@lru_cache
def channel_passes(config: ModelConfig) -> NDArray[np.uint8]:
    """Pass, from 1, of each channel at each phase: uint8 [C, 2, 4], read-only."""
    passes = np.array([list(map(int, row)) for row in config.reveal], dtype=np.uint8)
    groups = passes.reshape(N_CHANNEL_GROUPS, PHASE_ROWS, PHASE_COLUMNS)
    channels = np.tile(groups, (config.latent_channels // N_CHANNEL_GROUPS, 1, 1))
    channels.flags.writeable = False
    return channels


class Phase(NamedTuple):
    """A place (row, column) in the 2x4 cells of the latent grid, in one pass.

    All positions at that place share the channels of earlier passes, `known`, and those of this pass, `coded`. Both are
    int64, in rising order.
    """

    row: int
    column: int
    known: NDArray[np.int64]
    coded: NDArray[np.int64]

    def positions(self, origin: Grid = (0, 0)) -> tuple[slice, slice, slice]:
        """Index of the phase's positions in [B, h, w, ...], whose first row and column are those of `origin`."""
        first_row, first_column = (self.row - origin[0]) % PHASE_ROWS, (self.column - origin[1]) % PHASE_COLUMNS
        return slice(None), slice(first_row, None, PHASE_ROWS), slice(first_column, None, PHASE_COLUMNS)


@lru_cache
def pass_phases(config: ModelConfig, reveal_pass: int) -> tuple[Phase, ...]:
    """The eight phases of a pass."""
    passes = channel_passes(config)
    return tuple(
        Phase(
            row,
            column,
            np.flatnonzero(passes[:, row, column] < reveal_pass),
            np.flatnonzero(passes[:, row, column] == reveal_pass),
        )
        for row in range(PHASE_ROWS)
        for column in range(PHASE_COLUMNS)
    )


class PassElements:
    """The elements of one pass, which has K channels at every position.

    Arrays of elements are [B, h, w, K], with the channels of a position in rising order. `origin`: first row and column
    of the arrays in the latent grid.
    """

    def __init__(self, config: ModelConfig, reveal_pass: int):
        self.phases = pass_phases(config, reveal_pass)
        self.n_channels = len(self.phases[0].coded)

    def gather(self, latent: NDArray[Any], origin: Grid = (0, 0)) -> NDArray[Any]:
        """Read the elements from a latent [B, h, w, C]."""
        elements = np.empty((*latent.shape[:3], self.n_channels), latent.dtype)
        for phase in self.phases:
            positions = phase.positions(origin)
            elements[positions] = latent[positions][..., phase.coded]
        return elements

    def scatter(self, elements: NDArray[Any], latent: NDArray[Any], origin: Grid = (0, 0)) -> None:
        """Write the elements into a latent [B, h, w, C]."""
        for phase in self.phases:
            positions = phase.positions(origin)
            latent[positions][..., phase.coded] = elements[positions]
