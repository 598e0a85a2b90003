"""Measures of how lifelike pictures are, against closed forms."""

import math

import numpy as np
import pytest

from ulcodec.metrics import sliced_wasserstein, spectral_power_ratio
from ulcodec.metrics.critic import critic_accuracy


def white(std: float, seed: int, count: int = 4, side: int = 128) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(128, std, (side, side, 3)).round().clip(0, 255).astype(np.uint8) for _ in range(count)]


def test_equal_pictures_have_no_distance() -> None:
    pictures = white(20, 0)
    assert sliced_wasserstein(pictures, pictures) == [0, 0, 0]
    assert spectral_power_ratio(pictures, pictures) == [1, 1, 1, 1]


@pytest.mark.parametrize("gain", [0.5, 0.9])
def test_lost_contrast_of_gaussian_noise(gain: float) -> None:
    """Projections of the finest level are Gaussian; the distance of two of them is `sqrt(2 / pi) |std - std'|`.

    Scaled to unit variance in each pixel, the mean over random directions of a projection's deviation is nearly that of
    a pixel, for the level's patches are nearly white.
    """
    full = white(40, 0, count=8)
    reduced = [(128 + gain * (p.astype(float) - 128)).round().astype(np.uint8) for p in full]
    expected = 1000 * math.sqrt(2 / math.pi) * (1 - gain)
    assert sliced_wasserstein(full, reduced)[0] == pytest.approx(expected, rel=0.05)
    assert spectral_power_ratio(full, reduced) == pytest.approx([gain**2] * 4, rel=0.02)


def test_other_noise_of_the_same_kind_is_near() -> None:
    same, other = (sliced_wasserstein(white(30, 0), white(std, 1))[0] for std in (30, 20))
    assert same < 60
    assert other > 200


def test_blur_by_frequency() -> None:
    """A mean of horizontal neighbours passes `cos^2(pi f)` of the power at horizontal frequency f."""
    rng = np.random.default_rng(0)
    plain = [rng.normal(128, 30, (128, 129, 3)) for _ in range(4)]
    blurred = [(p[:, 1:] + p[:, :-1]) / 2 for p in plain]
    first, second = ([p.round().clip(0, 255).astype(np.uint8) for p in s] for s in ([p[:, 1:] for p in plain], blurred))
    f = np.fft.fftfreq(256)
    radius, passed = np.hypot(f[:, None], f[None]), np.cos(np.pi * f)[None] ** 2 + 0 * f[:, None]
    expected = [passed[(radius > low) & (radius <= high)].mean() for low, high in ((0.25, 1), (0.125, 0.25))]
    assert spectral_power_ratio(first, second)[:2] == pytest.approx(expected, rel=0.05)


def test_critic() -> None:
    """Chance for two draws of one distribution, certainty for two that are far apart."""
    assert critic_accuracy(white(20, 0), white(20, 1), n_steps=20) == pytest.approx(0.5, abs=0.06)
    assert critic_accuracy(white(20, 0), white(60, 1), n_steps=60) > 0.95


def test_sets_that_do_not_match() -> None:
    for measure in (sliced_wasserstein, spectral_power_ratio, critic_accuracy):
        with pytest.raises(ValueError, match="as many pictures"):
            measure(white(1, 0, count=2), white(1, 0, count=3))
    with pytest.raises(ValueError, match="sides of at least 28"):
        sliced_wasserstein(white(1, 0, side=27), white(1, 0, side=27))
    with pytest.raises(ValueError, match="sides of at least 64"):
        critic_accuracy(white(1, 0, side=32), white(1, 0, side=32))
