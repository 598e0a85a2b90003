"""Decoder D: the trunk, which gives the posterior-mean picture, and the denoiser of the decoder's diffusion."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ulcodec.diffusion.schedule import alpha, sigma
from ulcodec.model.blocks import BottleneckBlock, QualityTable, blocks, conv, crop_tile
from ulcodec.model.config import ModelConfig
from ulcodec.model.initialisation import anchor_log_gains, dct_basis, opponent_dct
from ulcodec.model.tiles import Tile, whole_tile

RESIDUAL_STD = 0.05
"""Standard deviation around the posterior mean that an untrained denoiser predicts, for pictures in [-1, 1]."""

RESIDUAL_STD_RANGE = (0.001, 1.0)

CELL_PX = 4
"""Side of the square cells whose DCT coefficients the denoiser works on."""

N_COEFFICIENTS = 3 * CELL_PX**2

N_LEVEL_FREQUENCIES = 8


class Trunk(nn.Module):
    """Latent to features at 1/8 and to the posterior-mean picture: a linear transform plus a residual network.

    The network at 1/8 sees the picture of the linear transform, so that removing its blocking artefacts is a local
    task.
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
        """Decode y [B, C, h, w] to the picture at 1/8 by the linear transform alone: [B, 3, 2h, 2w], about [0, 1].

        Its pixels are averages of 8x8 pixels of the linear transform's picture.
        """
        weight, bias = (p.view(3, 64, 4, *p.shape[1:]).mean(1).flatten(0, 1) for p in self.linear.parameters())
        return F.pixel_shuffle(F.conv2d(y * self.log_gain.gain(quality), weight, bias), 2) + 0.5

    @property
    def halo_8(self) -> int:
        """The part of `ModelConfig.decoder_halo` that the blocks at 1/8 need."""
        return -(-len(self.blocks_8) // 2)

    def forward(
        self, y: Tensor, quality: Tensor, tile: Tile | None = None, kept_halo: int = 0
    ) -> tuple[Tensor, Tensor]:
        """y [B, C, h, w] float32 in bins; quality [B] in [0, 1].

        Returns features [B, width_8, 2h, 2w] and the posterior-mean picture [B, 3, 16h, 16w] float32, about [0, 1],
        not clipped. With a `tile`, y is the tile with its halo, and the results are of the tile with `kept_halo`
        positions around it.
        """
        tile = tile or whole_tile((y.shape[2], y.shape[3]))
        at_8, kept = tile.crop_halo(kept_halo + self.halo_8), tile.crop_halo(kept_halo).scaled(2)
        unit_latent = y * self.log_gain.gain(quality)
        with torch.autocast(y.device.type, enabled=False):
            linear = F.pixel_shuffle(self.linear(crop_tile(unit_latent, tile, at_8)), 2)
        features = self.blocks_16.forward_tile(self.stem(unit_latent), tile, kept_halo + self.halo_8)
        features = F.pixel_shuffle(self.up(features), 2) + self.picture(4 * linear)
        features = features * self.quality_8.gain(quality).to(features.dtype)
        features = self.blocks_8.forward_tile(features, at_8.scaled(2), 2 * kept_halo)
        linear = crop_tile(linear, at_8.scaled(2), kept)
        mean = F.pixel_shuffle(linear + self.head(features).float(), 8) + 0.5
        return features, mean


class Conditions(NamedTuple):
    """Inputs of the denoiser that are the same at every noise level.

    `log_std` [B, 48, H/4, W/4] float32: logarithm of the standard deviation of each coefficient around the posterior
    mean, for pictures in [-1, 1]. `fine` [B, width, H/4, W/4] and `coarse` [B, 2 width, H/8, W/8]: features.
    """

    log_std: Tensor
    fine: Tensor
    coarse: Tensor


class Denoiser(nn.Module):
    """Denoiser of the residual `r = T(x - mean) / std` around the posterior mean: variance preserving, v-prediction.

    T is the orthonormal DCT of 4x4 cells over opponent colours. A few layers on the trunk's features predict `std`, the
    standard deviation of each coefficient. Pure noise, `std r`, therefore already has the local colour, contrast and
    spectrum of the missing detail. With `r_t = alpha r + sigma eps`, the network predicts `v = alpha eps - sigma r`
    (Salimans and Ho 2022, arXiv 2202.00512, appendix D). Its target has unit variance at every level, because `r` has.

    The noise level may differ between cells. White noise on the picture is such a map of levels: it hides little of a
    strong residual, and all of a weak one.
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
        """Apply T to x [B, 3, H, W]: [B, 48, H/4, W/4] float32."""
        with torch.autocast(x.device.type, enabled=False):
            return F.conv2d(x.float(), self.basis, stride=CELL_PX)

    def pixels(self, coefficients: Tensor) -> Tensor:
        """Invert `coefficients`."""
        with torch.autocast(coefficients.device.type, enabled=False):
            return F.conv_transpose2d(coefficients.float(), self.basis, stride=CELL_PX)

    def conditions(self, features: Tensor, mean: Tensor) -> Conditions:
        """Compute the inputs for every noise level.

        features [B, width_8, H/8, W/8] of the trunk; mean [B, 3, H, W] scaled to [-1, 1].
        """
        low, high = (math.log(std) for std in RESIDUAL_STD_RANGE)
        log_std = F.pixel_shuffle(self.log_std(features).float(), 2) + math.log(RESIDUAL_STD)
        fine = F.pixel_shuffle(self.features_fine(features), 2) + self.picture(self.coefficients(mean))
        return Conditions(log_std.clamp(low, high), fine, self.features_coarse(features))

    def forward(self, r_t: Tensor, log_snr: Tensor, conditions: Conditions) -> Tensor:
        """r_t [B, 48, H/4, W/4] at log_snr [B, 1, 1, 1] or [B, 1, H/4, W/4] -> r_hat float32, shaped as r_t."""
        hidden = self.stem(r_t) + conditions.fine + self.level(_level_embedding(log_snr))
        hidden = self.blocks_in(F.relu(hidden))
        coarse = self.blocks_coarse(F.relu(self.down(F.pixel_unshuffle(hidden, 2)) + conditions.coarse))
        hidden = self.blocks_out(F.relu(hidden + F.pixel_shuffle(self.up(coarse), 2)))
        estimate: Tensor = alpha(log_snr) * r_t - sigma(log_snr) * self.head(hidden).float()
        return estimate

    def estimate(self, x_t: Tensor, log_snr: Tensor, features: Tensor, mean: Tensor) -> Tensor:
        """Estimate the clean picture from x_t with white noise at log_snr [B].

        x_t and mean [B, 3, H, W] are scaled to [-1, 1]. `T(x_t - alpha mean) / (alpha std)` is the residual with noise
        whose level differs between cells. Here, the coefficients of a cell share one `std`, the geometric mean of
        theirs.
        """
        conditions = self.conditions(features, mean)
        level = log_snr[:, None, None, None]
        log_std = conditions.log_std.mean(1, keepdim=True)
        cell_level, std = level + 2 * log_std, log_std.exp()
        r_t = self.coefficients(x_t / alpha(level) - mean) / std * alpha(cell_level)
        return mean + self.pixels(std * self(r_t, cell_level, conditions))


def _level_embedding(log_snr: Tensor) -> Tensor:
    """log_snr [B, 1, h, w] -> sines and cosines [B, 16, h, w], of periods 4 to 512 in log-SNR."""
    octaves = torch.arange(N_LEVEL_FREQUENCIES, dtype=torch.float32, device=log_snr.device)
    frequencies = 2 * math.pi / 4 / 2.0**octaves
    angles = log_snr * frequencies[:, None, None]
    return torch.cat((angles.sin(), angles.cos()), dim=1)


class Decoder(nn.Module):
    """Trunk and denoiser."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.trunk = Trunk(config)
        self.denoiser = Denoiser(config)
