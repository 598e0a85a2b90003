"""Fréchet distance between two sets of feature vectors, in numpy.

With the features of `ulcodec.metrics.feature_networks` it is FID for pictures and FVD for clips.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


class FeatureStatistics:
    """Number, mean and covariance of feature vectors that come in batches. Memory does not grow with their number."""

    def __init__(self) -> None:
        self.n = 0
        self.mean: Floats = np.zeros(0)
        self._scatter: Floats = np.zeros((0, 0))

    def add(self, features: ArrayLike) -> None:
        """Add feature vectors [N, D]. Raises ValueError for another number of features, or values that are not finite.

        The update of sums by a batch is that of Chan, Golub and LeVeque 1983. It does not cancel where the mean is
        large.
        """
        batch = np.asarray(features, np.float64)
        if batch.ndim != 2 or not np.isfinite(batch).all():
            raise ValueError(f"expected finite feature vectors [N, D], got {batch.shape} with other values or axes")
        if not len(batch):
            return
        if not self.n:
            n_features = batch.shape[1]
            self.mean, self._scatter = np.zeros(n_features), np.zeros((n_features, n_features))
        if batch.shape[1] != len(self.mean):
            raise ValueError(f"expected {len(self.mean)} features, got {batch.shape[1]}")
        batch_mean = batch.mean(0)
        centred, shift = batch - batch_mean, batch_mean - self.mean
        total = self.n + len(batch)
        self._scatter += centred.T @ centred + (self.n * len(batch) / total) * np.outer(shift, shift)
        self.mean = self.mean + len(batch) / total * shift
        self.n = total

    @property
    def n_features(self) -> int:
        return len(self.mean)

    @property
    def covariance(self) -> Floats:
        """Unbiased covariance [D, D], divided by n - 1. Raises ValueError for fewer than two vectors."""
        if self.n < 2:
            raise ValueError(f"a covariance needs two vectors or more, got {self.n}")
        return self._scatter / (self.n - 1)


def frechet_distance(first: FeatureStatistics, second: FeatureStatistics) -> float:
    """Squared Fréchet distance of the Gaussians with mean and covariance of two sets: FID, or FVD.

    Raises ValueError for sets with other numbers of features, or with fewer than two vectors.
    """
    if first.n_features != second.n_features:
        raise ValueError(f"expected as many features, got {first.n_features} and {second.n_features}")
    return gaussian_distance(first.mean, first.covariance, second.mean, second.covariance)


def gaussian_distance(m: Floats, C: Floats, m_w: Floats, C_w: Floats) -> float:
    """Squared Fréchet distance of two Gaussians, means [D] and covariances [D, D].

    |m - m_w|^2 + tr(C + C_w - 2 (C C_w)^(1/2)): Dowson and Landau 1982; Heusel et al. 2017, arXiv 1706.08500. The trace
    of the root is the sum of the singular values of C^(1/2) C_w^(1/2), which is real for singular covariances too.
    """
    trace_of_root = np.linalg.norm(square_root(C) @ square_root(C_w), "nuc")
    distance = np.sum((m - m_w) ** 2) + np.trace(C) + np.trace(C_w) - 2 * trace_of_root
    return max(0.0, float(distance))  # rounding can make the distance of equal sets negative


def square_root(covariance: Floats) -> Floats:
    """Symmetric square root of a covariance [D, D]."""
    eigenvalues, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.sqrt(eigenvalues.clip(min=0))) @ vectors.T)
