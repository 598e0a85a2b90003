"""Refine latents by one step that a network predicts, see `ulcodec.model.refiner`.

The elements of the last reveal pass are half of all, and none are predicted from them. So only they move: the encoder
decodes the picture once, and chooses their symbols again.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from numpy.typing import NDArray

from ulcodec.codec.effort import Refined
from ulcodec.codec.loaded import LoadedModel
from ulcodec.codec.networks import Array
from ulcodec.codec.tiling import refine_last_pass
from ulcodec.coding.latents import EncodedFrame, encode_frames, encode_latents


def encode_refined(
    loaded: LoadedModel, pictures: Sequence[NDArray[Any]], y: Array, hyper: Array, quality: int
) -> list[Refined]:
    """Encode latents like `encode_latents`, with a refined last pass; changes y to the refined latents.

    `pictures`: the originals, of one latent grid.
    """
    revise = partial(refine_last_pass, loaded.networks, pictures, y, quality)
    coded = encode_latents(loaded.coder, y, hyper, quality, revise=revise)
    return [Refined(latent, part.segments, part.symbol_check, 1.0) for latent, part in zip(y, coded, strict=True)]


def encode_refined_frames(
    loaded: LoadedModel, pictures: Sequence[NDArray[Any]], y: Array, hyper: Array, quality: int
) -> list[EncodedFrame]:
    """Encode intra frames like `encode_frames`, with a refined last pass; see `encode_refined`."""
    revise = partial(refine_last_pass, loaded.networks, pictures, y, quality)
    return encode_frames(loaded.coder, y, hyper, quality, revise=revise)
