"""Reveal schedule: the pass in which each element of the latent is coded."""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ulcodec.model.config import N_CHANNEL_GROUPS, PHASE_COLUMNS, PHASE_ROWS, ModelConfig

Grid = tuple[int, int]


@lru_cache
def _phase_passes(config: ModelConfig, device: torch.device) -> Tensor:
    """Pass of each channel group at each phase, uint8 [16, 2, 4]. Cached: a CUDA graph needs the same memory again."""
    with torch.inference_mode(False):
        passes = torch.tensor([list(map(int, row)) for row in config.reveal], dtype=torch.uint8, device=device)
        return passes.reshape(N_CHANNEL_GROUPS, PHASE_ROWS, PHASE_COLUMNS)


def pass_map(config: ModelConfig, grid: Grid, device: torch.device | str = "cpu", origin: Grid = (0, 0)) -> Tensor:
    """Pass, from 1, of each element in a part of the latent: uint8 [C, h, w].

    `grid`: height and width of the part; `origin`: its first row and column.
    """
    height, width = grid
    pattern = _phase_passes(config, torch.device(device))
    rows = torch.arange(origin[0], origin[0] + height, device=device) % PHASE_ROWS
    columns = torch.arange(origin[1], origin[1] + width, device=device) % PHASE_COLUMNS
    group_passes = pattern[:, rows][:, :, columns]
    return group_passes.repeat(config.latent_channels // N_CHANNEL_GROUPS, 1, 1)


@lru_cache
def pass_elements(config: ModelConfig, grid: Grid, device: torch.device) -> tuple[Tensor, ...]:
    """Element indices of each pass, int64, in coding order: by position, then by channel.

    Cached: a CUDA graph needs the same memory again.
    """
    with torch.inference_mode(False):
        passes = pass_map(config, grid).permute(1, 2, 0).flatten()
        return tuple((passes == reveal_pass).nonzero()[:, 0].to(device) for reveal_pass in config.reveal_passes)


class Phase(NamedTuple):
    """A place (row, column) in the 2x4 cells of the latent grid, in one pass.

    All positions at that place share the channels of earlier passes, `known`, and those of this pass, `coded`. Both are
    int64, in rising order.
    """

    row: int
    column: int
    known: Tensor
    coded: Tensor

    def positions(self, origin: Grid = (0, 0)) -> tuple[slice, slice, slice]:
        """Index of the phase's positions in [B, h, w, ...], whose first row and column are those of `origin`."""
        first_row, first_column = (self.row - origin[0]) % PHASE_ROWS, (self.column - origin[1]) % PHASE_COLUMNS
        return slice(None), slice(first_row, None, PHASE_ROWS), slice(first_column, None, PHASE_COLUMNS)


@lru_cache
def pass_phases(config: ModelConfig, reveal_pass: int, device: torch.device) -> tuple[Phase, ...]:
    """The eight phases of a pass."""
    with torch.inference_mode(False):
        passes = pass_map(config, (PHASE_ROWS, PHASE_COLUMNS))
        return tuple(
            Phase(
                row,
                column,
                (passes[:, row, column] < reveal_pass).nonzero()[:, 0].to(device),
                (passes[:, row, column] == reveal_pass).nonzero()[:, 0].to(device),
            )
            for row in range(PHASE_ROWS)
            for column in range(PHASE_COLUMNS)
        )


class PassElements:
    """The elements of one pass, which has at most K channels at a position.

    Arrays of elements are [B, h, w, K], with the channels of a position in rising order. Positions with fewer channels
    have padding at the end. `origin`: first row and column of the arrays in the latent grid.
    """

    def __init__(self, config: ModelConfig, reveal_pass: int, device: torch.device):
        self.phases = pass_phases(config, reveal_pass, device)
        self.n_channels = max(len(phase.coded) for phase in self.phases)

    def gather(self, latent: Tensor, origin: Grid = (0, 0)) -> Tensor:
        """Read the elements from a latent [B, h, w, C]."""
        elements = latent.new_zeros(*latent.shape[:3], self.n_channels)
        for phase in self.phases:
            positions = phase.positions(origin)
            elements[positions][..., : len(phase.coded)] = latent[positions][..., phase.coded]
        return elements

    def scatter(self, elements: Tensor, latent: Tensor, origin: Grid = (0, 0)) -> None:
        """Write the elements into a latent [B, h, w, C]."""
        for phase in self.phases:
            positions = phase.positions(origin)
            latent[positions][..., phase.coded] = elements[positions][..., : len(phase.coded)]

    def flatten(self, elements: Tensor, origin: Grid = (0, 0)) -> Tensor:
        """Flatten elements to the coding order [M], without the padding."""
        return elements.flatten() if self._is_full else elements[self._mask(elements, origin)]

    def unflatten(self, flat: Tensor, shape: tuple[int, int, int], origin: Grid = (0, 0)) -> Tensor:
        """Invert `flatten`, for arrays of the shape (B, h, w). The padding is zero."""
        if self._is_full:
            return flat.view(*shape, self.n_channels)
        elements = flat.new_zeros(*shape, self.n_channels)
        elements[self._mask(elements, origin)] = flat
        return elements

    @property
    def _is_full(self) -> bool:
        """Whether every position has K channels, so that there is no padding."""
        return all(len(phase.coded) == self.n_channels for phase in self.phases)

    def _mask(self, elements: Tensor, origin: Grid) -> Tensor:
        """False where `elements` has padding: bool of the same shape."""
        mask = torch.zeros(elements.shape, dtype=torch.bool, device=elements.device)
        for phase in self.phases:
            mask[phase.positions(origin)][..., : len(phase.coded)] = True
        return mask
