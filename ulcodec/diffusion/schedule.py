"""Noise schedules of Unified Latents: log-SNR, signal and noise levels, bin width, loss weights.

Variance preserving: `x_t = alpha x + sigma eps`, `log_snr = log(alpha^2 / sigma^2)`, `t = 0` nearly clean, `t = 1`
noise. Symbols follow the paper (arXiv 2602.17270): alpha, sigma, log_snr (its lambda).
"""

import math

import torch
from torch import Tensor

LATENT_LOG_SNR_0 = 5.0
"""Log-SNR of the latent that leaves the encoder: lambda_z(0) of the paper, section 3."""

LATENT_LOG_SNR_1 = -10.0
"""Log-SNR at which the latent's diffusion ends. The paper does not state it; reimplementations use -10 or -20."""

PIXEL_LOG_SNR_RANGE = (-10.0, 10.0)
"""Clipping range of the pixel schedule (from the authors' earlier work)."""

RESIDUAL_LOG_SNR_RANGE = (-6.0, 8.0)
"""Log-SNRs at which noise hides a residual of unit variance completely, and at which it is not visible."""

RESIDUAL_LOG_SNR_CENTRE = 1.0

ALPHA_0 = math.sqrt(1 / (1 + math.exp(-LATENT_LOG_SNR_0)))
SIGMA_0 = math.sqrt(1 / (1 + math.exp(LATENT_LOG_SNR_0)))

BIN_WIDTH = math.sqrt(12) * SIGMA_0 / ALPHA_0
"""Width of a quantisation bin, 0.2844 in units of z: uniform noise of this width has the power of the fixed noise."""

NATS_TO_BITS = 1 / math.log(2)


def alpha(log_snr: Tensor) -> Tensor:
    """Signal level `sqrt(sigmoid(log_snr))`, any shape."""
    return torch.sigmoid(log_snr).sqrt()


def sigma(log_snr: Tensor) -> Tensor:
    """Noise level `sqrt(sigmoid(-log_snr))`, any shape."""
    return torch.sigmoid(-log_snr).sqrt()


def bin_noise_variance(log_snr: Tensor) -> Tensor:
    """Variance of the noise on `z_t / (alpha BIN_WIDTH)`, in squared bins; infinite where `log_snr` is -inf."""
    return torch.exp(-log_snr) / BIN_WIDTH**2


def latent_log_snr(t: Tensor) -> tuple[Tensor, Tensor]:
    """Linear latent schedule: returns `(log_snr, -d log_snr / dt)` for `t` in [0, 1]."""
    slope = LATENT_LOG_SNR_0 - LATENT_LOG_SNR_1
    return LATENT_LOG_SNR_0 - slope * t, torch.full_like(t, slope)


def pixel_log_snr(t: Tensor, *, resolution_px: int, base_px: int = 64) -> tuple[Tensor, Tensor]:
    """Cosine schedule shifted for resolution (simple diffusion, arXiv 2301.11093, eq. 4).

    Returns `(log_snr, -d log_snr / dt)`. The interval of `t` is shortened so that `log_snr` covers exactly
    `PIXEL_LOG_SNR_RANGE`.
    """
    low, high = PIXEL_LOG_SNR_RANGE
    shift = 2 * math.log(base_px / resolution_px)
    t_low = 2 / math.pi * math.atan(math.exp((shift - high) / 2))
    t_high = 2 / math.pi * math.atan(math.exp((shift - low) / 2))
    angle = math.pi / 2 * (t_low + t * (t_high - t_low))
    slope = math.pi * (t_high - t_low) / (torch.sin(angle) * torch.cos(angle))
    return shift - 2 * torch.log(torch.tan(angle)), slope


def residual_log_snr(t: Tensor) -> tuple[Tensor, Tensor]:
    """Logistic schedule for a residual of unit variance; returns `(log_snr, -d log_snr / dt)`.

    `log_snr` covers `RESIDUAL_LOG_SNR_RANGE`. For uniform `t` it is densest where noise hides part of a residual.
    """
    first, last = (1 / (1 + math.exp(-(RESIDUAL_LOG_SNR_CENTRE - level) / 1.5)) for level in RESIDUAL_LOG_SNR_RANGE)
    p = last + t * (first - last)
    return RESIDUAL_LOG_SNR_CENTRE - 1.5 * torch.logit(p), 1.5 * (first - last) / (p * (1 - p))


def decoder_weight(log_snr: Tensor, *, bias: float, loss_factor: float) -> Tensor:
    """Weight of `|x - x_hat|^2` in the decoder loss: `c_lf exp(b) sigmoid(lambda - b)`, without its `-lambda' / 2`.

    It equals the paper's sigmoid weight `c_lf sigmoid(b - lambda)` on the noise-prediction error (section 3.2), since
    `|eps - eps_hat|^2 = exp(lambda) |x - x_hat|^2`.
    """
    return loss_factor * math.exp(bias) * torch.sigmoid(log_snr - bias)
