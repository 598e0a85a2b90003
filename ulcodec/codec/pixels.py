"""Convert between pictures and tensors, and between pixels and latent positions."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ulcodec.coding.integer_prior import MEAN_GRID
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


def unflattened(latent_16: Tensor, grid: tuple[int, int]) -> Tensor:
    """Integers [N, C] in sixteenths of a bin, of B pictures -> float32 [B, C, h, w] in bins, channels last."""
    return latent_16.float().div_(MEAN_GRID).reshape(-1, *grid, latent_16.shape[1]).permute(0, 3, 1, 2)


def quality_tensor(quality: int, device: torch.device) -> Tensor:
    """Quality from 0 to 100 as input of the networks: float32 [1] in [0, 1]."""
    return torch.tensor([quality / 100], dtype=torch.float32, device=device)


def to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 or uint16 [H, W, 3] or [H, W] -> float32 [1, 3, H, W] in [0, 1]."""
    x = torch.from_numpy(pixels.astype(np.float32) / np.iinfo(pixels.dtype).max)
    x = x[:, :, None].expand(-1, -1, 3) if x.ndim == 2 else x
    return x.permute(2, 0, 1)[None]


def to_pixels(picture: Tensor, layout: Layout, bit_depth: int = 8) -> np.ndarray:
    """float32 [3, H, W] in [0, 1] -> uint8 or uint16 [H, W, 3], or the mean of the channels [H, W] for grey."""
    if layout is Layout.GREY:
        picture = picture.mean(0, keepdim=True)
    highest = 2**bit_depth - 1
    scaled = (picture.float().clamp(0, 1) * highest).round().permute(1, 2, 0).cpu().numpy()
    pixels: np.ndarray = scaled.astype(np.uint8 if bit_depth == 8 else np.uint16)
    return pixels[:, :, 0] if layout is Layout.GREY else pixels


def padded(x: Tensor) -> Tensor:
    """Repeat the last row and column until both sides are multiples of `PATCH_PX`."""
    bottom, right = -x.shape[2] % PATCH_PX, -x.shape[3] % PATCH_PX
    x = F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x
    return x.contiguous(memory_format=torch.channels_last)
