"""Encoder E, from a picture to its latent, and the hyper-encoder. Both are deterministic.

Decoders do not run them, so that their results may differ between machines.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ulcodec.model.blocks import QualityTable, blocks, conv, crop_tile
from ulcodec.model.config import PATCH_PX, ModelConfig
from ulcodec.model.initialisation import HYPER_LOG_GAIN, anchor_log_gains, dct_basis
from ulcodec.model.tiles import Tile, whole_tile


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

    def forward(
        self, x: Tensor, quality: Tensor, tile: Tile | None = None, kept_halo: int = 0
    ) -> tuple[Tensor, Tensor]:
        """x [B, 3, H, W] float32 in [0, 1], H and W multiples of 16; quality [B] in [0, 1].

        Returns `(y, unit_latent)` float32 [B, C, H/16, W/16]: the latent in bins, and the latent before the quality
        gain, of unit spread. With a `tile`, x is the tile with its halo, and the latents are of the tile with
        `kept_halo` positions around it.
        """
        tile = tile or whole_tile((x.shape[2] // PATCH_PX, x.shape[3] // PATCH_PX))
        at_16 = tile.crop_halo(kept_halo + len(self.blocks_16))
        kept = tile.crop_halo(kept_halo)
        centred = x - 0.5
        features = self.stem(4 * F.pixel_unshuffle(centred, 8))
        features = features * self.quality_8.gain(quality).to(features.dtype)
        features = self.blocks_8.forward_tile(features, tile.scaled(2), 2 * (kept_halo + len(self.blocks_16)))
        features = self.down(F.pixel_unshuffle(features, 2))
        residual = self.head(self.blocks_16.forward_tile(features, at_16, kept_halo))
        with torch.autocast(x.device.type, enabled=False):
            centred = crop_tile(centred, tile.scaled(PATCH_PX), kept.scaled(PATCH_PX)).float()
            unit_latent = self.linear(F.pixel_unshuffle(centred, PATCH_PX)) + residual.float()
            return unit_latent * self.log_gain.gain(quality), unit_latent


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

    def forward(self, unit_latent: Tensor, quality: Tensor) -> Tensor:
        """unit_latent [B, C, h, w] float32 -> hyper-latent [B, C_hyper, ceil(h/4), ceil(w/4)] in bins."""
        features = F.relu(self.stem(_pad_to_multiple(unit_latent, 4)))
        features = F.relu(self.down_32(F.pixel_unshuffle(features, 2)))
        features = F.relu(self.down_64(F.pixel_unshuffle(features, 2)))
        hyper: Tensor = self.head(features).float() * self.log_gain.gain(quality)
        return hyper


def _pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column until height and width are multiples of `multiple`."""
    bottom, right = -x.shape[-2] % multiple, -x.shape[-1] % multiple
    return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x
