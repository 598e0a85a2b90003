"""Reveal schedule: which element of the latent is coded in which step."""

import torch
from torch import Tensor

from ulcodec.model.config import N_CHANNEL_GROUPS, PHASE_COLUMNS, PHASE_ROWS, ModelConfig


def step_map(config: ModelConfig, grid: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
    """Step (from 1) of every element: uint8 [C, h, w], tiled from the configuration's phases."""
    height, width = grid
    pattern = torch.tensor([[int(step) for step in row] for row in config.reveal], dtype=torch.uint8, device=device)
    pattern = pattern.reshape(N_CHANNEL_GROUPS, PHASE_ROWS, PHASE_COLUMNS)
    rows = torch.arange(height, device=device) % PHASE_ROWS
    columns = torch.arange(width, device=device) % PHASE_COLUMNS
    tiled = pattern[:, rows][:, :, columns]
    return tiled.repeat(config.latent_channels // N_CHANNEL_GROUPS, 1, 1)


def known_log_snr(steps: Tensor, step: int, log_snr_0: float) -> Tensor:
    """Log-SNR before `step`, float32 like `steps`: `log_snr_0` where an earlier step coded the element, else -inf."""
    known = steps < step
    return torch.where(known, log_snr_0, -torch.inf)
