"""The exact denoiser of a Gaussian, plus the correction of a network."""

import torch
from torch import Tensor

from ulcodec.diffusion.schedule import alpha, sigma


def noisy_std(log_snr: Tensor, std: Tensor | float) -> Tensor:
    """Standard deviation of `z_t` for z of deviation `std`; all broadcastable."""
    return torch.sqrt((alpha(log_snr) * std) ** 2 + sigma(log_snr) ** 2)


def corrected_gaussian(z_t: Tensor, log_snr: Tensor, mean: Tensor, std: Tensor | float, correction: Tensor) -> Tensor:
    """Estimate z: the posterior mean of `z ~ N(mean, std^2)` given z_t, and a correction of unit scale.

    All broadcastable to z_t. The correction counts by the deviation that z has given z_t (after EDM, arXiv 2206.00364,
    section 5).
    """
    a, s, total = alpha(log_snr), sigma(log_snr), noisy_std(log_snr, std)
    return mean + (a * std**2 / total * (z_t - a * mean) + std * s * correction) / total
