"""The sampler against the exact denoiser of a Gaussian."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ulcodec.diffusion.sampler import sample
from ulcodec.diffusion.schedule import alpha, sigma


def gaussian(mean: float, std: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the exact denoiser of `N(mean, std^2)`."""

    def denoise(z_t: Tensor, log_snr: Tensor) -> Tensor:
        a, s = alpha(log_snr)[:, None], sigma(log_snr)[:, None]
        return mean + a * std**2 / (a**2 * std**2 + s**2) * (z_t - a * mean)

    return denoise


def error_of(order: int, n_steps: int) -> float:
    """Return the largest error of samples from N(3, 0.25).

    The exact flow keeps each sample at its quantile of the noisy distribution.
    """

    def quantiles(log_snr: float) -> Tensor:
        a, s = alpha(torch.tensor(log_snr)), sigma(torch.tensor(log_snr))
        return 3 * a + (0.25 * a**2 + s**2).sqrt() * torch.linspace(-2, 2, 9)[None]

    log_snrs = np.linspace(-12, 12, n_steps + 1).tolist()
    samples = sample(gaussian(3.0, 0.5), quantiles(-12.0), log_snrs, order=order)
    return float((samples - quantiles(12.0)).abs().max())


def test_samples_reach_the_distribution() -> None:
    assert error_of(1, 400) < 0.02
    assert error_of(2, 400) < 0.005


def test_error_falls_with_the_order_of_the_sampler() -> None:
    """Twice as many evaluations halve the error of DDIM, and about quarter the error of the second order."""
    assert error_of(1, 50) / error_of(1, 100) == pytest.approx(2, rel=0.15)
    assert error_of(2, 40) / error_of(2, 80) > 3
    assert error_of(2, 20) < error_of(1, 20) / 2
