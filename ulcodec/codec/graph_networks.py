"""The networks as ONNX graphs, on a CPU without torch; see `ulcodec.codec.networks`."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ulcodec.codec.networks import Array
from ulcodec.codec.pixels import in_pixels
from ulcodec.codec.realism import Realism
from ulcodec.errors import ModelError
from ulcodec.graphs.graph_files import Graphs
from ulcodec.model.config import ModelConfig
from ulcodec.model.tiles import Tile

POSITIONS_AT_ONCE = 2**10


@dataclass(frozen=True)
class GraphNetworks:
    """All graphs compute in float32, so that `precise` makes no difference."""

    config: ModelConfig
    graphs: Graphs

    @property
    def positions_at_once(self) -> int:
        return POSITIONS_AT_ONCE

    @property
    def encoder_halo(self) -> int:
        """A multiple of 4, so that the positions of the hyper-latent are those of the whole picture."""
        return -(-self.config.encoder_halo // 4) * 4

    def decoder_halo(self, realism: Realism) -> int:
        return self.config.decoder_halo

    def analyse(
        self, pictures: Array, quality: int, tile: Tile, kept_halo: int, *, precise: bool = False
    ) -> tuple[Array, Array]:
        latent, hyper = self.graphs.run("analysis", pixels=pictures, quality=quality_input(quality))
        rows, columns = tile.crop_halo(kept_halo).outer_within(tile)
        hyper_rows, hyper_columns = (slice(side.start // 4, -(-side.stop // 4)) for side in (rows, columns))
        return latent[:, rows, columns], hyper[:, hyper_rows, hyper_columns]

    def analyse_residual(self, residual: Array, quality: int) -> Array:
        [hyper] = self.graphs.run("residual_analysis", latent=residual, quality=quality_input(quality))
        return hyper

    def synthesise(self, latent: Array, quality: int, tile: Tile, realism: Realism, *, precise: bool = False) -> Array:
        if realism.share:
            raise ModelError('realism needs torch: pip install "ulcodec[torch]", and take that backend')
        [pictures] = self.graphs.run("synthesis", latent=latent, quality=quality_input(quality))
        rows, columns = (in_pixels(span.within) for span in tile)
        return pictures[:, rows, columns]

    def synthesise_thumbnail(self, latent: Array, quality: int) -> Array:
        [picture] = self.graphs.run("thumbnail", latent=latent, quality=quality_input(quality))
        return picture


def quality_input(quality: int) -> NDArray[np.float32]:
    """A quality from 0 to 100 as input of the networks: float32 [1] in [0, 1]."""
    return np.array([quality / 100], dtype=np.float32)
