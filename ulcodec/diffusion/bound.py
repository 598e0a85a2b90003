"""Variational bound on the description length of a latent (Unified Latents, arXiv 2602.17270, section 3.1)."""

from collections.abc import Callable

import torch
from torch import Tensor

from ulcodec.diffusion.batch_noise import draw_rows, normal_noise
from ulcodec.diffusion.per_picture import per_picture, sum_per_picture
from ulcodec.diffusion.schedule import LATENT_LOG_SNR_1, alpha, latent_log_snr, sigma

LatentDenoiser = Callable[[Tensor, Tensor], Tensor]
"""Function of (z_t [B, C, h, w], log_snr [B]) that returns z_hat, all in the paper's units."""


def latent_bound_nats(denoise: LatentDenoiser, z: Tensor, generator: torch.Generator) -> Tensor:
    """Estimate UL's bound on `KL[q(z_0 | x) || p(z_0)]`: [B] nats, unbiased, from one noise level per picture.

    z [B, C, h, w] is clean.
    `L_z = E_t[-lambda' exp(lambda) / 2 |z - z_hat(z_t)|^2] + KL[q(z_1 | x) || N(0, I)]` (arXiv 2602.17270, 3.1).
    """
    log_snr, slope = latent_log_snr(stratified_times(len(z), generator))
    level = per_picture(log_snr, z)
    z_t = alpha(level) * z + sigma(level) * normal_noise(z, generator)
    squared_error = sum_per_picture((z - denoise(z_t, log_snr)) ** 2)
    return slope * log_snr.exp() / 2 * squared_error + terminal_kl_nats(z)


def terminal_kl_nats(z: Tensor) -> Tensor:
    """`KL[q(z_1 | x) || N(0, I)]` for clean latents z [B, ...]: [B] nats."""
    last = torch.full((), LATENT_LOG_SNR_1, device=z.device)
    variance = sigma(last) ** 2
    return sum_per_picture((alpha(last) * z) ** 2 + variance - 1 - variance.log()) / 2


def stratified_times(batch: int, generator: torch.Generator) -> Tensor:
    """Draw times [B] in [0, 1], one in each of B equal strata, all with the same offset.

    This is the low-discrepancy sampler of Kingma et al. 2021.
    """

    def strata(shape: tuple[int], generator: torch.Generator, device: torch.device) -> Tensor:
        offset = torch.rand(1, generator=generator, device=device)
        return (torch.arange(*shape, device=device) / shape[0] + offset) % 1

    return draw_rows(strata, (batch,), generator)
