"""The denoiser of the decoder: coefficients, conditions and noise levels."""

import math

import pytest
import torch

from ulcodec.diffusion.schedule import alpha, sigma
from ulcodec.model.config import TINY
from ulcodec.model.decoder import Denoiser
from ulcodec.model.unified import UnifiedLatentModel


def test_untrained_denoiser_is_exact_for_white_noise() -> None:
    """Its last layer is zero, so it estimates `alpha r_t`: exact for an uncorrelated residual of unit variance."""
    denoiser = Denoiser(TINY)
    conditions = denoiser.conditions(torch.rand(1, TINY.width_8, 8, 8), torch.zeros(1, 3, 64, 64))
    r_t, level = torch.randn(1, 48, 16, 16), torch.full((1, 1, 1, 1), 0.7)
    torch.testing.assert_close(denoiser(r_t, level, conditions), alpha(level) * r_t)
    assert conditions.log_std.exp().mean().item() == pytest.approx(0.05)


def test_noise_of_the_picture_has_one_level_per_cell(tiny_model: UnifiedLatentModel) -> None:
    """`estimate` at one noise level equals the denoiser of the residual at the level of each cell."""
    denoiser = tiny_model.decoder.denoiser
    generator = torch.Generator().manual_seed(0)
    features, mean = torch.rand(1, 32, 4, 4, generator=generator), torch.rand(1, 3, 32, 32, generator=generator) - 0.5
    noise = torch.randn(1, 3, 32, 32, generator=generator)
    level = torch.tensor([4.0])
    x_t = alpha(level) * mean + sigma(level) * noise
    conditions = denoiser.conditions(features, mean)
    log_std = conditions.log_std.mean(1, keepdim=True)
    local = level + 2 * log_std
    r_t = denoiser.coefficients(math.exp(-2) * noise) / log_std.exp() * alpha(local)
    expected = mean + denoiser.pixels(log_std.exp() * denoiser(r_t, local, conditions))
    torch.testing.assert_close(denoiser.estimate(x_t, level, features, mean), expected, atol=1e-5, rtol=1e-4)


def test_coefficients_are_orthonormal(tiny_model: UnifiedLatentModel) -> None:
    denoiser = tiny_model.decoder.denoiser
    x = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    coefficients = denoiser.coefficients(x)
    assert coefficients.shape == (2, 48, 4, 6)
    torch.testing.assert_close(denoiser.pixels(coefficients), x)
    torch.testing.assert_close(coefficients.square().sum(), x.square().sum())
