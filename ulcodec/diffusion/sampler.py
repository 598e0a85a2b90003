"""Sampling from a diffusion model, and noise that belongs to places in a picture."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ulcodec.diffusion.schedule import alpha, sigma
from ulcodec.progress import tracked

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(z_t [B, ...], log_snr [B]) -> clean estimate."""


def sample(denoise: Denoiser, z_t: Tensor, log_snrs: Sequence[float], *, order: int = 2) -> Tensor:
    """From `z_t` at the first of rising log-SNRs to a sample at the last of them, deterministically.

    Order 1 is DDIM (arXiv 2010.02502, eq. 12 without noise); order 2 is DPM-Solver++(2M) (arXiv 2211.01095, alg. 2),
    which extrapolates the estimates of the last two steps. One evaluation a step either way.
    """
    previous: Tensor | None = None
    previous_step = 0.0
    for now, following in tracked(list(pairwise(log_snrs))):
        estimate = denoise(z_t, torch.full((len(z_t),), now, dtype=torch.float32, device=z_t.device))
        step = (following - now) / 2
        ahead = estimate
        if order == 2 and previous is not None:
            ahead = estimate + step / (2 * previous_step) * (estimate - previous)
        level = torch.tensor(following, dtype=torch.float32)
        sigma_ratio = float(sigma(level) / sigma(torch.tensor(now, dtype=torch.float32)))
        z_t = sigma_ratio * z_t - float(alpha(level)) * math.expm1(-step) * ahead
        previous, previous_step = estimate, step
    return z_t
