"""Building blocks: bottleneck residual block, quality tables, and the linear transform that the networks start from."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ulcodec.model.tiles import Tile

DCT_SIZE = 16

NARROWING_INTERVAL = 4
"""Blocks between two cuts of what surrounds a tile. Tensors of one size find the memory of those before them; of ever
smaller sizes they leave gaps."""

OPPONENT = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (1.0, -2.0, 1.0))
"""Orthogonal luma, red-blue and green-magenta axes (rows, before normalisation)."""

DCT_DC_STD = (6.65, 2.44, 0.91)
DCT_AC_STD = ((2.02, -0.686), (0.605, -0.838), (0.273, -0.754))
"""Spread of 16x16 DCT coefficients of photographs in [0, 1], a plane each: DC, and `a (u^2 + v^2)^p` for AC.
Fitted to 150 training photographs; residual of the fit 0.2 in the logarithm."""


def conv(in_channels: int, out_channels: int, kernel_size: int = 1, *, zero: bool = False) -> nn.Conv2d:
    """Convolution of unchanged size; `zero` starts a residual branch at nothing."""
    layer = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
    nn.init.normal_(layer.weight, std=0.0 if zero else (in_channels * kernel_size**2) ** -0.5)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class BottleneckBlock(nn.Module):
    """Residual block 1x1, 3x3, 1x1 at half width inside: 3.25 C^2 multiplications a position.

    Hidden units are ReLU, or let `negative_slope` of what is below zero through, so that none can die in training.
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
        change: Tensor = self.expand(hidden)
        return x + change if change.requires_grad or change.dtype != x.dtype else change.add_(x)

    def activation(self, x: Tensor) -> Tensor:
        """In place where no gradient is wanted: fresh memory costs as much as the arithmetic on it."""
        in_place = not x.requires_grad
        return F.leaky_relu(x, self.negative_slope, in_place) if self.negative_slope else F.relu(x, in_place)


class Blocks(nn.Sequential):
    """Bottleneck blocks, one after the other."""

    def narrowing(self, x: Tensor, tile: Tile, halo: int) -> Tensor:
        """The blocks over the outer part of a tile [B, C, h, w], of which `halo` positions around are kept.

        After every fourth block, what no later one needs is cut off.
        """
        for number, block in enumerate(self, start=1):
            x = block(x)
            if number % NARROWING_INTERVAL == 0 or number == len(self):
                following = tile.limited(halo + len(self) - number)
                x, tile = cropped(x, tile, following), following
        return x


def cropped(x: Tensor, tile: Tile, smaller: Tile) -> Tensor:
    """The outer part of a smaller tile from that of a tile, [B, C, h, w]."""
    rows, columns = smaller.of(tile)
    return x[:, :, rows, columns]


def blocks(width: int, count: int, negative_slope: float = 0.0) -> Blocks:
    return Blocks(*(BottleneckBlock(width, negative_slope) for _ in range(count)))


class QualityTable(nn.Module):
    """A learned vector a quality anchor, linear in between. Used as a log-gain, a bias or a log-scale."""

    def __init__(self, n_anchors: int, channels: int):
        super().__init__()
        self.values = nn.Parameter(torch.zeros(n_anchors, channels))

    def forward(self, quality: Tensor) -> Tensor:
        """quality [B] in [0, 1] -> [B, C, 1, 1] float32."""
        anchors = torch.arange(len(self.values), device=quality.device)
        position = quality.float().clamp(0, 1) * (len(self.values) - 1)
        shares = (1 - (position[:, None] - anchors).abs()).clamp(min=0)
        return (shares[:, :, None] * self.values).sum(1)[:, :, None, None]

    def gain(self, quality: Tensor) -> Tensor:
        """The table read as log-gains: [B, C, 1, 1] positive."""
        return self.forward(quality).exp()


def dct_basis(channels: int) -> tuple[Tensor, Tensor]:
    """The strongest 16x16 DCT coefficients of photographs, over orthonormal opponent colours.

    Returns the orthonormal analysis matrix [channels, 3 * 256] in `pixel_unshuffle(16)` order, strongest first, and
    each coefficient's spread [channels] for pictures in [0, 1].
    """
    k = torch.arange(DCT_SIZE, dtype=torch.float64)
    radius = k[:, None] ** 2 + k[None] ** 2
    planes = []
    for dc, (scale, power) in zip(DCT_DC_STD, DCT_AC_STD, strict=True):
        std = scale * radius.clamp(min=1) ** power
        std[0, 0] = dc
        planes.append(std.flatten())
    std = torch.cat(planes)
    strongest = std.argsort(descending=True, stable=True)[:channels]
    return opponent_dct(DCT_SIZE)[strongest].float(), std[strongest].float()


def opponent_dct(size: int) -> Tensor:
    """The orthonormal DCT of square blocks over orthonormal opponent colours, float64 [3 * size^2, 3 * size^2].

    Rows are ordered by colour, row and column frequency; columns as `pixel_unshuffle(size)` orders a block's pixels.
    """
    k = torch.arange(size, dtype=torch.float64)
    dct = torch.cos(math.pi * (2 * k[None] + 1) * k[:, None] / (2 * size)) * math.sqrt(2 / size)
    dct[0] /= math.sqrt(2)
    opponent = F.normalize(torch.tensor(OPPONENT, dtype=torch.float64), dim=1)
    return torch.einsum("oc,ui,vj->ouvcij", opponent, dct, dct).reshape(3 * size**2, 3 * size**2)


def best_bin_width(lagrangian: float) -> float:
    """Step of an orthonormal coefficient that minimises `lagrangian 255^2 MSE + bits per pixel` at high rate.

    With distortion `step^2 / 12` a coefficient, three subpixels a pixel, and `-log2 step` bits, the optimum is
    `step^2 = 18 / (lagrangian 255^2 ln 2)`.
    """
    return math.sqrt(18 / (lagrangian * math.log(2))) / 255
