"""Fréchet distance of Gaussians against closed forms, and statistics that are computed in batches."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from ulcodec.metrics import FeatureStatistics, frechet_distance
from ulcodec.metrics.frechet import gaussian_distance, square_root


def random_covariance(rng: np.random.Generator, n_features: int, rank: int | None = None) -> np.ndarray:
    factor = rng.normal(size=(n_features, rank or n_features))
    return factor @ factor.T


def random_rotation(rng: np.random.Generator, n_features: int) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(n_features, n_features)))[0]


def statistics_of(features: np.ndarray, batch: int | None = None) -> FeatureStatistics:
    statistics = FeatureStatistics()
    for start in range(0, len(features), batch or len(features)):
        statistics.add(features[start : start + (batch or len(features))])
    return statistics


def test_one_feature_has_its_closed_form() -> None:
    """For one feature, the distance is (m - m_w)^2 + (s - s_w)^2, with standard deviations s."""
    distance = gaussian_distance(np.array([3.0]), np.array([[4.0]]), np.array([1.0]), np.array([[25.0]]))
    assert distance == pytest.approx((3 - 1) ** 2 + (2 - 5) ** 2, rel=1e-12)


def test_covariances_that_commute_have_their_closed_form() -> None:
    """Covariances with the same axes: the sum over these axes."""
    rng = np.random.default_rng(0)
    axes = random_rotation(rng, 6)
    stds, other_stds = rng.uniform(0.1, 3, 6), rng.uniform(0.1, 3, 6)
    mean, other_mean = rng.normal(size=6), rng.normal(size=6)
    covariance, other = ((axes * s**2) @ axes.T for s in (stds, other_stds))
    expected = np.sum((mean - other_mean) ** 2) + np.sum((stds - other_stds) ** 2)
    assert gaussian_distance(mean, covariance, other_mean, other) == pytest.approx(expected, rel=1e-12)


def test_covariances_that_do_not_commute_agree_with_scipy() -> None:
    rng = np.random.default_rng(1)
    mean, other_mean = rng.normal(size=8), rng.normal(size=8)
    covariance, other = random_covariance(rng, 8), random_covariance(rng, 8)
    assert not np.allclose(covariance @ other, other @ covariance)
    expected = np.sum((mean - other_mean) ** 2) + np.trace(covariance + other - 2 * sqrtm(covariance @ other).real)
    assert gaussian_distance(mean, covariance, other_mean, other) == pytest.approx(expected, rel=1e-9)


def test_two_by_two_covariances_have_their_closed_form() -> None:
    """For two features, tr (C C_w)^(1/2) = (tr C C_w + 2 (det C C_w)^(1/2))^(1/2), by Cayley and Hamilton."""
    rng = np.random.default_rng(2)
    covariance, other = random_covariance(rng, 2), random_covariance(rng, 2)
    product = covariance @ other
    root_trace = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    expected = np.trace(covariance) + np.trace(other) - 2 * root_trace
    assert gaussian_distance(np.zeros(2), covariance, np.zeros(2), other) == pytest.approx(expected, rel=1e-9)


def test_singular_covariances_have_a_distance() -> None:
    """Two lines at an angle: the overlap of their standard deviations is that of their directions."""
    first, second = np.array([2.0, 0, 0]), np.array([3 * np.cos(1), 3 * np.sin(1), 0])
    distance = gaussian_distance(np.zeros(3), np.outer(first, first), np.zeros(3), np.outer(second, second))
    assert distance == pytest.approx(4 + 9 - 2 * 2 * 3 * np.cos(1), rel=1e-9)


def test_square_root_is_a_root() -> None:
    covariance = random_covariance(np.random.default_rng(3), 7, rank=4)
    assert np.allclose(square_root(covariance) @ square_root(covariance), covariance)


@pytest.mark.parametrize("n_vectors", [5, 40])
def test_equal_sets_have_distance_zero_and_order_does_not_matter(n_vectors: int) -> None:
    rng = np.random.default_rng(4)
    features = rng.normal(100, 3, (n_vectors, 12))
    shuffled = statistics_of(rng.permutation(features), batch=7)
    assert frechet_distance(statistics_of(features), shuffled) == pytest.approx(0, abs=1e-9)


def test_distance_does_not_change_with_rotation_or_exchange_but_with_scale() -> None:
    rng = np.random.default_rng(5)
    first, second = rng.normal(size=(50, 6)), rng.normal(1, 2, (40, 6))
    distance = frechet_distance(statistics_of(first), statistics_of(second))
    rotation = random_rotation(rng, 6)
    rotated = frechet_distance(statistics_of(first @ rotation), statistics_of(second @ rotation))
    assert distance > 1
    assert rotated == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(statistics_of(second), statistics_of(first)) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(statistics_of(3 * first), statistics_of(3 * second)) == pytest.approx(9 * distance)


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_statistics_in_batches_are_those_of_the_whole(batch: int) -> None:
    """Also where the mean is much larger than the deviation, in which a sum of squares would lose all digits."""
    features = np.random.default_rng(6).normal(1e8, 1, (100, 5))
    statistics = statistics_of(features, batch)
    assert statistics.n == 100
    assert statistics.mean == pytest.approx(features.mean(0), rel=1e-15)
    assert statistics.covariance == pytest.approx(np.cov(features, rowvar=False), rel=1e-6, abs=1e-6)


def test_invalid_statistics_are_refused() -> None:
    statistics = FeatureStatistics()
    statistics.add(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="two vectors or more, got 1"):
        _ = statistics.covariance
    with pytest.raises(ValueError, match="expected 3 features, got 4"):
        statistics.add(np.zeros((1, 4)))
    with pytest.raises(ValueError, match="finite"):
        statistics.add(np.full((1, 3), np.nan))
    with pytest.raises(ValueError, match="finite"):
        statistics.add(np.zeros(3))
    with pytest.raises(ValueError, match="as many features, got 3 and 2"):
        frechet_distance(statistics, statistics_of(np.zeros((2, 2))))
