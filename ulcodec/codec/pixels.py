"""Between pictures and tensors, pixels and latent positions."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ulcodec.coding.integer_prior import MEAN_GRID
from ulcodec.format.container import Layout
from ulcodec.model.config import PATCH_PX


def without_hidden(pixels: NDArray[np.integer], alpha: NDArray[np.uint8]) -> NDArray[np.integer]:
    """The picture [H, W, 3] or [H, W], its samples under a zero alpha replaced by a smooth continuation of the others.

    Pull and push (Gortler et al. 1996): the mean of what is known of 2x2 samples, coarser and coarser, and back.
    """
    visible = alpha > 0
    if visible.all() or not visible.any():
        return pixels if visible.any() else np.zeros_like(pixels)
    levels = [(pixels.reshape(*alpha.shape, -1).astype(np.float32) * visible[:, :, None], visible.astype(np.float32))]
    while levels[-1][1].min() == 0:
        levels.append((halved(levels[-1][0]), halved(levels[-1][1][:, :, None])[:, :, 0]))
    filled = levels[-1][0] / levels[-1][1][:, :, None]
    for total, weight in levels[-2::-1]:
        coarse = filled.repeat(2, axis=0).repeat(2, axis=1)[: weight.shape[0], : weight.shape[1]]
        filled = np.where(weight[:, :, None] > 0, total / np.maximum(weight, 1e-12)[:, :, None], coarse)
    found: NDArray[np.integer] = filled.round().astype(pixels.dtype).reshape(pixels.shape)
    found[visible] = pixels[visible]
    return found


def halved(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sums of 2x2 samples, [H, W, C]; an odd side is continued by zeros."""
    padded = np.pad(samples, ((0, samples.shape[0] % 2), (0, samples.shape[1] % 2), (0, 0)))
    return np.asarray(padded[::2, ::2] + padded[1::2, ::2] + padded[::2, 1::2] + padded[1::2, 1::2])


def grid_of(height: int, width: int) -> tuple[int, int]:
    return -(-height // PATCH_PX), -(-width // PATCH_PX)


def in_pixels(positions: slice) -> slice:
    return slice(positions.start * PATCH_PX, positions.stop * PATCH_PX)


def in_latents(pixels: range) -> range:
    return range(pixels.start // PATCH_PX, -(-pixels.stop // PATCH_PX))


def unflattened(latent_16: Tensor, grid: tuple[int, int]) -> Tensor:
    """Integers in 1/16 steps [N, C] of B pictures -> float32 [B, C, h, w] in steps, channels last."""
    return latent_16.float().div_(MEAN_GRID).reshape(-1, *grid, latent_16.shape[1]).permute(0, 3, 1, 2)


def quality_tensor(quality: int, device: torch.device) -> Tensor:
    """Quality 0 to 100 as the networks take it: float32 [1] in [0, 1]."""
    return torch.tensor([quality / 100], dtype=torch.float32, device=device)


def to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 or uint16 [H, W, 3] or [H, W] -> float32 [1, 3, H, W] in [0, 1]."""
    x = torch.from_numpy(pixels.astype(np.float32) / np.iinfo(pixels.dtype).max)
    x = x[:, :, None].expand(-1, -1, 3) if x.ndim == 2 else x
    return x.permute(2, 0, 1)[None]


def to_pixels(picture: Tensor, layout: Layout, bit_depth: int = 8) -> np.ndarray:
    """float32 [3, H, W] -> uint8 or uint16 [H, W, 3], or their mean [H, W] for a grey picture."""
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
