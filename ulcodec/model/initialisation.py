"""Initial weights of the networks: a DCT whose coefficients have unit spread, and the gains of a good transform codec.

An untrained codec is a transform codec. Training improves it.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ulcodec.model.config import ModelConfig

HYPER_LOG_GAIN = (0.5, 2.5)
"""Initial log-gains of the hyper-latent at the lowest and the highest quality, large enough to survive rounding."""

DCT_SIZE = 16

OPPONENT = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (1.0, -2.0, 1.0))
"""Orthogonal luma, red-blue and green-magenta axes (rows, before normalisation)."""

DCT_DC_STD = (6.65, 2.44, 0.91)
DCT_AC_STD = ((2.02, -0.686), (0.605, -0.838), (0.273, -0.754))
"""Standard deviations of 16x16 DCT coefficients of photographs in [0, 1], for each colour plane: DC, and for AC
`(a, p)` of `a (u^2 + v^2)^p`. Fitted to 150 training photographs; the fit's residual is 0.2 in the logarithm."""


def anchor_log_gains(config: ModelConfig) -> Tensor:
    """Initial log-gains of the latent [anchors, C]: log of a coefficient's standard deviation in best bin widths."""
    _, std = dct_basis(config.latent_channels)
    last = config.n_quality_anchors - 1
    bin_widths = torch.tensor([best_bin_width(config.lagrangian(anchor / last)) for anchor in range(last + 1)])
    return std.log()[None] - bin_widths.log()[:, None]


def best_bin_width(lagrangian: float) -> float:
    """Bin width of an orthonormal coefficient that minimises `lagrangian 255^2 MSE + bits per pixel` at high rate.

    With distortion `width^2 / 12` a coefficient, three subpixels a pixel, and `-log2 width` bits, the optimum is
    `width^2 = 18 / (lagrangian 255^2 ln 2)`.
    """
    return math.sqrt(18 / (lagrangian * math.log(2))) / 255


def dct_basis(channels: int) -> tuple[Tensor, Tensor]:
    """Select the 16x16 DCT coefficients that are largest in photographs, over orthonormal opponent colours.

    Returns the orthonormal analysis matrix [channels, 3 * 256], columns in `pixel_unshuffle(16)` order, rows from the
    largest coefficient on, and the coefficients' standard deviations [channels] for pictures in [0, 1].
    """
    k = torch.arange(DCT_SIZE, dtype=torch.float64)
    squared_frequency = k[:, None] ** 2 + k[None] ** 2
    planes = []
    for dc, (scale, power) in zip(DCT_DC_STD, DCT_AC_STD, strict=True):
        std = scale * squared_frequency.clamp(min=1) ** power
        std[0, 0] = dc
        planes.append(std.flatten())
    std = torch.cat(planes)
    largest = std.argsort(descending=True, stable=True)[:channels]
    return opponent_dct(DCT_SIZE)[largest].float(), std[largest].float()


def opponent_dct(size: int) -> Tensor:
    """Orthonormal DCT of square blocks over orthonormal opponent colours, float64 [3 * size^2, 3 * size^2].

    Rows are ordered by colour, row frequency and column frequency; columns are in `pixel_unshuffle(size)` order.
    """
    k = torch.arange(size, dtype=torch.float64)
    dct = torch.cos(math.pi * (2 * k[None] + 1) * k[:, None] / (2 * size)) * math.sqrt(2 / size)
    dct[0] /= math.sqrt(2)
    opponent = F.normalize(torch.tensor(OPPONENT, dtype=torch.float64), dim=1)
    return torch.einsum("oc,ui,vj->ouvcij", opponent, dct, dct).reshape(3 * size**2, 3 * size**2)
