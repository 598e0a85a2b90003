"""Decoder D: the trunk with the posterior-mean picture, and the denoiser that draws from the decoder's diffusion."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ulcodec.model.blocks import QualityTable, blocks, conv, dct_basis
from ulcodec.model.config import ModelConfig
from ulcodec.model.encoder import anchor_log_gains
from ulcodec.schedule import alpha, sigma

RESIDUAL_STD = 0.1
"""Assumed spread of a picture around its posterior mean, pictures scaled to [-1, 1]; preconditions the denoiser."""


class Trunk(nn.Module):
    """Latent to features at 1/8 and to the posterior-mean picture: a linear transform plus a residual network.

    The network at 1/8 sees the linear transform's picture, so that mending its block borders is a local task.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.log_gain = QualityTable(config.n_quality_anchors, config.latent_channels)
        self.stem = conv(config.latent_channels, config.width_16)
        self.blocks_16 = blocks(config.width_16, config.decoder_blocks_16)
        self.up = conv(config.width_16, 4 * config.width_8)
        self.picture = conv(3 * 64, config.width_8)
        self.quality_8 = QualityTable(config.n_quality_anchors, config.width_8)
        self.blocks_8 = blocks(config.width_8, config.decoder_blocks_8)
        self.head = conv(config.width_8, 3 * 64, zero=True)
        self.linear = conv(config.latent_channels, 3 * 256)
        basis, std = dct_basis(config.latent_channels)
        synthesis = (basis * std[:, None]).T.reshape(3, 2, 8, 2, 8, -1)  # colour, half, row, half, column
        with torch.no_grad():
            self.linear.weight.copy_(synthesis.permute(0, 2, 4, 1, 3, 5).flatten(0, 4)[:, :, None, None])
            self.log_gain.values.copy_(-anchor_log_gains(config))

    def forward(self, y: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
        """y [B, C, h, w] float32 in quantisation steps; quality [B] in [0, 1].

        Returns features [B, width_8, 2h, 2w] and the posterior-mean picture [B, 3, 16h, 16w] float32, about [0, 1],
        not clipped.
        """
        z = y * self.log_gain.gain(quality)
        with torch.autocast(y.device.type, enabled=False):
            linear = F.pixel_shuffle(self.linear(z), 2)
        features = F.pixel_shuffle(self.up(self.blocks_16(self.stem(z))), 2) + self.picture(4 * linear)
        features = self.blocks_8(features * self.quality_8.gain(quality))
        mean = F.pixel_shuffle(linear + self.head(features).float(), 8) + 0.5
        return features, mean


class Denoiser(nn.Module):
    """Predicts the clean picture from a noisy one, around the posterior mean, on the trunk's features.

    Preconditioned as in Karras et al. 2022 (arXiv 2206.00364, table 1), applied to the residual around the mean: at
    pure noise the prediction is the mean itself.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        width = config.denoiser_width
        self.stem = conv(3 * 64, width)
        self.features = conv(config.width_8, width)
        self.level = nn.Sequential(nn.Linear(2 * N_LEVEL_FREQUENCIES, width), nn.ReLU(), nn.Linear(width, width))
        self.blocks = blocks(width, config.denoiser_blocks)
        self.head = conv(width, 3 * 64, zero=True)

    def forward(self, x_t: Tensor, log_snr: Tensor, features: Tensor, mean: Tensor) -> Tensor:
        """x_t, mean [B, 3, H, W] with pictures scaled to [-1, 1]; log_snr [B]; features [B, width_8, H/8, W/8].

        Returns x_hat [B, 3, H, W].
        """
        level = log_snr[:, None, None, None]
        a, s = alpha(level), sigma(level)
        residual = x_t - a * mean
        total = (a * RESIDUAL_STD) ** 2 + s**2
        hidden = self.stem(F.pixel_unshuffle(residual / total.sqrt(), 8)) + self.features(features)
        hidden = hidden + self.level(level_embedding(log_snr))[:, :, None, None]
        correction = F.pixel_shuffle(self.head(self.blocks(F.relu(hidden))).float(), 8)
        return mean + a * RESIDUAL_STD**2 / total * residual + s * RESIDUAL_STD / total.sqrt() * correction


N_LEVEL_FREQUENCIES = 8


def level_embedding(log_snr: Tensor) -> Tensor:
    """log_snr [B] -> sines and cosines [B, 16], periods 4 to 512 in log-SNR."""
    frequencies = 2 * math.pi / 4 / 2.0 ** torch.arange(N_LEVEL_FREQUENCIES, device=log_snr.device)
    angles = log_snr[:, None] * frequencies
    return torch.cat((angles.sin(), angles.cos()), dim=1)


class Decoder(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.trunk = Trunk(config)
        self.denoiser = Denoiser(config)
