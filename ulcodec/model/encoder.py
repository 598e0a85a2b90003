"""Encoder E: a picture to its clean latent, deterministic; and the hyper-encoder.

Neither touches what a decoder must reproduce.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ulcodec.model.blocks import QualityTable, best_bin_width, blocks, conv, cropped, dct_basis
from ulcodec.model.config import ModelConfig
from ulcodec.model.tiles import Tile, whole

HYPER_LOG_GAIN = (0.5, 2.5)
"""Where the hyper-latent's log-gains start, at the lowest and the highest quality: rounding leaves a signal."""


def anchor_log_gains(config: ModelConfig) -> Tensor:
    """Log of (spread of the DCT coefficient / best quantisation step) [anchors, C]: where all latent gains start."""
    _, std = dct_basis(config.latent_channels)
    last = config.n_quality_anchors - 1
    steps = torch.tensor([best_bin_width(config.lagrangian(anchor / last)) for anchor in range(last + 1)])
    return std.log()[None] - steps.log()[:, None]


class Encoder(nn.Module):
    """Picture to latent at 1/16: a linear transform that starts as a DCT, plus a residual network at 1/8 and 1/16."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.stem = conv(3 * 64, config.width_8)
        self.quality_8 = QualityTable(config.n_quality_anchors, config.width_8)
        self.blocks_8 = blocks(config.width_8, config.encoder_blocks_8, config.negative_slope)
        self.down = conv(4 * config.width_8, config.width_16)
        self.blocks_16 = blocks(config.width_16, config.encoder_blocks_16, config.negative_slope)
        self.head = conv(config.width_16, config.latent_channels, zero=True)
        self.linear = conv(3 * 256, config.latent_channels)
        self.log_gain = QualityTable(config.n_quality_anchors, config.latent_channels)
        basis, std = dct_basis(config.latent_channels)
        with torch.no_grad():
            self.linear.weight.copy_((basis / std[:, None])[:, :, None, None])
            self.log_gain.values.copy_(anchor_log_gains(config))

    @property
    def halo(self) -> int:
        """Latent positions that the encoder sees to each side."""
        return len(self.blocks_16) + -(-len(self.blocks_8) // 2)

    def forward(
        self, x: Tensor, quality: Tensor, tile: Tile | None = None, kept_halo: int = 0
    ) -> tuple[Tensor, Tensor]:
        """x [B, 3, H, W] float32 in [0, 1], H and W multiples of 16; quality [B] in [0, 1].

        Returns `(y, z)` float32 [B, C, H/16, W/16]: the latent in quantisation steps, and before the quality gain
        (unit spread). With x the outer part of a `tile`, these are of the tile with `kept_halo` positions around.
        """
        tile = tile or whole((x.shape[2] // 16, x.shape[3] // 16))
        at_16 = tile.limited(kept_halo + len(self.blocks_16))
        kept = tile.limited(kept_halo)
        centred = x - 0.5
        features = self.stem(4 * F.pixel_unshuffle(centred, 8))
        features = features * self.quality_8.gain(quality).to(features.dtype)
        features = self.blocks_8.narrowing(features, tile.scaled(2), 2 * (kept_halo + len(self.blocks_16)))
        features = self.down(F.pixel_unshuffle(features, 2))
        residual = self.head(self.blocks_16.narrowing(features, at_16, kept_halo))
        with torch.autocast(x.device.type, enabled=False):
            centred = cropped(centred, tile.scaled(16), kept.scaled(16)).float()
            z = self.linear(F.pixel_unshuffle(centred, 16)) + residual.float()
            return z * self.log_gain.gain(quality), z


class HyperEncoder(nn.Module):
    """Latent at 1/16 to hyper-latent at 1/64."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        width = config.hyper_width
        self.stem = conv(config.latent_channels, width)
        self.down_32 = conv(4 * width, width, 3)
        self.down_64 = conv(4 * width, width)
        self.head = conv(width, config.hyper_channels)
        self.log_gain = QualityTable(config.n_quality_anchors, config.hyper_channels)
        with torch.no_grad():
            self.log_gain.values.copy_(torch.linspace(*HYPER_LOG_GAIN, config.n_quality_anchors)[:, None])

    def forward(self, z: Tensor, quality: Tensor) -> Tensor:
        """z [B, C, h, w] float32 of unit spread -> hyper-latent [B, C_hyper, ceil(h/4), ceil(w/4)] in steps."""
        padded = pad_to_multiple(z, 4)
        features = F.relu(self.stem(padded))
        features = F.relu(self.down_32(F.pixel_unshuffle(features, 2)))
        features = F.relu(self.down_64(F.pixel_unshuffle(features, 2)))
        hyper: Tensor = self.head(features).float() * self.log_gain.gain(quality)
        return hyper


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column until height and width are multiples of `multiple`."""
    bottom, right = -x.shape[-2] % multiple, -x.shape[-1] % multiple
    return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x
