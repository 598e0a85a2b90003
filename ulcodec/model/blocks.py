"""Building blocks of the codec's networks: convolutions, bottleneck residual blocks and quality tables."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ulcodec.model.tiles import Tile

CROP_INTERVAL = 4
"""Blocks between two crops of the halo. Tensors of equal size reuse freed memory; with a crop after every block, ever
smaller tensors would fragment it."""


def conv(in_channels: int, out_channels: int, kernel_size: int = 1, *, zero: bool = False) -> nn.Conv2d:
    """Make a convolution that keeps height and width. `zero`: weights start at zero, for a residual branch."""
    layer = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
    nn.init.normal_(layer.weight, std=0.0 if zero else (in_channels * kernel_size**2) ** -0.5)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class BottleneckBlock(nn.Module):
    """Residual block of convolutions 1x1, 3x3, 1x1 at half the width: 3.25 C^2 multiplications a position.

    Hidden units are ReLU, or leaky ReLU with `negative_slope`, which keeps units from dying in training.
    """

    def __init__(self, width: int, negative_slope: float = 0.0):
        super().__init__()
        self.negative_slope = negative_slope
        hidden = width // 2
        self.reduce = conv(width, hidden)
        self.spatial = conv(hidden, hidden, 3)
        self.expand = conv(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> the same shape."""
        hidden = self.activation(self.spatial(self.activation(self.reduce(x))))
        residual: Tensor = self.expand(hidden)
        return x + residual if residual.requires_grad or residual.dtype != x.dtype else residual.add_(x)

    def activation(self, x: Tensor) -> Tensor:
        """Apply the (leaky) ReLU, in place without gradients: new memory costs as much time as the arithmetic."""
        in_place = not x.requires_grad
        return F.leaky_relu(x, self.negative_slope, in_place) if self.negative_slope else F.relu(x, in_place)


class Blocks(nn.Sequential):
    """A sequence of bottleneck blocks."""

    def forward_tile(self, x: Tensor, tile: Tile, kept_halo: int) -> Tensor:
        """Apply the blocks to a tile with its halo, [B, C, h, w], and return it with `kept_halo` positions around.

        After every fourth block, crop the part of the halo that no later block needs.
        """
        for number, block in enumerate(self, start=1):
            x = block(x)
            if number % CROP_INTERVAL == 0 or number == len(self):
                smaller = tile.crop_halo(kept_halo + len(self) - number)
                x, tile = crop_tile(x, tile, smaller), smaller
        return x


def crop_tile(x: Tensor, tile: Tile, smaller: Tile) -> Tensor:
    """Crop a tile with its halo, [B, C, h, w], to a smaller tile with its halo."""
    rows, columns = smaller.outer_within(tile)
    return x[:, :, rows, columns]


def blocks(width: int, count: int, negative_slope: float = 0.0) -> Blocks:
    """Make a sequence of `count` blocks."""
    return Blocks(*(BottleneckBlock(width, negative_slope) for _ in range(count)))


class QualityTable(nn.Module):
    """A learned vector for each quality anchor, interpolated linearly. Used as log-gain, bias or log-scale."""

    def __init__(self, n_anchors: int, channels: int):
        super().__init__()
        self.values = nn.Parameter(torch.zeros(n_anchors, channels))

    def forward(self, quality: Tensor) -> Tensor:
        """quality [B] in [0, 1] -> [B, C, 1, 1] float32."""
        anchors = torch.arange(len(self.values), device=quality.device)
        position = quality.float().clamp(0, 1) * (len(self.values) - 1)
        weights = (1 - (position[:, None] - anchors).abs()).clamp(min=0)
        return (weights[:, :, None] * self.values).sum(1)[:, :, None, None]

    def gain(self, quality: Tensor) -> Tensor:
        """Exponential of the table, for tables of log-gains: [B, C, 1, 1]."""
        return self.forward(quality).exp()
