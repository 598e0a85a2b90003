"""Reveal schedule: which element of the latent is coded in which step."""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from ulcodec.model.config import N_CHANNEL_GROUPS, PHASE_COLUMNS, PHASE_ROWS, ModelConfig

Grid = tuple[int, int]


@lru_cache
def phase_passes(config: ModelConfig, device: torch.device) -> Tensor:
    """Step of every channel group's phases, uint8 [16, 2, 4]: copied to a device once, as a CUDA graph needs it."""
    with torch.inference_mode(False):
        passes = torch.tensor(
            [[int(reveal_pass) for reveal_pass in row] for row in config.reveal], dtype=torch.uint8, device=device
        )
        return passes.reshape(N_CHANNEL_GROUPS, PHASE_ROWS, PHASE_COLUMNS)


def pass_map(config: ModelConfig, grid: Grid, device: torch.device | str = "cpu", origin: Grid = (0, 0)) -> Tensor:
    """Step (from 1) of every element: uint8 [C, h, w] from an origin on, tiled from the configuration's phases."""
    height, width = grid
    pattern = phase_passes(config, torch.device(device))
    rows = torch.arange(origin[0], origin[0] + height, device=device) % PHASE_ROWS
    columns = torch.arange(origin[1], origin[1] + width, device=device) % PHASE_COLUMNS
    tiled = pattern[:, rows][:, :, columns]
    return tiled.repeat(config.latent_channels // N_CHANNEL_GROUPS, 1, 1)


@lru_cache
def pass_elements(config: ModelConfig, grid: tuple[int, int], device: torch.device) -> tuple[Tensor, ...]:
    """Elements of each step, int64, in the order of coding: by position, then channel. On a device once, as above."""
    with torch.inference_mode(False):
        passes = pass_map(config, grid).permute(1, 2, 0).flatten()
        return tuple((passes == reveal_pass).nonzero()[:, 0].to(device) for reveal_pass in config.reveal_passes)


class Phase(NamedTuple):
    """The positions at one place of the 2x4 cells of the latent grid, in one step: the channels of earlier steps, and
    those of the step itself, both int64 in rising order."""

    row: int
    column: int
    known: Tensor
    coded: Tensor

    def positions(self, origin: Grid = (0, 0)) -> tuple[slice, slice, slice]:
        """Index of its positions in [B, h, w, ...], the first row and column of which are those of the origin."""
        first_row, first_column = (self.row - origin[0]) % PHASE_ROWS, (self.column - origin[1]) % PHASE_COLUMNS
        return slice(None), slice(first_row, None, PHASE_ROWS), slice(first_column, None, PHASE_COLUMNS)


@lru_cache
def pass_phases(config: ModelConfig, reveal_pass: int, device: torch.device) -> tuple[Phase, ...]:
    """The eight phases of a step."""
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
    """The elements of one step: at most K channels at a position.

    Arrays of them are [B, h, w, K], the channels of a position in rising order; where a position has fewer, the last
    entries mean nothing. `origin`: the first row and column of the arrays in the latent grid.
    """

    def __init__(self, config: ModelConfig, reveal_pass: int, device: torch.device):
        self.phases = pass_phases(config, reveal_pass, device)
        self.n_channels = max(len(phase.coded) for phase in self.phases)

    def gather(self, latent: Tensor, origin: Grid = (0, 0)) -> Tensor:
        """Those of a latent [B, h, w, C]."""
        elements = latent.new_zeros(*latent.shape[:3], self.n_channels)
        for phase in self.phases:
            own = phase.positions(origin)
            elements[own][..., : len(phase.coded)] = latent[own][..., phase.coded]
        return elements

    def scatter(self, elements: Tensor, latent: Tensor, origin: Grid = (0, 0)) -> None:
        """Inverse of `gather`, into the latent."""
        for phase in self.phases:
            own = phase.positions(origin)
            latent[own][..., phase.coded] = elements[own][..., : len(phase.coded)]

    def in_order(self, elements: Tensor, origin: Grid = (0, 0)) -> Tensor:
        """Without the entries that mean nothing, in the order of coding: [M]."""
        return elements.flatten() if self.are_all else elements[self.mask(elements, origin)]

    def placed(self, in_order: Tensor, shape: tuple[int, int, int], origin: Grid = (0, 0)) -> Tensor:
        """Inverse of `in_order`, for arrays of the shape (B, h, w)."""
        elements = in_order.new_zeros(*shape, self.n_channels)
        if self.are_all:
            return in_order.view_as(elements)
        elements[self.mask(elements, origin)] = in_order
        return elements

    @property
    def are_all(self) -> bool:
        """Whether every position has K channels."""
        return all(len(phase.coded) == self.n_channels for phase in self.phases)

    def mask(self, elements: Tensor, origin: Grid) -> Tensor:
        """Which entries mean something, bool of the same shape."""
        mask = torch.zeros(elements.shape, dtype=torch.bool, device=elements.device)
        for phase in self.phases:
            mask[phase.positions(origin)][..., : len(phase.coded)] = True
        return mask
