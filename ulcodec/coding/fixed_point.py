"""Fixed-point formats of the integer prior and of decoded latents, and the interface of the priors that use them."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ulcodec.model.config import ACTIVATION_LIMIT, ModelConfig
from ulcodec.model.tiles import Tile

Grid = tuple[int, int]

N_QUALITIES = 101
"""Levels of quality, from 0 to 100: rows of the tables of a model directory."""

MEAN_GRID = 16
"""Means and decoded latents are multiples of 1/16 of a bin (a quantisation bin has width 1 in y)."""

ACTIVATION_BITS = 8
LARGEST_ACTIVATION = int(ACTIVATION_LIMIT) << ACTIVATION_BITS

FACTOR_BITS = 12
"""Fraction bits of the factors that scale latents to activations."""

MAX_LATENT = 2**24
"""Bound on a decoded latent in sixteenths of a bin; larger values are clamped before they enter a network."""

MEAN_BITS = 14
"""Fraction bits of the mean head's outputs."""

LARGEST_MEAN = 2**21
"""Bound on the mean head's outputs, which are clamped to it."""

PRIOR_TILE = 96
"""Side in latent positions (1536 pixels) of the tiles in which the prior takes large pictures."""

HYPER_TILE, HYPER_HALO = 32, 1
"""Tile side and halo of the hyper-decoder, in positions of the hyper-latent."""


class CodingParameters(NamedTuple):
    """Distribution of each coded element: mean in sixteenths of a bin (int32) and table index (uint8), same shape."""

    mean_16: NDArray[np.int32]
    table_index: NDArray[np.uint8]

    def each(self, function: Callable[[NDArray[Any]], NDArray[Any]]) -> "CodingParameters":
        """Apply a function of arrays to both parts."""
        return CodingParameters(function(self.mean_16), function(self.table_index))


class PriorWalk(Protocol):
    """What a prior carries through the reveal passes of B pictures. `reveal_pass`: the next pass, from 1."""

    reveal_pass: int

    def advance(self) -> None:
        """Go to the next pass, when all tiles of this one are computed."""


class CodingPrior(Protocol):
    """A prior that codes files: every implementation predicts the same integers from the same latents.

    `product`: name of what computes its matrix products; `tile`: latent positions per side of the tiles in which it
    takes large pictures.
    """

    config: ModelConfig
    product: str
    tile: int

    def hyper_parameters(self, quality: int, n_positions: int) -> CodingParameters:
        """Return the parameters of the hyper-latent, [n_positions, C_hyper]."""

    def begin(self, hyper_16: NDArray[np.int32], quality: int, grid: Grid, /) -> Any:
        """Begin the first pass over B pictures of a grid (h, w); the result is for `tiles` and `__call__`.

        hyper_16 [B ceil(h/4) ceil(w/4), C_hyper] is in sixteenths of a bin.
        """

    def tiles(self, walk: Any, /) -> Iterator[Tile]:
        """Iterate over the tiles that `__call__` takes in the next pass, row by row."""

    def __call__(self, outer_16: NDArray[np.int32], walk: Any, tile: Tile, /) -> CodingParameters:
        """Predict the elements of the next pass in the inner part of a tile: parameters [B, h, w, K].

        outer_16 int32 [B, h, w, C] is the latent of the tile's outer part in sixteenths of a bin. Only elements of
        earlier passes are read. Call `PriorWalk.advance` after all tiles of the pass.
        """


def no_parameters(batch: int, grid: Grid) -> CodingParameters:
    """Return the parameters of a pass without elements: [B, h, w, 0]."""
    shape = (batch, *grid, 0)
    return CodingParameters(np.zeros(shape, np.int32), np.zeros(shape, np.uint8))
