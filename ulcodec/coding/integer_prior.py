"""Prior and hyper-decoder in integer arithmetic, as they run when files are coded.

Everything that a decoder must reproduce is in the integers of a model directory. `integer_layers` has the layers and
the proof that they are exact; this module has the networks.

N = B h w positions of B pictures in row-major order, C latent channels; K channels at most at a position in a reveal
pass (`reveal.PassElements`); Q = 101 quality levels.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ulcodec.coding.integer_layers import (
    IntegerBlock,
    IntegerLayer,
    Integers,
    StoredIntegers,
    clamp_relu_,
    pixel_shuffle,
    scale_latent,
    shift_and_round,
)
from ulcodec.coding.products import ACTIVATION_BITS, PRODUCTS, Grid, choose_product, exact_arithmetic
from ulcodec.memory import released
from ulcodec.model.config import ModelConfig
from ulcodec.model.prior import N_SCALES
from ulcodec.model.reveal import PassElements, Phase, pass_map, pass_phases
from ulcodec.model.tiles import Tile, tiles
from ulcodec.progress import tracked

MEAN_GRID = 16
"""Means and decoded latents are multiples of 1/16 of a bin (a quantisation bin has width 1 in y)."""

MEAN_BITS = 14
"""Fraction bits of the mean head's outputs."""

LARGEST_MEAN = 2**21
"""Bound on the mean head's outputs, which are clamped to it."""

PRIOR_TILE = 96
"""Side in latent positions (1536 pixels) of the tiles in which the prior takes large pictures."""

MIN_POSITIONS_BY_PHASE = 1536
"""With fewer positions, the stem and the heads compute all channels: eight small calls would take longer."""

HYPER_TILE, HYPER_HALO = 32, 1
"""Tile side and halo of the hyper-decoder, in positions of the hyper-latent."""


class CodingParameters(NamedTuple):
    """Distribution of each coded element: mean in sixteenths of a bin (int32) and table index (uint8), same shape."""

    mean_16: Tensor
    table_index: Tensor


class IntegerPrior:
    """Prior in integers, with its hyper-decoder.

    `tensors` are the integers of a model directory, made by `integer_tensors`. Raises ModelError if they are
    incomplete or not provably exact. `product` is a name of `PRODUCTS`; None takes the fastest that is exact here.
    Pictures with more than `tile` latent positions a side are computed in tiles. The tile size changes the memory that
    is needed, but no integer.
    """

    def __init__(
        self,
        config: ModelConfig,
        tensors: Integers,
        device: torch.device,
        product: str | None = None,
        tile: int = PRIOR_TILE,
    ):
        self.config, self.device, self.tile = config, device, tile
        self.product = product or choose_product(device)
        stored = StoredIntegers(tensors, PRODUCTS[self.product], device)
        self._stem = IntegerStem(config, stored)
        self._blocks = [_load_block(stored, i) for i in range(config.prior_blocks)]
        self._heads = IntegerHeads(config, stored)
        self._hyper_decoder = IntegerHyperDecoder(config, stored)
        self._bias = stored.table("bias")

    def hyper_parameters(self, quality: int, n_positions: int) -> CodingParameters:
        """Return the parameters of the hyper-latent, [n_positions, C_hyper]."""
        return self._hyper_decoder.parameters(quality, n_positions)

    def hyper_features(self, hyper_16: Tensor, quality: int, grid: Grid) -> Tensor:
        """Decode hyper_16 [B ceil(h/4) ceil(w/4), C_hyper] to int16 [B, h, w, hyper_width] for the grid (h, w).

        hyper_16 is in sixteenths of a bin.
        """
        return self._hyper_decoder.features(hyper_16, quality, grid)

    def tiles(self, grid: Grid) -> Iterator[Tile]:
        """Iterate over the tiles of a grid that `__call__` takes, row by row."""
        return released(tracked(tiles(grid, self.tile, self._halo)))

    @property
    def _halo(self) -> int:
        return len(self._blocks)  # each block sees one position further

    def __call__(
        self, y_16: Tensor, reveal_pass: int, quality: int, hyper_features: Tensor, tile: Tile
    ) -> CodingParameters:
        """Predict the elements of a reveal pass in the inner part of a tile: parameters [B, h, w, K].

        y_16 int32 [B, h, w, C] is the latent of whole pictures in sixteenths of a bin. Only elements of earlier passes
        are read. `hyper_features`: of whole pictures, from the method of that name.
        """
        with exact_arithmetic(self.device):
            return self._predict(tile.outer_of(y_16), reveal_pass, quality, tile.outer_of(hyper_features), tile)

    def _predict(
        self, y_16: Tensor, reveal_pass: int, quality: int, hyper_features: Tensor, tile: Tile
    ) -> CodingParameters:
        """As `__call__`, from the outer part of the tile alone: y_16 and hyper_features [B, h, w, ...]."""
        if not PassElements(self.config, reveal_pass, y_16.device).n_channels:
            empty = torch.zeros(len(y_16), *tile.inner_grid, 0, dtype=torch.int32, device=y_16.device)
            return CodingParameters(empty, empty.to(torch.uint8))
        by_phase = y_16[..., 0].numel() >= MIN_POSITIONS_BY_PHASE
        stem = self._stem.by_phase if by_phase else self._stem.all_channels
        heads = self._heads.by_phase if by_phase else self._heads.all_channels
        x = clamp_relu_(stem(y_16, reveal_pass, quality, hyper_features, tile).add_(self._bias[quality]))
        for number, block in enumerate(self._blocks, start=1):
            x, smaller = block(x, quality), tile.crop_halo(self._halo - number)
            rows, columns = smaller.outer_within(tile)  # crops positions that no later block needs
            x, tile = x[:, rows, columns], smaller
        return heads(clamp_relu_(x), reveal_pass, quality, tile)


def _load_block(stored: StoredIntegers, i: int) -> IntegerBlock:
    reduce, spatial, expand = (stored.layer(f"prior.blocks.{i}.{part}") for part in ("reduce", "spatial", "expand"))
    return IntegerBlock(reduce, spatial, expand, stored.table(f"blocks.{i}.bias"))


class LayersByPhase:
    """The phases of each reveal pass with the layer that each takes, made by `layer_of` on first use."""

    def __init__(self, config: ModelConfig, device: torch.device, layer_of: Callable[[Phase], IntegerLayer]):
        self._config, self._device, self._layer_of = config, device, layer_of
        self._of_pass: dict[int, list[tuple[Phase, IntegerLayer]]] = {}

    def __call__(self, reveal_pass: int) -> list[tuple[Phase, IntegerLayer]]:
        if reveal_pass not in self._of_pass:
            phases = pass_phases(self._config, reveal_pass, self._device)
            self._of_pass[reveal_pass] = [(phase, self._layer_of(phase)) for phase in phases]
        return self._of_pass[reveal_pass]


class IntegerStem:
    """First layer of the prior: from known elements and hyper-features to int32 [B, h, w, prior_width].

    Two methods compute the same integers. Both take the outer part of a tile: y_16 and hyper_features [B, h, w, ...].
    """

    def __init__(self, config: ModelConfig, stored: StoredIntegers):
        self._config, self._device = config, stored.device
        self._layer = stored.layer("prior.stem")
        self._estimate = stored.table("estimate", torch.int64)
        self._layers = LayersByPhase(config, stored.device, self._layer_of)

    def all_channels(self, y_16: Tensor, reveal_pass: int, quality: int, hyper_features: Tensor, tile: Tile) -> Tensor:
        """Compute the stem from all channels, with 0 for unknown ones."""
        known = pass_map(self._config, tile.outer_grid, y_16.device, tile.outer_origin).permute(1, 2, 0) < reveal_pass
        estimate = scale_latent(torch.where(known, y_16, 0), self._estimate[quality])
        ones = (known.to(torch.int32) << ACTIVATION_BITS).expand_as(estimate)
        return self._layer.on_grid(torch.cat((estimate, ones, hyper_features), dim=3))

    def by_phase(self, y_16: Tensor, reveal_pass: int, quality: int, hyper_features: Tensor, tile: Tile) -> Tensor:
        """Compute the stem phase by phase, from the channels that are known there."""
        x = torch.empty(*y_16.shape[:3], self._layer.n_out, dtype=torch.int32, device=y_16.device)
        for phase, layer in self._layers(reveal_pass):
            positions = phase.positions(tile.outer_origin)
            if not x[positions].numel():
                continue
            estimate = scale_latent(y_16[positions][..., phase.known], self._estimate[quality][phase.known])
            x[positions] = layer.on_grid(torch.cat((estimate, hyper_features[positions]), dim=3))
        return x

    def _layer_of(self, phase: Phase) -> IntegerLayer:
        """Take the part of the stem whose inputs are known in a phase."""
        layer, n_channels = self._layer, self._config.latent_channels
        hyper = torch.arange(2 * n_channels, layer.n_in, device=self._device)
        outputs = torch.arange(layer.n_out, device=self._device)
        # For a known element, the stem sees its estimate and a 1 that marks it as known.
        ones = layer.weight[n_channels + phase.known].sum(0, dtype=torch.int32) << ACTIVATION_BITS
        return layer.select(torch.cat((phase.known, hyper)), outputs, layer.start + ones)


class IntegerHeads:
    """Last layers of the prior: from x int32 [B, h, w, prior_width] to the parameters of a reveal pass.

    Two methods compute the same integers. Both take the inner part of a tile and return [B, h, w, K].
    """

    def __init__(self, config: ModelConfig, stored: StoredIntegers):
        self._config, self._device = config, stored.device
        self._mean_layer, self._scale_layer = (
            stored.layer("prior.mean_head", MEAN_BITS),
            stored.layer("prior.scale_head"),
        )
        self._mean_gain, self._scale_offset = stored.table("mean_gain", torch.int64), stored.table("scale_offset")
        self._layers = LayersByPhase(config, stored.device, self._layer_of)

    def all_channels(self, x: Tensor, reveal_pass: int, quality: int, tile: Tile) -> CodingParameters:
        """Compute the parameters of all channels, and select the elements of the pass."""
        all_channels, elements = slice(None), PassElements(self._config, reveal_pass, x.device)
        mean_16 = self._mean_16(self._mean_layer.on_grid(x), quality, all_channels)
        table_index = self._table_index(self._scale_layer.on_grid(x), quality, all_channels)
        passes = pass_map(self._config, tile.inner_grid, x.device, tile.inner_origin).permute(1, 2, 0)
        shape, coded = (len(x), *tile.inner_grid), passes == reveal_pass
        return CodingParameters(
            *(elements.unflatten(part[:, coded].flatten(), shape, tile.inner_origin) for part in (mean_16, table_index))
        )

    def by_phase(self, x: Tensor, reveal_pass: int, quality: int, tile: Tile) -> CodingParameters:
        """Compute the parameters phase by phase, only for the channels of the pass."""
        n_channels = PassElements(self._config, reveal_pass, x.device).n_channels
        mean_16 = torch.zeros(*x.shape[:3], n_channels, dtype=torch.int32, device=x.device)
        table_index = torch.zeros_like(mean_16, dtype=torch.uint8)
        for phase, layer in self._layers(reveal_pass):
            positions, n_coded = phase.positions(tile.inner_origin), len(phase.coded)
            if not n_coded or not x[positions].numel():
                continue
            result = layer.on_grid(x[positions])
            mean_16[positions][..., :n_coded] = self._mean_16(result[..., :n_coded], quality, phase.coded)
            table_index[positions][..., :n_coded] = self._table_index(result[..., n_coded:], quality, phase.coded)
        return CodingParameters(mean_16, table_index)

    def _layer_of(self, phase: Phase) -> IntegerLayer:
        """Join both heads, for the channels that are coded in a phase, in one layer."""
        inputs = torch.arange(self._mean_layer.n_in, device=self._device)
        mean, scale = (layer.select(inputs, phase.coded) for layer in (self._mean_layer, self._scale_layer))
        return mean.beside(scale)

    def _mean_16(self, result: Tensor, quality: int, channels: Tensor | slice) -> Tensor:
        mean = result.clamp(-LARGEST_MEAN, LARGEST_MEAN) * self._mean_gain[quality][channels]
        return shift_and_round(mean, MEAN_BITS + ACTIVATION_BITS).to(torch.int32)

    def _table_index(self, result: Tensor, quality: int, channels: Tensor | slice) -> Tensor:
        index = shift_and_round(result + self._scale_offset[quality][channels], ACTIVATION_BITS)
        return index.clamp(0, N_SCALES - 1).to(torch.uint8)


class IntegerHyperDecoder:
    """Hyper-decoder in integers: parameters of the hyper-latent, and features for the prior at 4 times its grid."""

    def __init__(self, config: ModelConfig, stored: StoredIntegers):
        self._device, self._width = stored.device, config.hyper_width
        self._layers = [stored.layer(f"hyper.{name}") for name in ("stem", "up_32", "up_16")]
        self._mean, self._index = stored.table("hyper_mean"), stored.table("hyper_index")
        self._gain = stored.table("hyper_gain", torch.int64)

    def parameters(self, quality: int, n_positions: int) -> CodingParameters:
        """Return the parameters of the hyper-latent, [n_positions, C_hyper]: the same at every position."""
        mean, index = self._mean[quality], self._index[quality].to(torch.uint8)
        return CodingParameters(mean.expand(n_positions, -1), index.expand(n_positions, -1))

    def features(self, hyper_16: Tensor, quality: int, grid: Grid) -> Tensor:
        """Compute `IntegerPrior.hyper_features` in tiles, whose size changes no integer."""
        coarse = (-(-grid[0] // 4), -(-grid[1] // 4))
        hyper_16 = hyper_16.reshape(-1, *coarse, hyper_16.shape[1])
        features = torch.empty((len(hyper_16), *grid, self._width), dtype=torch.int16, device=hyper_16.device)
        for tile in released(tiles(coarse, HYPER_TILE, HYPER_HALO)):
            with exact_arithmetic(self._device):
                upsampled = self._upsample(tile.outer_of(hyper_16), quality)
            rows, columns = tile.scaled(4)
            target = features[:, rows.inner, columns.inner]  # ends with the grid, before the tile's last positions
            target.copy_(upsampled[:, rows.within, columns.within][:, : target.shape[1], : target.shape[2]])
        return features

    def _upsample(self, hyper_16: Tensor, quality: int) -> Tensor:
        """Map hyper_16 [B, h, w, C_hyper] to features int32 [B, 4 h, 4 w, hyper_width]."""
        stem, up_32, up_16 = self._layers
        x = scale_latent(hyper_16, self._gain[quality])
        x = pixel_shuffle(clamp_relu_(stem.on_grid(x)))
        x = pixel_shuffle(clamp_relu_(up_32.on_grid(x)))
        return clamp_relu_(up_16.on_grid(x))
