"""Linear paths beside the networks of the paper's encoder and decoder, which start as a cosine transform.

The paper has no such paths. With them, the latent holds the coarse picture from the first step, and the decoder reads
it. Short runs need that. Without, the prior empties the latent before the decoder has learnt to use it.

X is a picture or clip, x its latent grid, as in `ulcodec.model.paper`.
"""

import math
from itertools import product

import torch
from torch import Tensor, nn

from ulcodec.diffusion.gaussian import corrected_gaussian
from ulcodec.diffusion.per_picture import per_picture
from ulcodec.model.config import PaperConfig
from ulcodec.model.patches import from_patches, pointwise, to_patches

RESIDUAL_STD = 0.25
"""Deviation of samples in [-1, 1] from the linear estimate that the decoder starts from."""

GAIN = 1 / 8
"""Latent of a coefficient of the orthonormal transform: a mean over 4x8x8 samples of 0.5 gives 1."""

CHROMA_COST, TIME_COST = 3.0, 1.5
"""Costs of chroma, and of a squared frequency in time, in squared frequencies in space."""


def cosine_filters(patch: tuple[int, ...], n_filters: int) -> Tensor:
    """Make the filters of lowest frequency of an orthonormal cosine transform of patches: [n_filters, 3, *patch].

    Colours are luma, the mean of R, G and B, and two differences.
    """
    colours = torch.tensor([[1.0, 1, 1], [1, 0, -1], [1, -2, 1]])
    colours = colours / colours.norm(dim=1, keepdim=True)
    costs = (TIME_COST, 1.0, 1.0)[-len(patch) :]

    def cost(choice: tuple[int, ...]) -> float:
        colour, *frequencies = choice
        return CHROMA_COST * (colour > 0) + sum(c * k**2 for c, k in zip(costs, frequencies, strict=True))

    chosen = sorted(product(range(3), *map(range, patch)), key=cost)[:n_filters]
    filters = []
    for colour, *frequencies in chosen:
        wave = colours[colour]
        for side, frequency in zip(patch, frequencies, strict=True):
            along = torch.cos(math.pi / side * (torch.arange(side) + 0.5) * frequency)
            wave = wave[..., None] * along / along.norm()
        filters.append(wave)
    return torch.stack(filters)


def set_weights(layer: nn.Module, weights: Tensor) -> None:
    """Set the weights of a convolution, given in any shape, and its bias to zero."""
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    with torch.no_grad():
        weight.copy_(weights.reshape(weight.shape))
        bias.zero_()


class LinearEncoder(nn.Module):
    """A linear transform of patches: clean latents."""

    def __init__(self, config: PaperConfig):
        super().__init__()
        self.linear = to_patches(3, config.latent_channels, config.patch)
        set_weights(self.linear, GAIN * cosine_filters(config.patch, config.latent_channels))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, 3, X] in [-1, 1] -> z [B, C, x]."""
        z: Tensor = self.linear(x)
        return z


class LinearDecoder(nn.Module):
    """The exact denoiser of Gaussian samples around a linear function of the latent, plus a network's correction."""

    def __init__(self, config: PaperConfig):
        super().__init__()
        self.patch = config.patch
        self.linear = pointwise(config.latent_channels, 3 * math.prod(config.patch), config.n_axes)
        set_weights(self.linear, cosine_filters(config.patch, config.latent_channels).flatten(1).T / GAIN)

    def forward(self, x_t: Tensor, correction: Tensor, log_snr: Tensor, z_0: Tensor) -> Tensor:
        """x_t, correction [B, 3, X], log_snr [B], z_0 [B, C, x] -> x_hat [B, 3, X]."""
        level = per_picture(log_snr.float(), x_t)
        estimate = from_patches(self.linear(z_0), self.patch).float()
        return corrected_gaussian(x_t, level, estimate, RESIDUAL_STD, correction.float())
