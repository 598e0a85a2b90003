"""Deterministic sampling from a diffusion model."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ulcodec.diffusion.schedule import alpha, sigma
from ulcodec.progress import tracked

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""Function of (z_t [B, ...], log_snr [B]) that returns an estimate of the clean z."""


def sample(denoise: Denoiser, z_t: Tensor, log_snrs: Sequence[float], *, order: int = 2) -> Tensor:
    """Denoise `z_t`, at the first of the rising `log_snrs`, to a sample at the last of them.

    Order 1 is DDIM (arXiv 2010.02502, eq. 12 without noise). Order 2 is DPM-Solver++(2M) (arXiv 2211.01095, alg. 2),
    which extrapolates the last two estimates. Both evaluate the denoiser once per interval of `log_snrs`.
    """
    previous_estimate: Tensor | None = None
    previous_h = 0.0  # h: interval in half log-SNR, as in DPM-Solver
    for log_snr, next_log_snr in tracked(list(pairwise(log_snrs))):
        estimate = denoise(z_t, torch.full((len(z_t),), log_snr, dtype=torch.float32, device=z_t.device))
        h = (next_log_snr - log_snr) / 2
        extrapolated = estimate
        if order == 2 and previous_estimate is not None:
            extrapolated = estimate + h / (2 * previous_h) * (estimate - previous_estimate)
        level = torch.tensor(next_log_snr, dtype=torch.float32)
        sigma_ratio = float(sigma(level) / sigma(torch.tensor(log_snr, dtype=torch.float32)))
        z_t = sigma_ratio * z_t - float(alpha(level)) * math.expm1(-h) * extrapolated
        previous_estimate, previous_h = estimate, h
    return z_t
