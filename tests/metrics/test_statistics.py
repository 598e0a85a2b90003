"""Statistics that compare two sets of pictures, against closed forms."""

import math

import numpy as np
import pytest

from ulcodec.metrics import sliced_wasserstein, spectral_power_ratio
from ulcodec.metrics.critic import critic_accuracy


def white_noise(std: float, seed: int, count: int = 4, side: int = 128) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(128, std, (side, side, 3)).round().clip(0, 255).astype(np.uint8) for _ in range(count)]


def test_equal_pictures_have_distance_zero() -> None:
    pictures = white_noise(20, 0)
    assert sliced_wasserstein(pictures, pictures) == [0, 0, 0]
    assert spectral_power_ratio(pictures, pictures) == [1, 1, 1, 1]


@pytest.mark.parametrize("gain", [0.5, 0.9])
def test_lower_contrast_of_gaussian_noise_is_its_closed_form(gain: float) -> None:
    """Projections of the finest level are Gaussian, and two Gaussians have the distance `sqrt(2 / pi) |std - std'|`.

    Pixels are scaled to unit variance. The patches of the level are nearly white, so the standard deviation of a
    projection, averaged over random directions, is nearly that of a pixel.
    """
    full = white_noise(40, 0, count=8)
    reduced = [(128 + gain * (p.astype(float) - 128)).round().astype(np.uint8) for p in full]
    expected = 1000 * math.sqrt(2 / math.pi) * (1 - gain)
    assert sliced_wasserstein(full, reduced)[0] == pytest.approx(expected, rel=0.05)
    assert spectral_power_ratio(full, reduced) == pytest.approx([gain**2] * 4, rel=0.02)


def test_noise_of_equal_deviation_is_nearer() -> None:
    equal_std, other_std = (sliced_wasserstein(white_noise(30, 0), white_noise(std, 1))[0] for std in (30, 20))
    assert equal_std < 60
    assert other_std > 200


def test_blur_lowers_the_power_by_frequency() -> None:
    """The mean of two horizontal neighbours scales the power at horizontal frequency f by `cos^2(pi f)`."""
    rng = np.random.default_rng(0)
    plain = [rng.normal(128, 30, (128, 129, 3)) for _ in range(4)]
    blurred = [(p[:, 1:] + p[:, :-1]) / 2 for p in plain]
    first, second = ([p.round().clip(0, 255).astype(np.uint8) for p in s] for s in ([p[:, 1:] for p in plain], blurred))
    f = np.fft.fftfreq(256)
    radius, power_ratio = np.hypot(f[:, None], f[None]), np.cos(np.pi * f)[None] ** 2 + 0 * f[:, None]
    expected = [power_ratio[(radius > low) & (radius <= high)].mean() for low, high in ((0.25, 1), (0.125, 0.25))]
    assert spectral_power_ratio(first, second)[:2] == pytest.approx(expected, rel=0.05)


def test_critic_separates_different_distributions_only() -> None:
    """Accuracy is 0.5 for one distribution, and near 1 for two that differ much."""
    assert critic_accuracy(white_noise(20, 0), white_noise(20, 1), n_steps=20) == pytest.approx(0.5, abs=0.06)
    assert critic_accuracy(white_noise(20, 0), white_noise(60, 1), n_steps=60) > 0.95


def test_unequal_sets_and_small_pictures_are_refused() -> None:
    for measure in (sliced_wasserstein, spectral_power_ratio, critic_accuracy):
        with pytest.raises(ValueError, match="as many pictures"):
            measure(white_noise(1, 0, count=2), white_noise(1, 0, count=3))
    with pytest.raises(ValueError, match="sides of at least 28"):
        sliced_wasserstein(white_noise(1, 0, side=27), white_noise(1, 0, side=27))
    with pytest.raises(ValueError, match="sides of at least 64"):
        critic_accuracy(white_noise(1, 0, side=32), white_noise(1, 0, side=32))
