"""Convert between the codec's arrays, channels last, and torch's tensors, channels first."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ulcodec.codec.pixels import in_bins, padded, to_unit_range


def to_tensor(pixels: NDArray[np.integer], device: torch.device | str = "cpu") -> Tensor:
    """uint8 or uint16 [H, W, 3] or [H, W] -> float32 [1, 3, H, W] in [0, 1]."""
    return channels_first(to_unit_range(pixels)[None], device)


def to_padded_tensor(pixels: NDArray[np.integer], device: torch.device | str = "cpu") -> Tensor:
    """Convert like `to_tensor`, with both sides padded to multiples of `PATCH_PX`, see `padded`."""
    return channels_first(padded(to_unit_range(pixels))[None], device)


def latent_tensor(latent_16: NDArray[np.int32], grid: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
    """Integers [N, C] in sixteenths of a bin, of B latents -> float32 [B, C, h, w] in bins, channels last."""
    return channels_first(in_bins(latent_16, grid), device)


def channels_first(x: NDArray[np.float32], device: torch.device | str) -> Tensor:
    """[B, H, W, C] -> [B, C, H, W] on a device, in the memory format channels last."""
    return torch.from_numpy(x).permute(0, 3, 1, 2).to(device)


def channels_last(x: Tensor) -> NDArray[np.float32]:
    """Invert `channels_first`, for tensors of any float dtype without gradients."""
    array: NDArray[np.float32] = x.permute(0, 2, 3, 1).float().cpu().numpy()
    return array


def quality_tensor(quality: int, device: torch.device) -> Tensor:
    """Quality from 0 to 100 as input of the networks: float32 [1] in [0, 1]."""
    return torch.tensor([quality / 100], dtype=torch.float32, device=device)
