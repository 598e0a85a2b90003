"""Convolutions for grids of two or three axes, between positions and patches."""

import torch
from torch import Tensor, nn

from ulcodec.model.config import Stride


class ClipConvolution(nn.Conv3d):
    """A convolution of three axes that computes grids of two frames in float32 on CPUs.

    There, oneDNN's bfloat16 gradient of a kernel of three frames is wrong, and often not finite (torch 2.13, AVX-512
    with bfloat16).
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.shape[2] != 2:
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float())


CONVOLUTIONS: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: ClipConvolution}
"""Classes of convolutions by the number of axes."""


def pointwise(in_channels: int, out_channels: int, n_axes: int) -> nn.Module:
    """A convolution of single positions: [B, in_channels, ...] -> [B, out_channels, ...]."""
    return CONVOLUTIONS[n_axes](in_channels, out_channels, 1)


def to_patches(in_channels: int, out_channels: int, stride: Stride) -> nn.Module:
    """A convolution of patches without overlap: divides the extents by `stride`."""
    return CONVOLUTIONS[len(stride)](in_channels, out_channels, stride, stride=stride)  # type: ignore[arg-type]


def from_patches(x: Tensor, stride: Stride) -> Tensor:
    """Rearrange channels to patches: [B, C prod(stride), *grid] -> [B, C, *(grid * stride)].

    With two equal strides it is `torch.nn.functional.pixel_shuffle`.
    """
    n_axes, grid = len(stride), x.shape[2:]
    split = x.reshape(len(x), -1, *stride, *grid)
    pairs = [axis for place in range(2, 2 + n_axes) for axis in (place + n_axes, place)]
    extents = [side * step for side, step in zip(grid, stride, strict=True)]
    return split.permute(0, 1, *pairs).reshape(len(x), -1, *extents)
