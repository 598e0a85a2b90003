"""The refiner: a network that predicts a step of refinement, which the gradient of bits and squared error would give.

Iterative amortised inference (Marino et al. 2018, arXiv 1807.09356): an encoder cannot know how its latent will be
rounded. The refiner sees the error of the decoded picture. Decoders do not run it.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from ulcodec.model.blocks import QualityTable, blocks, conv, crop_tile
from ulcodec.model.config import PATCH_PX, ModelConfig
from ulcodec.model.distortion import lagrangians
from ulcodec.model.refiner_config import LARGEST_STEP, RefinerConfig
from ulcodec.model.tiles import Tile, whole_tile

LARGEST_ERROR = 1.5
"""Limit of the rounding error in bins that the network sees."""

ROUNDING_SCALE, PICTURE_SCALE = 2.0, 76.5
"""Factors that give rounding errors in bins, and errors of pictures times the root of the Lagrangian, unit spread."""


class Refiner(nn.Module):
    """Predicts by how much each element of a latent should move, in bins, from how it was rounded and decoded.

    Skips from the rounding error and from the error of the picture stand beside a residual network.
    """

    def __init__(self, codec: ModelConfig, config: RefinerConfig):
        super().__init__()
        self.codec, self.config = codec, config
        channels, patch, anchors = codec.latent_channels, 3 * PATCH_PX**2, codec.n_quality_anchors
        self.log_gain = QualityTable(anchors, channels)
        self.stem_of_rounding = conv(channels, config.width)
        self.stem_of_latent = conv(channels, config.width)
        self.stem_of_error = conv(patch, config.width)
        self.quality = QualityTable(anchors, config.width)
        self.blocks = blocks(config.width, config.n_blocks, codec.negative_slope)
        self.head = conv(config.width, channels, zero=True)
        self.skip_of_rounding = conv(channels, channels, zero=True)
        self.skip_of_error = conv(patch, channels, zero=True)
        self.step_log_gain = QualityTable(anchors, channels)

    def forward(
        self, latent: Tensor, rounding_error: Tensor, picture_error: Tensor, quality: Tensor, tile: Tile | None = None
    ) -> Tensor:
        """latent, rounding_error [B, C, h, w] float32 in bins; picture_error [B, 3, 16h, 16w]; quality [B] in [0, 1].

        `latent`: as a decoder restores it. `rounding_error`: that minus the encoder's latent, 0 where an element is
        surely zero. `picture_error`: the original minus the decoded picture, both in [0, 1]. Returns a step from the
        encoder's latent, float32 [B, C, h, w]. With a `tile`, the inputs are the tile with its halo, and the step is of
        the tile alone.
        """
        tile = tile or whole_tile((latent.shape[2], latent.shape[3]))
        inner = tile.crop_halo(0)
        weight = PICTURE_SCALE * lagrangians(self.codec, quality).sqrt()[:, None, None, None]
        rounding = ROUNDING_SCALE * rounding_error.clamp(-LARGEST_ERROR, LARGEST_ERROR)
        patches = F.pixel_unshuffle(weight * picture_error, PATCH_PX)
        features = self.stem_of_latent(latent * self.log_gain.gain(quality))
        features = features + self.stem_of_rounding(rounding) + self.stem_of_error(patches)
        features = features * self.quality.gain(quality).to(features.dtype)
        step = self.head(self.blocks.forward_tile(features, tile, 0))
        step = step + self.skip_of_rounding(crop_tile(rounding, tile, inner))
        step = step + self.skip_of_error(crop_tile(patches, tile, inner))
        scaled: Tensor = step.float() * self.step_log_gain.gain(quality)
        return scaled.clamp(-LARGEST_STEP, LARGEST_STEP)
