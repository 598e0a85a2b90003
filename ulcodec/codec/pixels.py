"""Convert between samples and the networks' arrays, and between pixels and latent positions."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ulcodec.coding.fixed_point import MEAN_GRID
from ulcodec.format.container import Layout
from ulcodec.model.config import PATCH_PX


def without_hidden(pixels: NDArray[np.integer], alpha: NDArray[np.uint8]) -> NDArray[np.integer]:
    """Replace the samples of a picture [H, W, 3] or [H, W] under a zero alpha by a smooth continuation of the others.

    Pull-push interpolation (Gortler et al. 1996): average the visible ones of 2x2 samples, level by level, and back.
    """
    visible = alpha > 0
    if visible.all() or not visible.any():
        return pixels if visible.any() else np.zeros_like(pixels)
    levels = [(pixels.reshape(*alpha.shape, -1).astype(np.float32) * visible[:, :, None], visible.astype(np.float32))]
    while levels[-1][1].min() == 0:
        levels.append((_sum_2x2(levels[-1][0]), _sum_2x2(levels[-1][1][:, :, None])[:, :, 0]))
    filled = levels[-1][0] / levels[-1][1][:, :, None]
    for total, weight in levels[-2::-1]:
        coarse = filled.repeat(2, axis=0).repeat(2, axis=1)[: weight.shape[0], : weight.shape[1]]
        filled = np.where(weight[:, :, None] > 0, total / np.maximum(weight, 1e-12)[:, :, None], coarse)
    smooth: NDArray[np.integer] = filled.round().astype(pixels.dtype).reshape(pixels.shape)
    smooth[visible] = pixels[visible]
    return smooth


def _sum_2x2(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sum 2x2 samples of [H, W, C]; zeros continue an odd side."""
    padded = np.pad(samples, ((0, samples.shape[0] % 2), (0, samples.shape[1] % 2), (0, 0)))
    return np.asarray(padded[::2, ::2] + padded[1::2, ::2] + padded[::2, 1::2] + padded[1::2, 1::2])


def grid_of(height: int, width: int) -> tuple[int, int]:
    """Height and width of the latent of a picture."""
    return -(-height // PATCH_PX), -(-width // PATCH_PX)


def in_pixels(positions: slice) -> slice:
    """Pixels of a span of latent positions."""
    return slice(positions.start * PATCH_PX, positions.stop * PATCH_PX)


def in_latents(pixels: range) -> range:
    """Latent positions that cover a range of pixels."""
    return range(pixels.start // PATCH_PX, -(-pixels.stop // PATCH_PX))


def in_bins(latent_16: NDArray[np.int32], grid: tuple[int, int]) -> NDArray[np.float32]:
    """Integers [N, C] in sixteenths of a bin, of B latents -> float32 [B, h, w, C] in bins."""
    bins: NDArray[np.float32] = latent_16.astype(np.float32) / np.float32(MEAN_GRID)
    return bins.reshape(-1, *grid, latent_16.shape[1])


def to_unit_range(pixels: NDArray[np.integer]) -> NDArray[np.float32]:
    """uint8 or uint16 [H, W, 3] or [H, W] -> float32 [H, W, 3] in [0, 1]."""
    x = pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    return np.repeat(x[:, :, None], 3, axis=2) if x.ndim == 2 else x


def to_samples(picture: NDArray[np.float32], layout: Layout, bit_depth: int = 8) -> NDArray[Any]:
    """float32 [H, W, 3] in [0, 1] -> uint8 or uint16 [H, W, 3], or the mean of the channels [H, W] for grey."""
    if layout is Layout.GREY:
        picture = picture.mean(2)
    scaled = np.clip(picture, 0, 1)
    scaled *= np.float32(2**bit_depth - 1)
    return np.rint(scaled, out=scaled).astype(np.uint8 if bit_depth == 8 else np.uint16)


def padded(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Repeat the last row and column of [H, W, C] until both sides are multiples of `PATCH_PX`."""
    bottom, right = -x.shape[0] % PATCH_PX, -x.shape[1] % PATCH_PX
    return np.pad(x, ((0, bottom), (0, right), (0, 0)), mode="edge") if bottom or right else x
