"""Pictures drawn from the decoder's diffusion: sampler, noise, denoiser, and the options of a decode."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ulcodec.codec import tiling
from ulcodec.codec.image import Codec
from ulcodec.codec.realism import Realism
from ulcodec.diffusion.noise import position_noise
from ulcodec.diffusion.sampler import sample
from ulcodec.diffusion.schedule import RESIDUAL_LOG_SNR_RANGE, alpha, residual_log_snr, sigma
from ulcodec.errors import ModelError
from ulcodec.metrics import mse
from ulcodec.model.config import TINY
from ulcodec.model.decoder import Denoiser
from ulcodec.model.unified import UnifiedLatentModel


@pytest.fixture
def drawing_codec(tiny_codec: Codec) -> Codec:
    """The tiny codec with its denoiser as if it were trained; small pictures make several tiles."""
    return replace(tiny_codec, has_denoiser=True)


# Sampler


def gaussian(mean: float, std: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The exact denoiser of `N(mean, std^2)`."""

    def denoise(z_t: Tensor, log_snr: Tensor) -> Tensor:
        a, s = alpha(log_snr)[:, None], sigma(log_snr)[:, None]
        return mean + a * std**2 / (a**2 * std**2 + s**2) * (z_t - a * mean)

    return denoise


def error_of(order: int, n_steps: int) -> float:
    """Of samples from N(3, 0.25) against the flow, which keeps each at its quantile of the noisy distribution."""

    def at(log_snr: float) -> Tensor:
        a, s = alpha(torch.tensor(log_snr)), sigma(torch.tensor(log_snr))
        return 3 * a + (0.25 * a**2 + s**2).sqrt() * torch.linspace(-2, 2, 9)[None]

    drawn = sample(gaussian(3.0, 0.5), at(-12.0), np.linspace(-12, 12, n_steps + 1).tolist(), order=order)
    return float((drawn - at(12.0)).abs().max())


def test_sampler_reaches_the_distribution() -> None:
    assert error_of(1, 400) < 0.02
    assert error_of(2, 400) < 0.005


def test_orders_of_convergence() -> None:
    """Half the step halves the error of DDIM and quarters that of the second order, roughly."""
    assert error_of(1, 50) / error_of(1, 100) == pytest.approx(2, rel=0.15)
    assert error_of(2, 40) / error_of(2, 80) > 3
    assert error_of(2, 20) < error_of(1, 20) / 2


# Noise


def test_noise_belongs_to_places() -> None:
    whole = position_noise(3, range(0, 200), range(0, 150))
    assert whole.shape == (3, 200, 150)
    part = position_noise(3, range(50, 140), range(64, 128))
    assert torch.equal(part, whole[:, 50:140, 64:128])
    assert not torch.equal(position_noise(4, range(0, 64), range(0, 64)), whole[:, :64, :64])
    assert whole.mean().item() == pytest.approx(0, abs=0.02)
    assert whole.std().item() == pytest.approx(1, abs=0.02)
    blocks = whole[:, :192, :128].reshape(3, 3, 64, 2, 64).permute(0, 1, 3, 2, 4).reshape(18, -1)
    assert np.abs(np.corrcoef(blocks.numpy()) - np.eye(18)).max() < 0.08


# Denoiser


def test_schedule_of_residuals() -> None:
    t = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    log_snr, slope = residual_log_snr(t)
    low, high = RESIDUAL_LOG_SNR_RANGE
    assert [log_snr[-1].item(), log_snr[0].item()] == pytest.approx([low, high])
    assert slope.mean().item() == pytest.approx(high - low, rel=1e-3)
    torch.testing.assert_close(-torch.diff(log_snr) * 100_000, (slope[1:] + slope[:-1]) / 2, rtol=1e-3, atol=1e-4)


def test_fresh_denoiser_knows_a_gaussian() -> None:
    """With its last layer at zero it estimates `alpha r_t`: exact for a residual of unit variance without structure."""
    denoiser = Denoiser(TINY)
    known = denoiser.conditions(torch.rand(1, TINY.width_8, 8, 8), torch.zeros(1, 3, 64, 64))
    r_t, level = torch.randn(1, 48, 16, 16), torch.full((1, 1, 1, 1), 0.7)
    torch.testing.assert_close(denoiser(r_t, level, known), alpha(level) * r_t)
    assert known.log_std.exp().mean().item() == pytest.approx(0.05)


def test_white_noise_on_the_picture_is_a_level_a_cell(tiny_model: UnifiedLatentModel) -> None:
    """`estimate` at one level gives what the residual's denoiser gives at each cell's own."""
    denoiser = tiny_model.decoder.denoiser
    generator = torch.Generator().manual_seed(0)
    features, mean = torch.rand(1, 32, 4, 4, generator=generator), torch.rand(1, 3, 32, 32, generator=generator) - 0.5
    noise = torch.randn(1, 3, 32, 32, generator=generator)
    level = torch.tensor([4.0])
    x_t = alpha(level) * mean + sigma(level) * noise
    known = denoiser.conditions(features, mean)
    log_std = known.log_std.mean(1, keepdim=True)
    local = level + 2 * log_std
    r_t = denoiser.coefficients(math.exp(-2) * noise) / log_std.exp() * alpha(local)
    drawn = mean + denoiser.pixels(log_std.exp() * denoiser(r_t, local, known))
    torch.testing.assert_close(denoiser.estimate(x_t, level, features, mean), drawn, atol=1e-5, rtol=1e-4)


def test_coefficients_are_orthonormal(tiny_model: UnifiedLatentModel) -> None:
    denoiser = tiny_model.decoder.denoiser
    x = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    coefficients = denoiser.coefficients(x)
    assert coefficients.shape == (2, 48, 4, 6)
    torch.testing.assert_close(denoiser.pixels(coefficients), x)
    torch.testing.assert_close(coefficients.square().sum(), x.square().sum())


# Decoding


def test_between_the_mean_and_a_sample(drawing_codec: Codec, picture: np.ndarray) -> None:
    data = drawing_codec.encode(picture, quality=30)
    mean, half, full = (drawing_codec.decode_array(data, realism=share).astype(float) for share in (0, 0.5, 1.0))
    assert np.array_equal(mean, drawing_codec.decode_array(data))
    unclipped = np.all([(shown > 0) & (shown < 255) for shown in (mean, half, full)], axis=0)
    assert np.abs(half - (mean + full) / 2)[unclipped].max() <= 1
    assert np.abs(full - mean).mean() > 2


def test_a_seed_decides_the_picture(drawing_codec: Codec, picture: np.ndarray) -> None:
    data = drawing_codec.encode(picture, quality=30)
    first, again, other = (drawing_codec.decode_array(data, realism=Realism(1, 4, seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert mse(first, other) > 1


def test_tiles_and_crops_show_the_same_sample(
    drawing_codec: Codec, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = np.tile(picture, (2, 3, 1))
    data = drawing_codec.encode(large, quality=30)
    whole = drawing_codec.decode_array(data, realism=Realism(1, 2)).astype(int)
    crop = drawing_codec.decode_picture(data, crop=(90, 40, 77, 50), realism=Realism(1, 2)).pixels.astype(int)
    assert np.abs(crop - whole[40:90, 90:167]).max() <= 1
    monkeypatch.setattr(tiling, "CODEC_TILE", 4)
    tiled = drawing_codec.decode_array(data, realism=Realism(1, 2)).astype(int)
    assert np.abs(tiled - whole).max() <= 1
    assert (tiled != whole).mean() < 0.01


def test_grey_and_deep_pictures(drawing_codec: Codec, picture: np.ndarray) -> None:
    grey = drawing_codec.encode(picture[:, :, 0], quality=30)
    assert drawing_codec.decode_array(grey, realism=1.0).shape == (80, 96)
    deep = drawing_codec.encode(picture.astype(np.uint16) * 257, quality=30)
    assert drawing_codec.decode_array(deep, realism=1.0).dtype == np.uint16


@pytest.mark.parametrize("wrong", [{"share": 1.1}, {"share": -0.1}, {"n_steps": 0}, {"n_steps": 51}, {"seed": -1}])
def test_what_is_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Realism(**{"share": 0.5, **wrong})  # type: ignore[arg-type]


def test_a_denoiser_that_was_never_trained(tiny_codec: Codec, picture: np.ndarray) -> None:
    data = tiny_codec.encode(picture)
    tiny_codec.decode_array(data, realism=0)
    with pytest.raises(ModelError, match="never trained"):
        tiny_codec.decode_array(data, realism=0.5)


# Thumbnails


@pytest.mark.parametrize(("height", "width"), [(80, 96), (73, 91)])
def test_thumbnail_is_the_picture_made_small(tiny_codec: Codec, picture: np.ndarray, height: int, width: int) -> None:
    data = tiny_codec.encode(picture[:height, :width], quality=100)
    thumbnail = tiny_codec.thumbnail(data).pixels
    assert thumbnail.shape == (-(-height // 8), -(-width // 8), 3)
    expected = np.asarray(Image.fromarray(tiny_codec.decode_array(data)).reduce(8)).astype(int)
    assert np.abs(thumbnail - expected).mean() < 4


def test_thumbnail_of_grey_with_alpha(tiny_codec: Codec, picture: np.ndarray) -> None:
    shown = tiny_codec.thumbnail(tiny_codec.encode(picture[:, :, :2])).samples
    assert shown.shape == (10, 12, 2)
    expected = picture[:, :, 1].reshape(10, 8, 12, 8).mean((1, 3))
    assert np.abs(shown[:, :, 1] - expected).max() <= 1


def test_shipped_model_draws(picture: np.ndarray) -> None:
    """The small model has a trained denoiser, whose samples have more of the original's fine contrast than the mean."""
    from ulcodec import load
    from ulcodec.metrics import spectral_power_ratio

    codec = load("small", device="cpu")
    data = codec.encode(picture, quality=10)
    mean, drawn = (codec.decode_array(data, realism=Realism(share, 4)) for share in (0.0, 1.0))
    lost, shown = (spectral_power_ratio([picture], [decoded])[0] for decoded in (mean, drawn))
    assert lost < shown < 2
