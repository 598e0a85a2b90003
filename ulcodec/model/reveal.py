"""Reveal schedule: which element of the latent is coded in which step."""

from functools import lru_cache

import torch
from torch import Tensor

from ulcodec.model.config import N_CHANNEL_GROUPS, PHASE_COLUMNS, PHASE_ROWS, ModelConfig


@lru_cache
def phase_steps(config: ModelConfig, device: torch.device) -> Tensor:
    """Step of every channel group's phases, uint8 [16, 2, 4]: copied to a device once, as a CUDA graph needs it."""
    with torch.inference_mode(False):
        steps = torch.tensor([[int(step) for step in row] for row in config.reveal], dtype=torch.uint8, device=device)
        return steps.reshape(N_CHANNEL_GROUPS, PHASE_ROWS, PHASE_COLUMNS)


def step_map(config: ModelConfig, grid: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
    """Step (from 1) of every element: uint8 [C, h, w], tiled from the configuration's phases."""
    height, width = grid
    pattern = phase_steps(config, torch.device(device))
    rows = torch.arange(height, device=device) % PHASE_ROWS
    columns = torch.arange(width, device=device) % PHASE_COLUMNS
    tiled = pattern[:, rows][:, :, columns]
    return tiled.repeat(config.latent_channels // N_CHANNEL_GROUPS, 1, 1)


@lru_cache
def step_elements(config: ModelConfig, grid: tuple[int, int], device: torch.device) -> tuple[Tensor, ...]:
    """Elements of each step, int64, in the order of coding: by position, then channel. On a device once, as above."""
    with torch.inference_mode(False):
        steps = step_map(config, grid).permute(1, 2, 0).flatten()
        return tuple((steps == step).nonzero()[:, 0].to(device) for step in config.reveal_steps)
