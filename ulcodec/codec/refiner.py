"""Refine latents by a step that a network predicts, see `ulcodec.model.refiner`."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from ulcodec.codec.loaded import LoadedModel
from ulcodec.codec.networks import Array
from ulcodec.codec.tiling import refined_latents
from ulcodec.coding.latents import simulate_coding
from ulcodec.progress import share

SIMULATION_SHARE = 0.5
"""Rough share of the refinement's time in which the prior predicts."""


def refine_once(loaded: LoadedModel, pictures: Sequence[NDArray[Any]], y: Array, hyper: Array, quality: int) -> Array:
    """Return latents y [B, h, w, C], moved by the refiner's steps: simulates a file of y, and decodes it.

    `pictures`: the originals, of one latent grid.
    """
    with share(SIMULATION_SHARE):
        coded = simulate_coding(loaded.coder, y, hyper, quality)
    return refined_latents(loaded.networks, pictures, y, quality, coded)
