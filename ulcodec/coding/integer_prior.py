"""Prior and hyper-decoder in integer arithmetic, as they run when files are coded.

Everything that a decoder must reproduce is in the integers of a model directory. `integer_layers` has the layers and
the proof that they are exact; this module has the networks.

N = B h w positions of B pictures in row-major order, C latent channels; K channels at a position in a reveal pass
(`schedule.PassElements`); Q = 101 quality levels.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ulcodec.coding.fixed_point import (
    ACTIVATION_BITS,
    HYPER_HALO,
    HYPER_TILE,
    LARGEST_MEAN,
    MEAN_BITS,
    PRIOR_TILE,
    CodingParameters,
    Grid,
    no_parameters,
)
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
from ulcodec.coding.products import HIDDEN, PRODUCTS, WIDE, Activations, choose_product, exact_arithmetic
from ulcodec.memory import released
from ulcodec.model.config import N_SCALES, ModelConfig
from ulcodec.model.reveal import pass_map
from ulcodec.model.schedule import Phase, pass_phases
from ulcodec.model.tiles import Tile, tiles
from ulcodec.progress import tracked

MIN_POSITIONS_BY_PHASE = 1536
"""With fewer positions, the stem and the heads compute all channels: eight small calls would take longer."""


class PriorState:
    """What the integer prior carries through the reveal passes of B pictures, beside their latents.

    `hyper_features` int16 [B, h, w, hyper_width]; `reveal_pass`: the next pass, from 1; `carried` int16
    [B, h, w, prior_width]: features of the pass before, None in the first pass.
    """

    def __init__(self, quality: int, hyper_features: Tensor):
        self.quality, self.hyper_features, self.reveal_pass = quality, hyper_features, 1
        self.carried: Tensor | None = None
        self._computed: Tensor | None = None

    def keep(self, features: Tensor, tile: Tile) -> None:
        """Keep the features int32 [B, h, w, prior_width] of the inner part of a tile, for the next pass."""
        if self._computed is None:
            shape = (*self.hyper_features.shape[:3], features.shape[3])
            self._computed = torch.empty(shape, dtype=torch.int16, device=features.device)
        tile.inner_of(self._computed).copy_(features)

    def advance(self) -> None:
        """Go to the next pass, when all tiles of this one are computed."""
        self.reveal_pass, self.carried, self._computed = self.reveal_pass + 1, self._computed, None


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
        gains = LatentGains.load(stored)
        networks = {prefix: IntegerNetwork.load(config, stored, prefix) for prefix in config.prior_networks}
        self._passes = [
            IntegerPass(config, networks[prefix], gains, reveal_pass)
            for reveal_pass, prefix in zip(config.reveal_passes, config.prior_networks, strict=True)
        ]
        self._hyper_decoder = IntegerHyperDecoder(config, stored)

    def hyper_parameters(self, quality: int, n_positions: int) -> CodingParameters:
        """Return the parameters of the hyper-latent, [n_positions, C_hyper]."""
        return self._hyper_decoder.parameters(quality, n_positions)

    def begin(self, hyper_16: NDArray[np.int32], quality: int, grid: Grid) -> PriorState:
        """Begin the first pass over B pictures of a grid (h, w).

        hyper_16 [B ceil(h/4) ceil(w/4), C_hyper] is in sixteenths of a bin.
        """
        placed = torch.from_numpy(hyper_16).to(self.device)
        return PriorState(quality, self._hyper_decoder.features(placed, quality, grid))

    def tiles(self, state: PriorState) -> Iterator[Tile]:
        """Iterate over the tiles that `__call__` takes in the next pass, row by row."""
        grid = (state.hyper_features.shape[1], state.hyper_features.shape[2])
        return released(tracked(tiles(grid, self.tile, self._halo(state.reveal_pass))))

    def _halo(self, reveal_pass: int) -> int:
        return self._passes[reveal_pass - 1].halo if reveal_pass <= len(self._passes) else 0

    def __call__(self, outer_16: NDArray[np.int32], state: PriorState, tile: Tile) -> CodingParameters:
        """Predict the elements of the next pass in the inner part of a tile, see `CodingPrior`."""
        if state.reveal_pass > len(self._passes):
            return no_parameters(len(outer_16), tile.inner_grid)
        network = self._passes[state.reveal_pass - 1]
        with exact_arithmetic(self.device):
            features = network.features(torch.from_numpy(outer_16).to(self.device), state, tile)
            if state.reveal_pass < len(self._passes) and not self.config.shared_prior:
                state.keep(features, tile)
            return _as_arrays(*network.parameters(features, state.quality, tile))


def _as_arrays(mean_16: Tensor, table_index: Tensor) -> CodingParameters:
    return CodingParameters(mean_16.cpu().numpy(), table_index.cpu().numpy())


class LatentGains(NamedTuple):
    """Tables of the latent's channels, [Q, C] by quality level: what scales them into and out of the networks."""

    estimate: Tensor
    mean: Tensor
    scale_offset: Tensor

    @classmethod
    def load(cls, stored: StoredIntegers) -> "LatentGains":
        return cls(
            stored.table("estimate", torch.int64),
            stored.table("mean_gain", torch.int64),
            stored.table("scale_offset"),
        )


class IntegerNetwork(NamedTuple):
    """Layers of a `PriorNetwork` in integers, and its bias int32 [Q, prior_width]."""

    stem: IntegerLayer
    bias: Tensor
    blocks: list[IntegerBlock]
    mean_head: IntegerLayer
    scale_head: IntegerLayer

    @classmethod
    def load(cls, config: ModelConfig, stored: StoredIntegers, prefix: str) -> "IntegerNetwork":
        """Load the network whose parts' names begin with `prefix`."""
        n_blocks = config.prior_blocks[config.prior_networks.index(prefix)]
        return cls(
            stored.layer(f"prior.{prefix}stem"),
            stored.table(f"{prefix}bias"),
            [IntegerBlock(stored, f"{prefix}blocks.{number}", hidden_format(config)) for number in range(n_blocks)],
            stored.layer(f"prior.{prefix}mean_head", MEAN_BITS),
            stored.layer(f"prior.{prefix}scale_head"),
        )


def hidden_format(config: ModelConfig) -> Activations:
    """Return the format of the hidden units of a prior's blocks."""
    return WIDE if config.shared_prior else HIDDEN


class IntegerPass:
    """A network in one reveal pass."""

    def __init__(self, config: ModelConfig, network: IntegerNetwork, gains: LatentGains, reveal_pass: int):
        phases = [PhaseChannels.of(phase, network.bias.device) for phase in pass_phases(config, reveal_pass)]
        self._stem = IntegerStem(config, network.stem, gains, reveal_pass, phases)
        self._bias, self._blocks = network.bias, network.blocks
        self._heads = IntegerHeads(network, gains, phases)

    @property
    def halo(self) -> int:
        """Positions around a tile that the network reads: each block sees one position further."""
        return len(self._blocks)

    def features(self, outer_16: Tensor, state: PriorState, tile: Tile) -> Tensor:
        """Compute the features of the inner part of a tile, int32 [B, h, w, prior_width], from its outer part."""
        by_phase = math.prod(tile.outer_grid) * len(outer_16) >= MIN_POSITIONS_BY_PHASE
        stem = self._stem.by_phase if by_phase else self._stem.all_channels
        x = clamp_relu_(stem(outer_16, state, tile).add_(self._bias[state.quality]))
        for number, block in enumerate(self._blocks, start=1):
            x, smaller = block(x, state.quality), tile.crop_halo(self.halo - number)
            rows, columns = smaller.outer_within(tile)  # crops positions that no later block needs
            x, tile = x[:, rows, columns], smaller
        return x

    def parameters(self, features: Tensor, quality: int, tile: Tile) -> tuple[Tensor, Tensor]:
        """Compute mean and table index [B, h, w, K] of the inner part of a tile from its features, in place."""
        by_phase = features[..., 0].numel() >= MIN_POSITIONS_BY_PHASE
        heads = self._heads.by_phase if by_phase else self._heads.all_channels
        return heads(clamp_relu_(features), quality, tile)


class PhaseChannels(NamedTuple):
    """A phase, with its channels as tensors on a device."""

    phase: Phase
    known: Tensor
    coded: Tensor

    @classmethod
    def of(cls, phase: Phase, device: torch.device) -> "PhaseChannels":
        return cls(phase, torch.from_numpy(phase.known).to(device), torch.from_numpy(phase.coded).to(device))


class LayersByPhase:
    """Phases with the layer that each takes, made by `layer_of` when they are first read."""

    def __init__(self, phases: Sequence[PhaseChannels], layer_of: Callable[[PhaseChannels], IntegerLayer]):
        self._phases, self._layer_of = phases, layer_of

    @cached_property
    def layers(self) -> list[tuple[PhaseChannels, IntegerLayer]]:
        return [(phase, self._layer_of(phase)) for phase in self._phases]


class IntegerStem:
    """First layer of a pass: from known elements, hyper-features and carried features to int32 [B, h, w, prior_width].

    Two methods compute the same integers, for the outer part of a tile.
    """

    def __init__(
        self,
        config: ModelConfig,
        layer: IntegerLayer,
        gains: LatentGains,
        reveal_pass: int,
        phases: Sequence[PhaseChannels],
    ):
        self._config, self._layer, self._gains, self._reveal_pass = config, layer, gains, reveal_pass
        features = torch.arange(2 * config.latent_channels, layer.n_in, device=layer.weight.device)
        self._of_features = layer.select(features, slice(None), layer.start)
        self._of_known = LayersByPhase(phases, self._layer_of)

    def all_channels(self, outer_16: Tensor, state: PriorState, tile: Tile) -> Tensor:
        """Compute the stem from all channels, with 0 for unknown ones."""
        passes = pass_map(self._config, tile.outer_grid, outer_16.device, tile.outer_origin).permute(1, 2, 0)
        known = passes < self._reveal_pass
        estimate = scale_latent(torch.where(known, outer_16, 0), self._gains.estimate[state.quality])
        ones = (known.to(torch.int32) << ACTIVATION_BITS).expand_as(estimate)
        return self._layer.on_grid(torch.cat((estimate, ones, self._features(state, tile)), dim=3))

    def by_phase(self, outer_16: Tensor, state: PriorState, tile: Tile) -> Tensor:
        """Compute the stem phase by phase, from the channels that are known there."""
        factor = self._gains.estimate[state.quality]
        x = self._of_features.sums(self._features(state, tile).flatten(0, 2)).view(*outer_16.shape[:3], -1)
        for channels, layer in self._of_known.layers if self._reveal_pass > 1 else ():
            positions = channels.phase.positions(tile.outer_origin)
            if not x[positions].numel():
                continue
            estimate = scale_latent(outer_16[positions][..., channels.known], factor[channels.known])
            x[positions] += layer.sums(estimate.flatten(0, 2)).view(x[positions].shape)
        return x.bitwise_right_shift_(self._layer.shift)

    def _features(self, state: PriorState, tile: Tile) -> Tensor:
        """Features that all phases read, int32 [B, h, w, ...]: of the hyper-latent, and of the pass before."""
        features = [state.hyper_features] if state.carried is None else [state.hyper_features, state.carried]
        return torch.cat([tile.outer_of(part) for part in features], dim=3).to(torch.int32)

    def _layer_of(self, channels: PhaseChannels) -> IntegerLayer:
        """Take the part of the stem whose inputs are known in a phase, without its start."""
        # For a known element, the stem sees its estimate and a 1 that marks it as known.
        marks = self._layer.weight[self._config.latent_channels + channels.known].sum(0, dtype=torch.int32)
        return self._layer.select(channels.known, slice(None), marks << ACTIVATION_BITS)


class IntegerHeads:
    """Last layers of a pass: from x int32 [B, h, w, prior_width] to mean and table index of its elements.

    Two methods compute the same integers. Both take the inner part of a tile and return tensors [B, h, w, K].
    """

    def __init__(
        self,
        network: IntegerNetwork,
        gains: LatentGains,
        phases: Sequence[PhaseChannels],
    ):
        self._mean_layer, self._scale_layer = network.mean_head, network.scale_head
        self._gains, self._phases = gains, phases
        self._by_phase = LayersByPhase(phases, self._layer_of)

    def all_channels(self, x: Tensor, quality: int, tile: Tile) -> tuple[Tensor, Tensor]:
        """Compute all channels, and select the elements of the pass."""
        every = slice(None)
        mean_16 = self._mean_16(self._mean_layer.on_grid(x), quality, every)
        table_index = self._table_index(self._scale_layer.on_grid(x), quality, every)
        selected = self._empty(x)
        for channels in self._phases:
            positions = channels.phase.positions(tile.inner_origin)
            for target, part in zip(selected, (mean_16, table_index), strict=True):
                target[positions] = part[positions][..., channels.coded]
        return selected

    def by_phase(self, x: Tensor, quality: int, tile: Tile) -> tuple[Tensor, Tensor]:
        """Compute phase by phase, only the channels of the pass."""
        mean_16, table_index = self._empty(x)
        for channels, layer in self._by_phase.layers:
            positions = channels.phase.positions(tile.inner_origin)
            if x[positions].numel():
                mean, scale = layer.on_grid(x[positions]).chunk(2, dim=3)
                mean_16[positions] = self._mean_16(mean, quality, channels.coded)
                table_index[positions] = self._table_index(scale, quality, channels.coded)
        return mean_16, table_index

    def _empty(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean_16 = torch.empty(*x.shape[:3], len(self._phases[0].coded), dtype=torch.int32, device=x.device)
        return mean_16, torch.empty_like(mean_16, dtype=torch.uint8)

    def _layer_of(self, channels: PhaseChannels) -> IntegerLayer:
        """Join both heads, for the channels that are coded in a phase, in one layer."""
        inputs = torch.arange(self._mean_layer.n_in, device=channels.coded.device)
        mean, scale = (layer.select(inputs, channels.coded) for layer in (self._mean_layer, self._scale_layer))
        return mean.beside(scale)

    def _mean_16(self, result: Tensor, quality: int, channels: Tensor | slice) -> Tensor:
        mean = result.clamp(-LARGEST_MEAN, LARGEST_MEAN) * self._gains.mean[quality][channels]
        return shift_and_round(mean, MEAN_BITS + ACTIVATION_BITS).to(torch.int32)

    def _table_index(self, result: Tensor, quality: int, channels: Tensor | slice) -> Tensor:
        index = shift_and_round(result + self._gains.scale_offset[quality][channels], ACTIVATION_BITS)
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
        return _as_arrays(mean.expand(n_positions, -1), index.expand(n_positions, -1))

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
