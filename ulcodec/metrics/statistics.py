"""Distances between the statistics of decoded and original pictures, in numpy.

They compare sets of pictures, not pixels. A blurred picture is close to its original in pixels and far in statistics; a
picture with other grain of the same kind is the opposite. Pictures are uint8 [H, W, 3] of any sizes.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

DESCRIPTOR_PX = 7
N_LEVELS = 3
N_DIRECTIONS = 512
BINOMIAL = np.array([1, 4, 6, 4, 1], np.float32) / 16


def sliced_wasserstein(
    originals: Sequence[Pixels],
    others: Sequence[Pixels],
    *,
    n_levels: int = N_LEVELS,
    patches_per_picture: int = 512,
    seed: int = 0,
) -> list[float]:
    """Sliced Wasserstein distance of 7x7 patches on each level of a Laplacian pyramid, finest first.

    The mean distance of sorted projections on 512 random directions, times 1000 (Karras et al. 2018, arXiv 1710.10196,
    section 5), with two differences. Both sets are normalised by the originals' mean and deviation per colour, so that
    lost contrast counts. Patches come from the same places in both sets. The last level is the low-pass remainder.
    Raises ValueError for sets of different sizes, or pictures too small for the levels.
    """
    _check(originals, others)
    if min(min(pixels.shape[:2]) for pixels in originals) < DESCRIPTOR_PX * 2 ** (n_levels - 1):
        raise ValueError(f"{n_levels} levels need sides of at least {DESCRIPTOR_PX * 2 ** (n_levels - 1)} px")
    distances = []
    for level in range(n_levels):
        rng = np.random.default_rng((seed, level))
        pairs = []
        for original, other in zip(originals, others, strict=True):
            a, b = (_pyramid_level(pixels, level, n_levels) for pixels in (original, other))
            rows, columns = (rng.integers(0, side - DESCRIPTOR_PX + 1, patches_per_picture) for side in a.shape[:2])
            pairs.append([_patches(x, rows, columns) for x in (a, b)])
        first, second = (np.concatenate(side) for side in zip(*pairs, strict=True))
        mean, std = first.mean((0, 1)), first.std((0, 1))
        directions = rng.standard_normal((DESCRIPTOR_PX**2 * 3, N_DIRECTIONS), np.float32)
        directions /= np.linalg.norm(directions, axis=0)
        distances.append(1000 * _sliced_distance((first - mean) / std, (second - mean) / std, directions))
    return distances


def spectral_power_ratio(originals: Sequence[Pixels], others: Sequence[Pixels], *, n_octaves: int = 4) -> list[float]:
    """Ratio of the others' power to the originals' in each octave of spatial frequency, finest first.

    The first octave is above 1/4 cycle per pixel, the next from 1/8 to 1/4, and so on. 1 is ideal; blur is below, noise
    above. The spectrum is taken of the mean of the colours, under a Hann window in both directions. Raises ValueError
    for sets of different sizes.
    """
    _check(originals, others)
    totals = np.zeros((2, n_octaves))
    for pair in zip(originals, others, strict=True):
        for total, pixels in zip(totals, pair, strict=True):
            total += _octave_powers(pixels.mean(2), n_octaves)
    return [float(value) for value in totals[1] / totals[0]]


def _octave_powers(grey: NDArray[np.float64], n_octaves: int) -> NDArray[np.float64]:
    window = np.hanning(grey.shape[0])[:, None] * np.hanning(grey.shape[1])
    power = np.abs(np.fft.fft2((grey - grey.mean()) * window)) ** 2 / (window**2).sum()
    frequency = np.hypot(*np.meshgrid(*(np.fft.fftfreq(side) for side in grey.shape), indexing="ij"))
    octave = np.floor(-np.log2(np.maximum(frequency, 2.0**-30))).astype(int) - 1
    return np.bincount(octave.clip(0, n_octaves).ravel(), power.ravel(), n_octaves + 1)[:n_octaves].astype(np.float64)


def _check(originals: Sequence[Pixels], others: Sequence[Pixels]) -> None:
    if not originals or [p.shape for p in originals] != [p.shape for p in others]:
        raise ValueError("expected two sets of as many pictures, of the same sizes")
    if any(p.dtype != np.uint8 or p.ndim != 3 for p in (*originals, *others)):
        raise ValueError("expected uint8 [H, W, 3]")


def _pyramid_level(pixels: Pixels, level: int, n_levels: int) -> Floats:
    """Level of the Laplacian pyramid: the loss of halving, or the remainder on the last level."""
    x = pixels.astype(np.float32)
    for _ in range(level):
        x = _down(x)
    return x if level == n_levels - 1 else x - _up(_down(x), x.shape)


def _down(x: Floats) -> Floats:
    return _smooth(x)[::2, ::2]


def _up(x: Floats, shape: tuple[int, ...]) -> Floats:
    sparse = np.zeros(shape, np.float32)
    sparse[::2, ::2] = 4 * x
    return _smooth(sparse)


def _smooth(x: Floats) -> Floats:
    """Filter with 5 binomial taps along rows and columns, mirrored at the borders."""
    for axis in (0, 1):
        widths = [(2, 2) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(x, widths, mode="reflect")
        shifted = [np.take(padded, range(i, i + x.shape[axis]), axis) for i in range(len(BINOMIAL))]
        x = np.tensordot(BINOMIAL, np.stack(shifted), 1).astype(np.float32)
    return x


def _patches(x: Floats, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Floats:
    """Patches [N, 49, 3] at the given upper left corners."""
    offset = np.arange(DESCRIPTOR_PX)
    patches: Floats = x[rows[:, None, None] + offset[:, None], columns[:, None, None] + offset]
    return patches.reshape(len(rows), DESCRIPTOR_PX**2, 3)


def _sliced_distance(first: Floats, second: Floats, directions: Floats) -> float:
    def projections() -> Iterator[Floats]:
        for patches in (first, second):
            yield np.sort(patches.reshape(len(patches), -1) @ directions, axis=0)

    a, b = projections()
    return float(np.abs(a - b).mean())
