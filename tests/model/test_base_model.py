"""The base model denoises a Gaussian exactly, and the sampler draws it, with and without guidance."""

import pytest
import torch

from ulcodec.codec.generate import guided, sample_latents
from ulcodec.diffusion.sampler import Denoiser
from ulcodec.diffusion.schedule import ALPHA_0, SIGMA_0, alpha, sigma
from ulcodec.model.base_model import BaseModel, BaseModelConfig, base_model_config
from ulcodec.model.transformer import rotary_angles

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


@pytest.mark.parametrize("grid", [(4, 6), (3, 4, 6)])
def test_two_levels_start_as_the_gaussian_and_learn_everywhere(grid: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    config = BaseModelConfig(
        latent_channels=3, width=48, n_blocks=2, head_size=16, dropout=0, n_axes=len(grid), fine_width=32, fine_blocks=3
    )
    model = BaseModel(config)
    model.set_statistics(MEAN, STD)
    z_t, log_snr = torch.randn(2, 3, *grid), torch.tensor([2.0, -3.0])
    plain = BaseModel(BaseModelConfig(latent_channels=3, width=16, n_blocks=1, head_size=16, n_axes=len(grid)))
    plain.set_statistics(MEAN, STD)
    assert torch.equal(model(z_t, log_snr), plain(z_t, log_snr)), "fresh networks change nothing"
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape)
    model(z_t, log_snr).square().sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
    assert len(model.blocks()) == 5


def test_base_model_of_the_paper() -> None:
    with torch.device("meta"):
        model = BaseModel(base_model_config("paper", latent_channels=32, n_axes=3))
        assert model(torch.empty(1, 32, 4, 16, 16), torch.empty(1)).shape == (1, 32, 4, 16, 16)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(339.4, abs=0.1)
    assert len(model.blocks()) == 6 + 16


@pytest.mark.parametrize(("grid", "head_size"), [((3, 5), 16), ((2, 3, 5), 64), ((2, 3, 5), 32)])
def test_rotary_angles_are_those_of_each_axis(grid: tuple[int, ...], head_size: int) -> None:
    """Each axis has its share of the pairs; the angle of a pair is proportional to the position along its axis."""
    angles = rotary_angles(grid, head_size, torch.device("cpu")).view(*grid, head_size // 2)
    shares = [(head_size // 2 + axis) // len(grid) for axis in range(len(grid))]
    parts = torch.split(angles, shares, dim=-1)
    for axis, part in enumerate(parts):
        first = part[tuple(1 if other == axis else 0 for other in range(len(grid)))]
        assert first[0] == 1, "the first pair turns by one radian a position"
        for position in torch.cartesian_prod(*(torch.arange(extent) for extent in grid)):
            torch.testing.assert_close(part[tuple(position)], position[axis] * first)
