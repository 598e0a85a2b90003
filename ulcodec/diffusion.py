"""Sampling from a diffusion model, and noise that belongs to places in a picture."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ulcodec.progress import tracked
from ulcodec.schedule import alpha, sigma

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(z_t [B, ...], log_snr [B]) -> clean estimate."""

NOISE_BLOCK_PX = 64


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


def position_noise(seed: int, rows: range, columns: range) -> Tensor:
    """White Gaussian noise [3, H, W] float32 for these rows and columns of an endless picture.

    Each block of 64x64 pixels has a counter-based generator of its own (Philox, keyed by seed and block), so that a
    part of a picture gets the noise that the whole would.
    """
    noise = np.empty((3, len(rows), len(columns)), np.float32)
    for row in range(rows.start // NOISE_BLOCK_PX, -(-rows.stop // NOISE_BLOCK_PX)):
        for column in range(columns.start // NOISE_BLOCK_PX, -(-columns.stop // NOISE_BLOCK_PX)):
            bits = np.random.Philox(key=seed, counter=[0, 0, row, column])
            block = np.random.Generator(bits).standard_normal((3, NOISE_BLOCK_PX, NOISE_BLOCK_PX), np.float32)
            (top, bottom), (left, right) = (
                (max(wanted.start, index * NOISE_BLOCK_PX), min(wanted.stop, (index + 1) * NOISE_BLOCK_PX))
                for wanted, index in ((rows, row), (columns, column))
            )
            noise[:, top - rows.start : bottom - rows.start, left - columns.start : right - columns.start] = block[
                :,
                top - row * NOISE_BLOCK_PX : bottom - row * NOISE_BLOCK_PX,
                left - column * NOISE_BLOCK_PX : right - column * NOISE_BLOCK_PX,
            ]
    return torch.from_numpy(noise)
