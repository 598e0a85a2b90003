"""The interface of the float networks: what a backend computes for the stages of encoding and decoding.

Arrays are float32 and channels last: pictures [B, H, W, 3] in [0, 1], latents [B, h, w, C] and hyper-latents in bins.
Qualities are whole numbers from 0 to 100.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ulcodec.codec.realism import Realism
from ulcodec.model.config import ModelConfig
from ulcodec.model.tiles import Tile

Array = NDArray[np.float32]


class Networks(Protocol):
    """Encoder, decoder and hyper-encoders of a model.

    `positions_at_once`: latent positions, of 256 pixels each, of the pictures that share a pass.
    """

    @property
    def config(self) -> ModelConfig: ...
    @property
    def positions_at_once(self) -> int: ...

    @property
    def encoder_halo(self) -> int:
        """Latent positions around a tile that `analyse` needs, beyond `kept_halo`."""

    def decoder_halo(self, realism: Realism) -> int:
        """Latent positions around a tile that `synthesise` needs."""

    @property
    def refiner_halo(self) -> int | None:
        """Latent positions around a tile that `refine` needs; None if the model has no refiner."""

    def analyse(
        self, pictures: Array, quality: int, tile: Tile, kept_halo: int, *, precise: bool = False
    ) -> tuple[Array, Array]:
        """Compute latent and hyper-latent of a tile with `kept_halo` positions around it, from its outer pixels.

        `precise`: compute in float32 everywhere.
        """

    def analyse_residual(self, residual: Array, quality: int) -> Array:
        """Compute the hyper-latent of the latent of a predicted frame, in float32 everywhere."""

    def synthesise(self, latent: Array, quality: int, tile: Tile, realism: Realism, *, precise: bool = False) -> Array:
        """Compute the picture of a tile, not clipped, from the latent of its outer part. `precise`: as in `analyse`.

        Raises ModelError for a `realism` that the backend cannot draw.
        """

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
        """Compute the refiner's step of a tile from its outer part, [B, h, w, C] in bins; see `ulcodec.model.refiner`.

        `picture_error` [B, 16h, 16w, 3]; `precise`: as in `analyse`. Raises ModelError if the model has no refiner.
        """

    def synthesise_thumbnail(self, latent: Array, quality: int) -> Array:
        """Compute the picture at 1/8 of its size by the linear transform alone, not clipped: [B, 2h, 2w, 3]."""
