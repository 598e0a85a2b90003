"""What the squared error of a picture is worth in bits."""

import math

import torch
from torch import Tensor

from ulcodec.model.config import ModelConfig


def lagrangians(config: ModelConfig, quality: Tensor) -> Tensor:
    """Weights of `255^2 MSE` against bits per pixel, for qualities [B] in [0, 1]; see `ModelConfig.lagrangian`."""
    low, high = math.log(config.lagrangian_low), math.log(config.lagrangian_high)
    return torch.exp(low + quality * (high - low))
