"""Distortion, rate and Bjøntegaard figures.

Pictures are uint8 [H, W, 3] or [H, W], compared at 8 bits with peak 255.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ulcodec.errors import MissingPackageError

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
    """Peak signal-to-noise ratio over all samples, peak 255; infinite for equal pictures. Raises as `mse`."""
    error = mse(a, b)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def bits_per_pixel(n_bytes: int, width: int, height: int) -> float:
    """Bits of a whole file per pixel, all channels together."""
    return 8 * n_bytes / (width * height)


def ms_ssim(a: Pixels, b: Pixels) -> float:
    """Multi-scale structural similarity (Wang, Simoncelli, Bovik 2003): five scales, mean over the channels.

    Raises ValueError as `mse`, and for a side below `MS_SSIM_MIN_SIDE` pixels.
    """
    _check_pair(a, b)
    if min(a.shape[:2]) < MS_SSIM_MIN_SIDE:
        raise ValueError(f"MS-SSIM needs sides of at least {MS_SSIM_MIN_SIDE} px, got {a.shape[1]}x{a.shape[0]}")
    x, y = (np.moveaxis(np.atleast_3d(p).astype(np.float64), 2, 0) for p in (a, b))
    value = np.ones(len(x))
    for scale, weight in enumerate(MS_SSIM_WEIGHTS):
        similarity, contrast = _structure(x, y)
        is_last = scale == len(MS_SSIM_WEIGHTS) - 1
        value *= np.maximum(similarity if is_last else contrast, 0) ** weight
        x, y = _halve(x), _halve(y)
    return float(value.mean())


def bd_rate_percent(
    anchor_bpp: Sequence[float], anchor_psnr_db: Sequence[float], bpp: Sequence[float], psnr_db: Sequence[float]
) -> float:
    """Bjøntegaard rate difference to an anchor in percent: negative if the curve needs fewer bits.

    It is the mean distance between two curves of log rate over PSNR, each a monotone piecewise cubic (PCHIP), over the
    common range of PSNR. Points may be in any order. Raises ValueError for fewer than two points, rates that are not
    positive and finite, a repeated PSNR, or ranges that do not overlap; MissingPackageError without SciPy.
    """
    anchor, curve = _rate_curve(anchor_bpp, anchor_psnr_db), _rate_curve(bpp, psnr_db)
    low, high = max(anchor[0][0], curve[0][0]), min(anchor[0][-1], curve[0][-1])
    if low >= high:
        raise ValueError("the PSNR ranges of the two curves do not overlap")
    difference = pchip(*curve).integrate(low, high) - pchip(*anchor).integrate(low, high)
    return float(100 * np.expm1(difference / (high - low)))


class Interpolator(Protocol):
    """A piecewise cubic."""

    def __call__(self, x: Any) -> Floats: ...

    def integrate(self, low: float, high: float) -> float: ...


def pchip(x: Floats, y: Floats) -> Interpolator:
    """Monotone piecewise cubic through (x, y), x increasing, at least two points: SciPy's `PchipInterpolator`.

    Raises MissingPackageError if SciPy is not installed.
    """
    curve: Interpolator = interpolator_class()(x, y)
    return curve


def interpolator_class() -> Any:
    """SciPy's class. Raises MissingPackageError if SciPy is not installed."""
    try:
        from scipy.interpolate import PchipInterpolator
    except ImportError as error:
        raise MissingPackageError('Bjøntegaard figures need SciPy: pip install scipy, or "ulcodec[bench]"') from error
    return PchipInterpolator


def _rate_curve(bpp: Sequence[float], psnr_db: Sequence[float]) -> tuple[Floats, Floats]:
    """Sort a curve: PSNR, increasing, and log rate."""
    rate, quality = np.asarray(bpp, dtype=np.float64), np.asarray(psnr_db, dtype=np.float64)
    if rate.shape != quality.shape or rate.ndim != 1 or len(rate) < 2:
        raise ValueError("a rate-distortion curve needs two or more points, each with a rate and a PSNR")
    order = np.argsort(quality)
    rate, quality = rate[order], quality[order]
    if not (np.all(np.isfinite(quality)) and np.all(np.diff(quality) > 0)):
        raise ValueError("the PSNR values of a curve must be finite and differ from each other")
    if not np.all((rate > 0) & np.isfinite(rate)):
        raise ValueError("rates must be positive and finite")
    return quality, np.log(rate)


def _structure(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """SSIM and its contrast-structure factor, means [C] over the windows inside; x, y [C, H, W] in 0..255."""
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y = _blur(x), _blur(y)
    variances = _blur(x * x) + _blur(y * y) - mean_x**2 - mean_y**2
    contrast = (2 * (_blur(x * y) - mean_x * mean_y) + c2) / (variances + c2)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return (luminance * contrast).mean(axis=(1, 2)), contrast.mean(axis=(1, 2))


def _blur(x: Floats) -> Floats:
    """Filter with a Gaussian window, without padding: [C, H, W] -> [C, H - 10, W - 10]."""
    taps = np.exp(-0.5 * ((np.arange(MS_SSIM_WINDOW) - MS_SSIM_WINDOW // 2) / MS_SSIM_SIGMA) ** 2)
    taps /= taps.sum()
    rows, columns = x.shape[1] - MS_SSIM_WINDOW + 1, x.shape[2] - MS_SSIM_WINDOW + 1
    down = sum(tap * x[:, i : i + rows] for i, tap in enumerate(taps))
    return np.asarray(sum(tap * down[:, :, i : i + columns] for i, tap in enumerate(taps)))


def _halve(x: Floats) -> Floats:
    """Average blocks of 2x2; an odd last row or column is dropped."""
    x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


def _check_pair(a: Pixels, b: Pixels) -> None:
    if a.dtype != np.uint8 or b.dtype != np.uint8 or a.shape != b.shape:
        raise ValueError(f"expected two uint8 pictures of one shape, got {a.dtype} {a.shape} and {b.dtype} {b.shape}")
