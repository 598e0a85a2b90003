"""Reveal schedule over tensors: the pass in which each element of the latent is coded."""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from ulcodec.model.config import N_PHASES, PHASE_COLUMNS, PHASE_ROWS, ModelConfig
from ulcodec.model.schedule import Grid, channel_passes


@lru_cache
def _channel_passes(config: ModelConfig, device: torch.device) -> Tensor:
    """`channel_passes` on a device. Cached: a CUDA graph needs the same memory again."""
    with torch.inference_mode(False):
        return torch.tensor(channel_passes(config), device=device)


def pass_map(config: ModelConfig, grid: Grid, device: torch.device | str = "cpu", origin: Grid = (0, 0)) -> Tensor:
    """Pass, from 1, of each element in a part of the latent: uint8 [C, h, w].

    `grid`: height and width of the part; `origin`: its first row and column.
    """
    height, width = grid
    passes = _channel_passes(config, torch.device(device))
    rows = torch.arange(origin[0], origin[0] + height, device=device) % PHASE_ROWS
    columns = torch.arange(origin[1], origin[1] + width, device=device) % PHASE_COLUMNS
    return passes[:, rows][:, :, columns]


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
