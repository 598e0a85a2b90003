"""The integer prior as ONNX graphs: matrix products of integers in float32, exact on every runtime.

The host scales latents into the graphs' activations and their results into parameters, in float64, where all of these
integers are exact.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ulcodec.coding.fixed_point import (
    ACTIVATION_BITS,
    FACTOR_BITS,
    HYPER_HALO,
    HYPER_TILE,
    LARGEST_ACTIVATION,
    MAX_LATENT,
    MEAN_BITS,
    PRIOR_TILE,
    CodingParameters,
    Grid,
    no_parameters,
)
from ulcodec.errors import ModelError
from ulcodec.graphs.graph_files import Graphs, Shape, as_quality_level
from ulcodec.memory import released
from ulcodec.model.config import N_PHASES, N_SCALES, PHASE_COLUMNS, PHASE_ROWS, ModelConfig
from ulcodec.model.schedule import PassElements, pass_phases
from ulcodec.model.tiles import Tile, tiles
from ulcodec.progress import tracked

Floats = NDArray[np.float32]

TABLES = ("hyper_mean", "hyper_index", "hyper_gain", "estimate", "mean_gain", "scale_offset")
"""Tables with a row for each level of quality that the host reads; those of biases are in the graphs."""


class GraphWalk:
    """What the prior carries through the reveal passes, all int16 [B, h, w, ...]; see `PriorWalk`.

    `estimate`: activations of the elements that are known, 0 for others; `carried`: features of the pass before.
    """

    def __init__(self, quality: int, hyper_features: NDArray[np.int16], n_channels: int):
        self.quality, self.hyper_features, self.reveal_pass = quality, hyper_features, 1
        self.estimate = np.zeros((*hyper_features.shape[:3], n_channels), np.int16)
        self.carried: NDArray[np.int16] | None = None
        self._computed: NDArray[np.int16] | None = None

    def keep(self, features: Floats, tile: Tile) -> None:
        """Keep the features of the inner part of a tile, for the next pass."""
        if self._computed is None:
            self._computed = np.empty((*self.hyper_features.shape[:3], features.shape[3]), np.int16)
        tile.inner_of(self._computed)[:] = features

    def advance(self) -> None:
        """Go to the next pass, when all tiles of this one are computed."""
        self.reveal_pass, self.carried, self._computed = self.reveal_pass + 1, self._computed, None


class GraphPrior:
    """The prior of a model directory, by its graphs; see `CodingPrior`.

    `coding`: the integers of the directory; `prefix`: of the names of its graphs. Raises ModelError if they are
    incomplete.
    """

    product = "onnxruntime"

    def __init__(self, config: ModelConfig, coding: Mapping[str, NDArray[Any]], graphs: Graphs, prefix: str = ""):
        self.config, self.tile, self._graphs, self._prefix = config, PRIOR_TILE, graphs, prefix
        try:
            self._tables = {name: coding[f"table.{name}"] for name in TABLES}
        except KeyError as error:
            raise ModelError(f"the coding weights lack {error}; export the model again") from error

    def hyper_parameters(self, quality: int, n_positions: int) -> CodingParameters:
        mean, index = self._tables["hyper_mean"][quality], self._tables["hyper_index"][quality]
        shape = (n_positions, len(mean))
        return CodingParameters(
            np.broadcast_to(mean.astype(np.int32), shape), np.broadcast_to(index.astype(np.uint8), shape)
        )

    def begin(self, hyper_16: NDArray[np.int32], quality: int, grid: Grid) -> GraphWalk:
        coarse = (-(-grid[0] // 4), -(-grid[1] // 4))
        activations = scaled(hyper_16, self._tables["hyper_gain"][quality]).reshape(-1, *coarse, hyper_16.shape[1])
        features = np.empty((len(activations), *grid, self.config.hyper_width), np.int16)
        for tile in released(tiles(coarse, HYPER_TILE, HYPER_HALO)):
            outer, (height, width) = as_input(tile.outer_of(activations)), tile.scaled(4).outer_grid
            [upsampled] = self._run("hyper", [(len(outer), height, width, self.config.hyper_width)], hyper=outer)
            rows, columns = tile.scaled(4)
            target = features[:, rows.inner, columns.inner]  # ends with the grid, before the tile's last positions
            target[:] = upsampled[:, rows.within, columns.within][:, : target.shape[1], : target.shape[2]]
        return GraphWalk(quality, features, self.config.latent_channels)

    def tiles(self, walk: GraphWalk, /) -> Iterator[Tile]:
        grid = (walk.hyper_features.shape[1], walk.hyper_features.shape[2])
        return released(tracked(tiles(grid, self.tile, self._halo(walk.reveal_pass))))

    def _halo(self, reveal_pass: int) -> int:
        """Positions around a tile that a pass reads: each block sees one position further."""
        if reveal_pass not in self.config.reveal_passes:
            return 0
        return self.config.prior_blocks[0 if self.config.shared_prior else reveal_pass - 1]

    def __call__(self, outer_16: NDArray[np.int32], walk: GraphWalk, tile: Tile, /) -> CodingParameters:
        reveal_pass = walk.reveal_pass
        if reveal_pass not in self.config.reveal_passes:
            return no_parameters(len(outer_16), tile.inner_grid)
        estimate = tile.outer_of(walk.estimate)
        self._add_known(outer_16, walk, tile, estimate)
        inputs = {"estimate": as_input(estimate), "hyper_features": as_input(tile.outer_of(walk.hyper_features))}
        if walk.carried is not None:
            inputs["carried"] = as_input(tile.outer_of(walk.carried))
        name = "prior" if self.config.shared_prior else f"prior-{reveal_pass}"
        quality = as_quality_level(walk.quality)
        shapes = [estimate.shape, estimate.shape]
        if not self.config.shared_prior and reveal_pass < self.config.reveal_passes[-1]:
            shapes.append((*estimate.shape[:3], self.config.prior_width))
        results = self._run(name, shapes, **inputs, cell=cells(reveal_pass, tile), quality=quality)
        rows, columns = (span.within for span in tile)
        mean, scale, *features = (part[:, rows, columns] for part in results)
        if features:
            walk.keep(features[0], tile)
        return self._parameters(mean, scale, walk, tile)

    def _add_known(self, outer_16: NDArray[np.int32], walk: GraphWalk, tile: Tile, estimate: NDArray[np.int16]) -> None:
        """Write the activations of the elements of the pass before into `estimate`: earlier ones are there."""
        factor = self._tables["estimate"][walk.quality]
        for phase in pass_phases(self.config, walk.reveal_pass - 1) if walk.reveal_pass > 1 else ():
            positions = phase.positions(tile.outer_origin)
            known = outer_16[positions][..., phase.coded]
            estimate[positions][..., phase.coded] = scaled(known, factor[phase.coded])

    def _parameters(self, mean: Floats, scale: Floats, walk: GraphWalk, tile: Tile) -> CodingParameters:
        """Turn results of the heads [B, h, w, C] into the parameters of the elements of the pass."""
        elements = PassElements(self.config, walk.reveal_pass)
        shape = (*mean.shape[:3], elements.n_channels)
        parameters = CodingParameters(np.empty(shape, np.int32), np.empty(shape, np.uint8))
        gain, offset = self._tables["mean_gain"][walk.quality], self._tables["scale_offset"][walk.quality]
        for phase in elements.phases:
            positions = phase.positions(tile.inner_origin)
            means = mean[positions][..., phase.coded] * gain[phase.coded].astype(np.float64)
            parameters.mean_16[positions] = shifted(means, MEAN_BITS + ACTIVATION_BITS)
            index = shifted(scale[positions][..., phase.coded] + offset[phase.coded], ACTIVATION_BITS)
            parameters.table_index[positions] = np.clip(index, 0, N_SCALES - 1)
        return parameters

    def _run(self, name: str, shapes: Sequence[Shape], **inputs: NDArray[Any]) -> list[NDArray[Any]]:
        return self._graphs.run(self._prefix + name, shapes, **inputs)


def as_input(integers: NDArray[Any]) -> Floats:
    """A part of an array of integers as input of a graph: contiguous float32."""
    return np.ascontiguousarray(integers, np.float32)


def scaled(latent_16: NDArray[np.int32], factor: NDArray[Any]) -> NDArray[np.int16]:
    """Turn a latent [..., C] in sixteenths of a bin into activations by an integer factor [C], below 2^28."""
    product = np.clip(latent_16, -MAX_LATENT, MAX_LATENT) * factor.astype(np.float64)
    return np.clip(shifted(product, FACTOR_BITS), -LARGEST_ACTIVATION, LARGEST_ACTIVATION).astype(np.int16)


def shifted(x: NDArray[Any], shift: int) -> NDArray[np.float64]:
    """Compute `floor(x / 2^shift + 1/2)` of integers below 2^52."""
    return np.floor(x * 2.0**-shift + 0.5)


def cells(reveal_pass: int, tile: Tile) -> NDArray[np.int64]:
    """Rows of the graphs' table of known elements, int64 [h, w], at the positions of a tile's outer part."""
    rows, columns = (np.arange(span.outer.start, span.outer.stop) for span in tile)
    phases = PHASE_COLUMNS * (rows % PHASE_ROWS)[:, None] + columns % PHASE_COLUMNS
    return np.asarray(N_PHASES * (reveal_pass - 1) + phases, dtype=np.int64)
