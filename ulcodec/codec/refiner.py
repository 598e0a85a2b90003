"""Refine latents by one step that a network predicts, see `ulcodec.model.refiner`.

The elements of the last reveal pass are half of all, and none are predicted from them. So only they move: the encoder
decodes the picture once, and chooses their symbols again.
"""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from ulcodec.codec.effort import Refined
from ulcodec.codec.loaded import LoadedModel
from ulcodec.codec.networks import Array
from ulcodec.codec.tiling import refine_last_pass
from ulcodec.coding.latents import EncodedFrame, Integers, encode_frames, encode_latents


class Revision:
    """Latents y [B, h, w, C] of pictures, and what becomes of them when their last pass is about to be coded."""

    def __init__(self, loaded: LoadedModel, pictures: Sequence[NDArray[Any]], y: Array, quality: int):
        self.networks, self.pictures, self.y, self.quality = loaded.networks, pictures, y, quality

    def __call__(self, y_16: Integers, tables: NDArray[Any]) -> Array:
        self.y = refine_last_pass(self.networks, self.pictures, self.y, y_16, tables, self.quality)
        return self.y


def encode_refined(
    loaded: LoadedModel, pictures: Sequence[NDArray[Any]], y: Array, hyper: Array, quality: int
) -> list[Refined]:
    """Encode latents like `encode_latents`, with a refined last pass; `pictures`: the originals, of one latent grid."""
    revision = Revision(loaded, pictures, y, quality)
    coded = encode_latents(loaded.coder, y, hyper, quality, revise=revision)
    parts = zip(revision.y, coded, strict=True)
    return [Refined(latent, part.segments, part.symbol_check, 1.0) for latent, part in parts]


def encode_refined_frames(
    loaded: LoadedModel, pictures: Sequence[NDArray[Any]], y: Array, hyper: Array, quality: int
) -> list[EncodedFrame]:
    """Encode intra frames like `encode_frames`, with a refined last pass; see `encode_refined`."""
    return encode_frames(loaded.coder, y, hyper, quality, revise=Revision(loaded, pictures, y, quality))
