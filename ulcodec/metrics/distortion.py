"""Distortion, rate and Bjøntegaard figures, in numpy.

Pictures are uint8 [H, W, 3] or [H, W], compared at 8 bits with peak 255.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
MS_SSIM_WINDOW = 11
MS_SSIM_SIGMA = 1.5
MS_SSIM_MIN_SIDE = MS_SSIM_WINDOW * 2 ** (len(MS_SSIM_WEIGHTS) - 1)


def mse(a: Pixels, b: Pixels) -> float:
    """Mean squared error over all samples, in 0..255 squared. Raises ValueError unless both are uint8 of one shape."""
    _check_pair(a, b)
    return float(np.mean((a.astype(np.float64) - b) ** 2))


def psnr_db(a: Pixels, b: Pixels) -> float:
    """Peak signal-to-noise ratio over all samples jointly, peak 255; infinite for equal pictures. Raises as `mse`."""
    error = mse(a, b)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def bits_per_pixel(n_bytes: int, width: int, height: int) -> float:
    """Bits of a whole file for every pixel of the picture (all channels together)."""
    return 8 * n_bytes / (width * height)


def ms_ssim(a: Pixels, b: Pixels) -> float:
    """Multi-scale structural similarity (Wang, Simoncelli, Bovik 2003): five scales, the mean over the channels.

    Raises ValueError as `mse`, and for a side below `MS_SSIM_MIN_SIDE` pixels.
    """
    _check_pair(a, b)
    if min(a.shape[:2]) < MS_SSIM_MIN_SIDE:
        raise ValueError(f"MS-SSIM needs sides of at least {MS_SSIM_MIN_SIDE} px, got {a.shape[1]}x{a.shape[0]}")
    x, y = (np.moveaxis(np.atleast_3d(p).astype(np.float64), 2, 0) for p in (a, b))
    value = np.ones(len(x))
    for scale, weight in enumerate(MS_SSIM_WEIGHTS):
        similarity, contrast = _structure(x, y)
        last = scale == len(MS_SSIM_WEIGHTS) - 1
        value *= np.maximum(similarity if last else contrast, 0) ** weight
        x, y = _halve(x), _halve(y)
    return float(value.mean())


def bd_rate_percent(
    anchor_bpp: Sequence[float], anchor_psnr_db: Sequence[float], bpp: Sequence[float], psnr_db: Sequence[float]
) -> float:
    """Bjøntegaard rate difference to the anchor, in percent: negative where the curve needs fewer bits.

    The mean distance of the two curves of log rate over PSNR, each a monotone piecewise cubic (PCHIP), on the PSNR
    range they share. Points may come in any order. Raises ValueError for fewer than two points, rates that are not
    positive, a PSNR that occurs twice, or ranges that do not overlap.
    """
    anchor, curve = _rate_curve(anchor_bpp, anchor_psnr_db), _rate_curve(bpp, psnr_db)
    low, high = max(anchor[0][0], curve[0][0]), min(anchor[0][-1], curve[0][-1])
    if low >= high:
        raise ValueError("the PSNR ranges of the two curves do not overlap")
    difference = _integral(*curve, low, high) - _integral(*anchor, low, high)
    return float(100 * np.expm1(difference / (high - low)))


def pchip(x: Floats, y: Floats) -> Callable[[Floats], Floats]:
    """Monotone piecewise cubic through (x, y), x increasing, at least two points (Fritsch and Butland 1984)."""
    slopes = _pchip_slopes(x, y)

    def evaluate(at: Floats) -> Floats:
        i = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(x) - 2)
        width = x[i + 1] - x[i]
        t = (at - x[i]) / width
        rise = t * t * (3 - 2 * t)
        bend = t * (1 - t) * width * ((1 - t) * slopes[i] - t * slopes[i + 1])
        return np.asarray((1 - rise) * y[i] + rise * y[i + 1] + bend)

    return evaluate


def _pchip_slopes(x: Floats, y: Floats) -> Floats:
    h, delta = np.diff(x), np.diff(y) / np.diff(x)
    if len(x) == 2:
        return np.repeat(delta, 2)
    inner = np.zeros(len(h) - 1)
    monotone = delta[:-1] * delta[1:] > 0
    h0, h1, delta0, delta1 = (part[monotone] for part in (h[:-1], h[1:], delta[:-1], delta[1:]))
    inner[monotone] = 3 * (h0 + h1) / ((h0 + 2 * h1) / delta0 + (2 * h0 + h1) / delta1)
    return np.array([_end_slope(h, delta), *inner, _end_slope(h[::-1], delta[::-1])])


def _end_slope(h: Floats, delta: Floats) -> float:
    """Three-point slope at the first knot, limited so that the curve stays monotone."""
    slope = ((2 * h[0] + h[1]) * delta[0] - h[0] * delta[1]) / (h[0] + h[1])
    if np.sign(slope) != np.sign(delta[0]):
        return 0.0
    if np.sign(delta[0]) != np.sign(delta[1]) and abs(slope) > 3 * abs(delta[0]):
        return float(3 * delta[0])
    return float(slope)


def _rate_curve(bpp: Sequence[float], psnr_db: Sequence[float]) -> tuple[Floats, Floats]:
    """PSNR, increasing, and log rate there."""
    rate, quality = np.asarray(bpp, dtype=np.float64), np.asarray(psnr_db, dtype=np.float64)
    if rate.shape != quality.shape or rate.ndim != 1 or len(rate) < 2:
        raise ValueError("a rate-distortion curve needs two or more points, each with a rate and a PSNR")
    order = np.argsort(quality)
    rate, quality = rate[order], quality[order]
    if not (np.all(np.isfinite(quality)) and np.all(np.diff(quality) > 0)):
        raise ValueError("the PSNR values of a curve must be finite and differ from each other")
    if not np.all(rate > 0):
        raise ValueError("rates must be positive")
    return quality, np.log(rate)


def _integral(x: Floats, y: Floats, low: float, high: float) -> float:
    """Integral of the PCHIP curve over [low, high]: Simpson's rule between knots, which is exact for cubics."""
    curve = pchip(x, y)
    knots = np.concatenate(([low], x[(x > low) & (x < high)], [high]))
    left, right = knots[:-1], knots[1:]
    return float(np.sum((right - left) / 6 * (curve(left) + 4 * curve((left + right) / 2) + curve(right))))


def _structure(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """SSIM and its contrast-structure factor, [C] means over the windows that lie inside; x, y [C, H, W] in 0..255."""
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y = _blur(x), _blur(y)
    variances = _blur(x * x) + _blur(y * y) - mean_x**2 - mean_y**2
    contrast = (2 * (_blur(x * y) - mean_x * mean_y) + c2) / (variances + c2)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return (luminance * contrast).mean(axis=(1, 2)), contrast.mean(axis=(1, 2))


def _blur(x: Floats) -> Floats:
    """Gaussian window, inside only: [C, H, W] -> [C, H - 10, W - 10]."""
    taps = np.exp(-0.5 * ((np.arange(MS_SSIM_WINDOW) - MS_SSIM_WINDOW // 2) / MS_SSIM_SIGMA) ** 2)
    taps /= taps.sum()
    rows, columns = x.shape[1] - MS_SSIM_WINDOW + 1, x.shape[2] - MS_SSIM_WINDOW + 1
    down = sum(tap * x[:, i : i + rows] for i, tap in enumerate(taps))
    return np.asarray(sum(tap * down[:, :, i : i + columns] for i, tap in enumerate(taps)))


def _halve(x: Floats) -> Floats:
    """Mean of 2x2 blocks; an odd last row or column is left out."""
    x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


def _check_pair(a: Pixels, b: Pixels) -> None:
    if a.dtype != np.uint8 or b.dtype != np.uint8 or a.shape != b.shape:
        raise ValueError(f"expected two uint8 pictures of one shape, got {a.dtype} {a.shape} and {b.dtype} {b.shape}")
