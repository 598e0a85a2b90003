"""What the squared error of a picture is worth in bits, and how it curves."""

import math

import torch
from torch import Tensor

from ulcodec.model.config import ModelConfig

CURVATURE_BITS = 11.0
"""Half the second derivative of bits and weighted squared error by an element of a latent, in bits per squared bin.

Measured with the present weights: 9 to 15, more at low quality (docs/lab-notes/rate-distortion-optimisation.md)."""


def lagrangians(config: ModelConfig, quality: Tensor) -> Tensor:
    """Weights of `255^2 MSE` against bits per pixel, for qualities [B] in [0, 1]; see `ModelConfig.lagrangian`."""
    low, high = math.log(config.lagrangian_low), math.log(config.lagrangian_high)
    return torch.exp(low + quality * (high - low))
