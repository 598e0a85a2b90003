"""Decoder D: the trunk with the posterior-mean picture, and the denoiser that draws from the decoder's diffusion."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ulcodec.diffusion.schedule import alpha, sigma
from ulcodec.model.blocks import BottleneckBlock, QualityTable, blocks, conv, cropped, dct_basis, opponent_dct
from ulcodec.model.config import ModelConfig
from ulcodec.model.encoder import anchor_log_gains
from ulcodec.model.tiles import Tile, whole

RESIDUAL_STD = 0.05
"""Spread of a picture around its posterior mean that a fresh denoiser assumes, pictures scaled to [-1, 1]."""

RESIDUAL_STD_RANGE = (0.001, 1.0)

CELL_PX = 4
"""Side of the cells whose DCT coefficients the denoiser sees, each with a spread of its own."""

N_COEFFICIENTS = 3 * CELL_PX**2

N_LEVEL_FREQUENCIES = 8


class Trunk(nn.Module):
    """Latent to features at 1/8 and to the posterior-mean picture: a linear transform plus a residual network.

    The network at 1/8 sees the linear transform's picture, so that mending its block borders is a local task.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.log_gain = QualityTable(config.n_quality_anchors, config.latent_channels)
        self.stem = conv(config.latent_channels, config.width_16)
        self.blocks_16 = blocks(config.width_16, config.decoder_blocks_16, config.negative_slope)
        self.up = conv(config.width_16, 4 * config.width_8)
        self.picture = conv(3 * 64, config.width_8)
        self.quality_8 = QualityTable(config.n_quality_anchors, config.width_8)
        self.blocks_8 = blocks(config.width_8, config.decoder_blocks_8, config.negative_slope)
        self.head = conv(config.width_8, 3 * 64, zero=True)
        self.linear = conv(config.latent_channels, 3 * 256)
        basis, std = dct_basis(config.latent_channels)
        synthesis = (basis * std[:, None]).T.reshape(3, 2, 8, 2, 8, -1)  # colour, half, row, half, column
        with torch.no_grad():
            self.linear.weight.copy_(synthesis.permute(0, 2, 4, 1, 3, 5).flatten(0, 4)[:, :, None, None])
            self.log_gain.values.copy_(-anchor_log_gains(config))

    def thumbnail(self, y: Tensor, quality: Tensor) -> Tensor:
        """The picture at 1/8, by the linear transform alone, averaged over its pixels: [B, 3, 2h, 2w], about [0, 1]."""
        weight, bias = (part.view(3, 64, 4, *part.shape[1:]).mean(1).flatten(0, 1) for part in self.linear.parameters())
        return F.pixel_shuffle(F.conv2d(y * self.log_gain.gain(quality), weight, bias), 2) + 0.5

    @property
    def halo(self) -> int:
        """Latent positions that the trunk sees to each side."""
        return len(self.blocks_16) + self.halo_8

    @property
    def halo_8(self) -> int:
        """Of these, what the blocks at 1/8 see."""
        return -(-len(self.blocks_8) // 2)

    def forward(
        self, y: Tensor, quality: Tensor, tile: Tile | None = None, kept_halo: int = 0
    ) -> tuple[Tensor, Tensor]:
        """y [B, C, h, w] float32 in quantisation steps; quality [B] in [0, 1].

        Returns features [B, width_8, 2h, 2w] and the posterior-mean picture [B, 3, 16h, 16w] float32, about [0, 1],
        not clipped. With y the outer part of a `tile`, these are of the tile with `kept_halo` positions around.
        """
        tile = tile or whole((y.shape[2], y.shape[3]))
        at_8, kept = tile.limited(kept_halo + self.halo_8), tile.limited(kept_halo).scaled(2)
        z = y * self.log_gain.gain(quality)
        with torch.autocast(y.device.type, enabled=False):
            linear = F.pixel_shuffle(self.linear(cropped(z, tile, at_8)), 2)
        features = self.blocks_16.narrowing(self.stem(z), tile, kept_halo + self.halo_8)
        features = F.pixel_shuffle(self.up(features), 2) + self.picture(4 * linear)
        features = features * self.quality_8.gain(quality).to(features.dtype)
        features = self.blocks_8.narrowing(features, at_8.scaled(2), 2 * kept_halo)
        linear = cropped(linear, at_8.scaled(2), kept)
        mean = F.pixel_shuffle(linear + self.head(features).float(), 8) + 0.5
        return features, mean


class Conditions(NamedTuple):
    """What the denoiser knows of a picture at every noise level.

    `log_std` [B, 48, H/4, W/4] float32: logarithm of the spread of the cells' coefficients around the posterior mean,
    pictures in [-1, 1]; `fine` [B, W, H/4, W/4] and `coarse` [B, 2 W, H/8, W/8]: features.
    """

    log_std: Tensor
    fine: Tensor
    coarse: Tensor


class Denoiser(nn.Module):
    """Draws the residual `r = T(x - mean) / std` around the posterior mean: variance preserving, velocity prediction.

    T is the orthonormal DCT of 4x4 cells over opponent colours. A few layers on the trunk's features predict the spread
    of each coefficient, so that noise alone, `std r`, already has the colour, the contrast and the spectrum of what is
    missing at a place. `r_t = alpha r + sigma eps`, and the network gives `v = alpha eps - sigma r` (Salimans and Ho
    2022, arXiv 2202.00512, appendix D), whose target has unit variance at every level because `r` has. A level may
    differ from cell to cell: white noise on the picture itself is such a map, since it hides little of a residual where
    that is strong and all of it where it is weak.
    """

    basis: Tensor

    def __init__(self, config: ModelConfig):
        super().__init__()
        width = config.denoiser_width
        outer = -(-config.denoiser_blocks // 2)
        self.log_std = nn.Sequential(
            conv(config.width_8, width),
            nn.ReLU(),
            BottleneckBlock(width),
            nn.ReLU(),
            conv(width, 4 * N_COEFFICIENTS, zero=True),
        )
        self.features_fine = conv(config.width_8, 4 * width)
        self.features_coarse = conv(config.width_8, 2 * width)
        self.picture = conv(N_COEFFICIENTS, width)
        self.level = nn.Sequential(conv(2 * N_LEVEL_FREQUENCIES, width), nn.ReLU(), conv(width, width))
        self.stem = conv(N_COEFFICIENTS, width)
        self.blocks_in = blocks(width, outer)
        self.down = conv(4 * width, 2 * width)
        self.blocks_coarse = blocks(2 * width, config.denoiser_blocks)
        self.up = conv(2 * width, 4 * width)
        self.blocks_out = blocks(width, outer)
        self.head = conv(width, N_COEFFICIENTS, zero=True)
        basis = opponent_dct(CELL_PX).float().view(-1, 3, CELL_PX, CELL_PX)
        self.register_buffer("basis", basis, persistent=False)

    def coefficients(self, x: Tensor) -> Tensor:
        """T of x [B, 3, H, W]: [B, 48, H/4, W/4] float32."""
        with torch.autocast(x.device.type, enabled=False):
            return F.conv2d(x.float(), self.basis, stride=CELL_PX)

    def pixels(self, coefficients: Tensor) -> Tensor:
        """The inverse of `coefficients`."""
        with torch.autocast(coefficients.device.type, enabled=False):
            return F.conv_transpose2d(coefficients.float(), self.basis, stride=CELL_PX)

    def conditions(self, features: Tensor, mean: Tensor) -> Conditions:
        """features [B, width_8, H/8, W/8]; mean [B, 3, H, W] scaled to [-1, 1]."""
        low, high = (math.log(std) for std in RESIDUAL_STD_RANGE)
        log_std = F.pixel_shuffle(self.log_std(features).float(), 2) + math.log(RESIDUAL_STD)
        fine = F.pixel_shuffle(self.features_fine(features), 2) + self.picture(self.coefficients(mean))
        return Conditions(log_std.clamp(low, high), fine, self.features_coarse(features))

    def forward(self, r_t: Tensor, log_snr: Tensor, known: Conditions) -> Tensor:
        """r_t [B, 48, H/4, W/4] at log_snr [B, 1, 1, 1] or [B, 1, H/4, W/4] -> r_hat, as r_t, float32."""
        hidden = self.stem(r_t) + known.fine + self.level(level_embedding(log_snr))
        hidden = self.blocks_in(F.relu(hidden))
        coarse = self.blocks_coarse(F.relu(self.down(F.pixel_unshuffle(hidden, 2)) + known.coarse))
        hidden = self.blocks_out(F.relu(hidden + F.pixel_shuffle(self.up(coarse), 2)))
        estimate: Tensor = alpha(log_snr) * r_t - sigma(log_snr) * self.head(hidden).float()
        return estimate

    def estimate(self, x_t: Tensor, log_snr: Tensor, features: Tensor, mean: Tensor) -> Tensor:
        """The clean picture from one with white noise: x_t, mean [B, 3, H, W] scaled to [-1, 1], log_snr [B].

        `T(x_t - alpha mean) / (alpha std)` is the residual and noise of a level of its own in each cell, whose
        coefficients share the mean of their spreads.
        """
        known = self.conditions(features, mean)
        level = log_snr[:, None, None, None]
        log_std = known.log_std.mean(1, keepdim=True)
        local, std = level + 2 * log_std, log_std.exp()
        r_t = self.coefficients(x_t / alpha(level) - mean) / std * alpha(local)
        return mean + self.pixels(std * self(r_t, local, known))


def level_embedding(log_snr: Tensor) -> Tensor:
    """log_snr [B, 1, h, w] -> sines and cosines [B, 16, h, w], periods 4 to 512 in log-SNR."""
    octaves = torch.arange(N_LEVEL_FREQUENCIES, dtype=torch.float32, device=log_snr.device)
    frequencies = 2 * math.pi / 4 / 2.0**octaves
    angles = log_snr * frequencies[:, None, None]
    return torch.cat((angles.sin(), angles.cos()), dim=1)


class Decoder(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.trunk = Trunk(config)
        self.denoiser = Denoiser(config)
