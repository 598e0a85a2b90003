"""Reveal schedule: the pass in which each element of the latent is coded."""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ulcodec.model.config import N_CHANNEL_GROUPS, N_PHASES, PHASE_COLUMNS, PHASE_ROWS, ModelConfig

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
    """The elements of one pass, which has K channels at every position.

    Arrays of elements are [B, h, w, K], with the channels of a position in rising order. `origin`: first row and column
    of the arrays in the latent grid.
    """

    def __init__(self, config: ModelConfig, reveal_pass: int, device: torch.device):
        self.phases = pass_phases(config, reveal_pass, device)
        self.n_channels = len(self.phases[0].coded)

    def gather(self, latent: Tensor, origin: Grid = (0, 0)) -> Tensor:
        """Read the elements from a latent [B, h, w, C]."""
        elements = latent.new_empty(*latent.shape[:3], self.n_channels)
        for phase in self.phases:
            positions = phase.positions(origin)
            elements[positions] = latent[positions][..., phase.coded]
        return elements

    def scatter(self, elements: Tensor, latent: Tensor, origin: Grid = (0, 0)) -> None:
        """Write the elements into a latent [B, h, w, C]."""
        for phase in self.phases:
            positions = phase.positions(origin)
            latent[positions][..., phase.coded] = elements[positions]


class CodingOrder:
    """The elements of latents by phase and, within a position, in the order of the passes.

    Arrays of elements are [8, B, n, C]: phases, pictures, 2x4 cells of the grid, channels. In coding order, a pass is a
    range of the channels, and what is known before it are the channels before that range.
    """

    def __init__(self, config: ModelConfig, device: torch.device):
        passes = pass_map(config, (PHASE_ROWS, PHASE_COLUMNS)).flatten(1).T
        self.channels = passes.argsort(dim=1, stable=True).to(device)
        self._inverse = self.channels.argsort(dim=1)
        self._starts = [int((passes[0] < reveal_pass).sum()) for reveal_pass in config.reveal_passes]
        self._starts.append(config.latent_channels)

    def of_pass(self, reveal_pass: int) -> slice:
        """Range of a pass in coding order."""
        return slice(self._starts[reveal_pass - 1], self._starts[reveal_pass])

    def sort(self, elements: Tensor) -> Tensor:
        """Bring elements in the order of channels into coding order."""
        return elements.gather(3, self.channels[:, None, None].expand_as(elements))

    def unsort(self, elements: Tensor) -> Tensor:
        """Invert `sort`."""
        return elements.gather(3, self._inverse[:, None, None].expand_as(elements))


@lru_cache
def coding_order(config: ModelConfig, device: torch.device) -> CodingOrder:
    """The coding order of a configuration. Cached: a CUDA graph needs the same memory again."""
    with torch.inference_mode(False):
        return CodingOrder(config, device)


def split_phases(x: Tensor) -> Tensor:
    """[B, C, h, w] -> [8, B, n, C], with zeros where the last cells leave the grid."""
    batch, channels, height, width = x.shape
    x = F.pad(x, (0, -width % PHASE_COLUMNS, 0, -height % PHASE_ROWS))
    n_rows, n_columns = x.shape[2] // PHASE_ROWS, x.shape[3] // PHASE_COLUMNS
    cells = x.reshape(batch, channels, n_rows, PHASE_ROWS, n_columns, PHASE_COLUMNS)
    return cells.permute(3, 5, 0, 2, 4, 1).reshape(N_PHASES, batch, n_rows * n_columns, channels)


def join_phases(x: Tensor, grid: Grid) -> Tensor:
    """Invert `split_phases`: [B, C, h, w], in channels-last memory."""
    batch, channels = x.shape[1], x.shape[3]
    n_rows, n_columns = -(-grid[0] // PHASE_ROWS), -(-grid[1] // PHASE_COLUMNS)
    cells = x.view(PHASE_ROWS, PHASE_COLUMNS, batch, n_rows, n_columns, channels).permute(2, 3, 0, 4, 1, 5)
    positions = cells.reshape(batch, n_rows * PHASE_ROWS, n_columns * PHASE_COLUMNS, channels)
    return positions[:, : grid[0], : grid[1]].permute(0, 3, 1, 2)
