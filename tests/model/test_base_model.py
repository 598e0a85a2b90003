"""The base model denoises a Gaussian exactly, and the sampler draws it, with and without guidance."""

import pytest
import torch

from ulcodec.codec.generate import guided, sample_latents
from ulcodec.diffusion.sampler import Denoiser
from ulcodec.diffusion.schedule import ALPHA_0, SIGMA_0, alpha, sigma
from ulcodec.model.base_model import BaseModel, BaseModelConfig

MEAN, STD = torch.tensor([3.0, -0.5, 0.0]), torch.tensor([20.0, 1.0, 0.01])
"""Statistics of three channels that differ as much as those of a codec's latent."""


@pytest.fixture(scope="module")
def gaussian() -> BaseModel:
    """A fresh base model, whose network has zero output."""
    config = BaseModelConfig(latent_channels=3, width=32, n_blocks=1, head_size=16)
    base_model = BaseModel(config).eval().requires_grad_(False)
    base_model.set_statistics(MEAN, STD)
    return base_model


@pytest.mark.parametrize("log_snr", [-10.0, -6.0, 0.0, 5.0])
def test_fresh_base_model_denoises_a_gaussian_exactly(gaussian: BaseModel, log_snr: float) -> None:
    generator = torch.Generator().manual_seed(0)
    z, noise = torch.randn(2, 4000, 3, 2, 2, generator=generator)
    z = MEAN[:, None, None] + STD[:, None, None] * z
    level = torch.tensor(log_snr)
    z_hat = gaussian(alpha(level) * z + sigma(level) * noise, level.expand(len(z)))
    posterior_variance = STD**2 / (1 + STD**2 * level.exp())
    torch.testing.assert_close(((z - z_hat) ** 2).mean((0, 2, 3)), posterior_variance, rtol=0.04, atol=0)


def test_sampler_draws_the_gaussian(gaussian: BaseModel) -> None:
    z_0 = sample_latents(gaussian, gaussian.draw_noisiest((2000, 2, 2), torch.Generator().manual_seed(0)), 200)
    torch.testing.assert_close(z_0.mean((0, 2, 3)), ALPHA_0 * MEAN, rtol=0, atol=0.5)
    expected = ((ALPHA_0 * STD) ** 2 + SIGMA_0**2).sqrt()
    torch.testing.assert_close(z_0.std((0, 2, 3)), expected, rtol=0.05, atol=0)


def test_guidance_moves_away_from_the_guide(gaussian: BaseModel) -> None:
    guide = BaseModel(gaussian.config).eval().requires_grad_(False)
    guide.set_statistics(MEAN + torch.tensor([0.0, 1.0, 0.0]), STD)

    z_1 = gaussian.draw_noisiest((500, 2, 2), torch.Generator().manual_seed(0))

    def mean_of_samples(denoise: Denoiser) -> float:
        return float(sample_latents(denoise, z_1, 50)[:, 1].mean())

    unguided_mean = mean_of_samples(gaussian)
    assert mean_of_samples(guided(gaussian, guide, 1.0)) == pytest.approx(unguided_mean, abs=1e-4)
    assert mean_of_samples(guided(gaussian, guide, 2.0)) < unguided_mean - 0.3
