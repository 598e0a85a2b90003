"""The networks as ONNX graphs, on a CPU without torch; see `ulcodec.codec.networks`."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ulcodec.codec.networks import Array
from ulcodec.codec.pixels import in_pixels
from ulcodec.codec.realism import Realism
from ulcodec.coding.latents import hyper_grid
from ulcodec.errors import ModelError
from ulcodec.format.container import THUMBNAIL_PX
from ulcodec.graphs.graph_files import Graphs
from ulcodec.model.config import PATCH_PX, ModelConfig
from ulcodec.model.refiner_config import RefinerConfig
from ulcodec.model.tiles import Tile

POSITIONS_AT_ONCE = 2**10


@dataclass(frozen=True)
class GraphNetworks:
    """All graphs compute in float32, so that `precise` makes no difference.

    `residual_config`: of the networks that code the latents of predicted frames.
    """

    config: ModelConfig
    residual_config: ModelConfig
    graphs: Graphs
    refiner: RefinerConfig | None = None

    @property
    def positions_at_once(self) -> int:
        return POSITIONS_AT_ONCE

    @property
    def encoder_halo(self) -> int:
        """A multiple of 4, so that the positions of the hyper-latent are those of the whole picture."""
        return -(-self.config.encoder_halo // 4) * 4

    def decoder_halo(self, realism: Realism) -> int:
        return self.config.decoder_halo

    @property
    def refiner_halo(self) -> int | None:
        return None if self.refiner is None else self.refiner.halo

    def analyse(
        self, pictures: Array, quality: int, tile: Tile, kept_halo: int, *, precise: bool = False
    ) -> tuple[Array, Array]:
        batch, height, width = pictures.shape[:3]
        grid = height // PATCH_PX, width // PATCH_PX
        shapes = (
            (batch, *grid, self.config.latent_channels), (batch, *hyper_grid(grid), self.config.hyper_channels)
        )  # fmt: skip
        latent, hyper = self.graphs.run("analysis", shapes, pixels=pictures, quality=quality_input(quality))
        rows, columns = tile.crop_halo(kept_halo).outer_within(tile)
        hyper_rows, hyper_columns = (slice(side.start // 4, -(-side.stop // 4)) for side in (rows, columns))
        return latent[:, rows, columns], hyper[:, hyper_rows, hyper_columns]

    def analyse_residual(self, residual: Array, quality: int) -> Array:
        batch, *grid = residual.shape[:3]
        shape = (batch, *hyper_grid((grid[0], grid[1])), self.residual_config.hyper_channels)
        [hyper] = self.graphs.run("residual_analysis", [shape], latent=residual, quality=quality_input(quality))
        return hyper

    def synthesise(self, latent: Array, quality: int, tile: Tile, realism: Realism, *, precise: bool = False) -> Array:
        if realism.share:
            raise ModelError('realism needs torch: pip install "ulcodec[torch]", and take that backend')
        pictures = self._picture("synthesis", latent, quality, PATCH_PX)
        rows, columns = (in_pixels(span.within) for span in tile)
        return pictures[:, rows, columns]

    def refine(
        self,
        latent: Array,
        rounding_error: Array,
        picture_error: Array,
        quality: int,
        tile: Tile,
        *,
        precise: bool = False,
    ) -> Array:
        inputs = {"latent": latent, "rounding_error": rounding_error, "picture_error": picture_error}
        [step] = self.graphs.run("refiner", [latent.shape], **inputs, quality=quality_input(quality))
        rows, columns = (span.within for span in tile)
        return step[:, rows, columns]

    def synthesise_thumbnail(self, latent: Array, quality: int) -> Array:
        return self._picture("thumbnail", latent, quality, PATCH_PX // THUMBNAIL_PX)

    def _picture(self, name: str, latent: Array, quality: int, side: int) -> Array:
        """Run a graph that turns every position of a latent into `side` x `side` pixels."""
        batch, height, width = latent.shape[:3]
        shape = (batch, side * height, side * width, 3)
        [picture] = self.graphs.run(name, [shape], latent=latent, quality=quality_input(quality))
        return picture


def quality_input(quality: int) -> NDArray[np.float32]:
    """A quality from 0 to 100 as input of the networks: float32 [1] in [0, 1]."""
    return np.array([quality / 100], dtype=np.float32)
