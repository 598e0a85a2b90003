"""Limits and identities of the noise schedules."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from ulcodec.diffusion import schedule
from ulcodec.diffusion.schedule import (
    RESIDUAL_LOG_SNR_RANGE,
    alpha,
    bin_noise_variance,
    decoder_weight,
    latent_log_snr,
    pixel_log_snr,
    residual_log_snr,
    sigma,
)

LEVELS = torch.linspace(-20, 20, 401, dtype=torch.float64)
TIMES = torch.linspace(0, 1, 101, dtype=torch.float64)
Schedule = Callable[[Tensor], tuple[Tensor, Tensor]]

both_schedules = pytest.mark.parametrize(
    "log_snr_at",
    [latent_log_snr, partial(pixel_log_snr, resolution_px=64), partial(pixel_log_snr, resolution_px=512)],
    ids=["latent", "pixel-64", "pixel-512"],
)


def test_variance_is_preserved() -> None:
    torch.testing.assert_close(alpha(LEVELS) ** 2 + sigma(LEVELS) ** 2, torch.ones_like(LEVELS))
    torch.testing.assert_close((alpha(LEVELS) / sigma(LEVELS)).log() * 2, LEVELS)


def test_alpha_and_sigma_of_the_fixed_noise() -> None:
    assert pytest.approx(0.99665, abs=1e-5) == schedule.ALPHA_0
    assert pytest.approx(0.08181, abs=1e-5) == schedule.SIGMA_0
    assert pytest.approx(0.2844, abs=1e-4) == schedule.BIN_WIDTH
    level = torch.tensor(schedule.LATENT_LOG_SNR_0, dtype=torch.float64)
    assert alpha(level).item() == pytest.approx(schedule.ALPHA_0)
    assert sigma(level).item() == pytest.approx(schedule.SIGMA_0)


def test_noise_of_one_bin_has_the_power_of_the_fixed_noise() -> None:
    """Uniform noise of width 1 has variance 1/12."""
    levels = torch.tensor([schedule.LATENT_LOG_SNR_0, -torch.inf], dtype=torch.float64)
    fixed_noise, unknown = bin_noise_variance(levels).tolist()
    assert fixed_noise == pytest.approx(1 / 12)
    assert unknown == math.inf


@both_schedules
def test_slope_is_the_derivative(log_snr_at: Schedule) -> None:
    t = TIMES[1:-1]
    width = 1e-6
    numerical = (log_snr_at(t - width)[0] - log_snr_at(t + width)[0]) / (2 * width)
    slope = log_snr_at(t)[1]
    assert (slope > 0).all()
    torch.testing.assert_close(slope, numerical, rtol=1e-6, atol=1e-6)


def test_schedules_end_at_their_log_snrs() -> None:
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert latent_log_snr(ends)[0].tolist() == [5.0, -10.0]
    for resolution_px in (64, 256, 1024):
        levels = pixel_log_snr(ends, resolution_px=resolution_px)[0].tolist()
        assert levels == pytest.approx([10.0, -10.0], abs=1e-9)


def test_larger_pictures_get_more_noise() -> None:
    small, large = (pixel_log_snr(TIMES, resolution_px=side)[0] for side in (64, 512))
    assert (large[1:-1] < small[1:-1]).all()
    middle = torch.tensor([0.5], dtype=torch.float64)
    assert pixel_log_snr(middle, resolution_px=64)[0].item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("bias", "loss_factor"), [(0.0, 1.5), (-1.0, 1.7), (2.0, 1.3)])
def test_decoder_weight_is_the_sigmoid_weight_of_the_noise_view(bias: float, loss_factor: float) -> None:
    """`c_lf sigmoid(b - lambda)` on the noise-prediction error equals `decoder_weight` on the picture's."""
    generator = torch.Generator().manual_seed(0)
    x, x_hat, noise = torch.randn(3, len(LEVELS), generator=generator, dtype=torch.float64)
    x_t = alpha(LEVELS) * x + sigma(LEVELS) * noise
    noise_hat = (x_t - alpha(LEVELS) * x_hat) / sigma(LEVELS)
    noise_view = loss_factor * torch.sigmoid(bias - LEVELS) * (noise - noise_hat) ** 2
    picture_view = decoder_weight(LEVELS, bias=bias, loss_factor=loss_factor) * (x - x_hat) ** 2
    torch.testing.assert_close(picture_view, noise_view, rtol=1e-6, atol=1e-9)


def test_residual_schedule_has_its_range_and_slope() -> None:
    t = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    log_snr, slope = residual_log_snr(t)
    low, high = RESIDUAL_LOG_SNR_RANGE
    assert [log_snr[-1].item(), log_snr[0].item()] == pytest.approx([low, high])
    assert slope.mean().item() == pytest.approx(high - low, rel=1e-3)
    torch.testing.assert_close(-torch.diff(log_snr) * 100_000, (slope[1:] + slope[:-1]) / 2, rtol=1e-3, atol=1e-4)
