"""The prior as it runs when files are coded: integer arithmetic end to end.

Activations are multiples of 1/256 within +-127, weights have 8 bits and a power-of-two scale an output channel. The
constructor proves from the weights that no sum leaves 32 bits. Between matrix products stand only additions, products
with integers, right shifts that round, and clamps, in int32 and int64. Everything a decoder must reproduce is in the
integers of `tensors`; how the matrix products are computed is free, as long as they are exact (`products.py`).

N = B h w positions of B pictures in row-major order, C latent channels; K channels at most at a position in a reveal
step (`reveal.PassElements`); Q = 101 quality levels.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ulcodec.coding.products import (
    ACTIVATION_BITS,
    LARGEST_ACTIVATION,
    MAX_WEIGHT,
    PRODUCTS,
    ROWS_AT_ONCE,
    Grid,
    Product,
    choose_product,
    exact_arithmetic,
)
from ulcodec.errors import ModelError
from ulcodec.memory import released
from ulcodec.model.config import ModelConfig
from ulcodec.model.prior import N_SCALES
from ulcodec.model.reveal import PassElements, Phase, pass_map, pass_phases
from ulcodec.model.tiles import Tile, tiles
from ulcodec.progress import tracked

N_QUALITIES = 101
MEAN_GRID = 16
"""Means and decoded latents are multiples of 1/16 of a quantisation step."""

MEAN_BITS = 14
LARGEST_MEAN = 2**21
FACTOR_BITS = 12
MAX_EXPONENT = 18
MAX_LATENT = 2**24
"""Bound on a decoded latent in sixteenths of a step; larger ones are clamped before they enter the prior."""

Integers = Mapping[str, Tensor]

PRIOR_TILE = 96
"""Side in latent positions (1536 pixels) of the tiles in which the prior takes large pictures."""

LEAST_BY_PHASE = 1536
"""Positions from which on the stem and the heads work phase by phase: with fewer, the calls take longer than what they
save."""

HYPER_TILE, HYPER_HALO = 32, 1
"""Of the hyper-decoder's tiles, in positions of the hyper-latent."""


def fine(coarse: slice) -> slice:
    """Positions of the latent where the hyper-latent has these."""
    return slice(4 * coarse.start, 4 * coarse.stop)


class CodingParameters(NamedTuple):
    """What elements are coded under: mean in 1/16 steps (int32) and table index (uint8), of one shape."""

    mean_16: Tensor
    table_index: Tensor


def scaled(x: Tensor, shift: int) -> Tensor:
    """`floor(x / 2^shift + 1/2)` of integers, shift >= 1."""
    return (x + (1 << (shift - 1))) >> shift


def limited_(x: Tensor) -> Tensor:
    """In place: fresh memory costs more than the arithmetic on it."""
    return x.clamp_(-LARGEST_ACTIVATION, LARGEST_ACTIVATION)


def limited_relu_(x: Tensor) -> Tensor:
    return x.clamp_(0, LARGEST_ACTIVATION)


def by_rows(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """A function of rows [N, ...] -> [N, out], of so many rows at a time as stay in the cache of a CPU."""
    if inputs[0].is_cuda or len(inputs[0]) <= ROWS_AT_ONCE:
        return function(*inputs)
    parts = zip(*(torch.split(x, ROWS_AT_ONCE) for x in inputs), strict=True)
    first = function(*next(parts))
    result = first.new_empty(len(inputs[0]), *first.shape[1:])
    targets = iter(torch.split(result, ROWS_AT_ONCE))
    next(targets).copy_(first)
    for target, part in zip(targets, parts, strict=True):
        target.copy_(function(*part))
    return result


def shuffled(x: Tensor) -> Tensor:
    """`pixel_shuffle(2)` of [B, h, w, 4 C] -> [B, 2 h, 2 w, C]."""
    pictures, height, width, channels = x.shape
    quarters = x.reshape(pictures, height, width, channels // 4, 2, 2).permute(0, 1, 4, 2, 5, 3)
    return quarters.reshape(pictures, 2 * height, 2 * width, channels // 4)


class IntegerLayer:
    """Matrix product with 8-bit weights; the result is back at 1/256 resolution (or at that of its shifts).

    weight int8 [in, out], start (bias and rounding) and shift int32 [out]; see `stored_layer` for their limits.
    """

    def __init__(self, weight: Tensor, start: Tensor, shift: Tensor, product: Callable[[Tensor], Product]):
        self.weight, self.start, self.shift, self.make_product = weight, start, shift, product

    @cached_property
    def product(self) -> Product:
        """Made when it is first needed: of some layers only parts are."""
        return self.make_product(self.weight)

    def __call__(self, x: Tensor, grid: Grid | None = None) -> Tensor:
        """x int32 [N, in] within +-`LARGEST_ACTIVATION` -> int32 [N, out]. With a grid, of 3x3 neighbourhoods."""
        return self.product(x, grid).add_(self.start).bitwise_right_shift_(self.shift)

    def over(self, x: Tensor) -> Tensor:
        """The same of 3x3 neighbourhoods in [B, h, w, C], and of single positions if the weight is for them."""
        grid = None if x.shape[-1] == len(self.weight) else (x.shape[1], x.shape[2])
        return self(x.flatten(0, 2), grid).view(*x.shape[:3], -1)

    def part(self, inputs: Tensor, outputs: Tensor, start: Tensor | None = None) -> "IntegerLayer":
        """The layer from some inputs to some outputs; `start`: in place of its own, of all outputs."""
        start = self.start if start is None else start
        weight = self.weight[inputs][:, outputs].contiguous()
        return IntegerLayer(weight, start[outputs], self.shift[outputs], self.make_product)


def joined(layers: tuple[IntegerLayer, ...]) -> IntegerLayer:
    """Layers of the same inputs as one, outputs side by side."""
    weight, start, shift = (
        torch.cat([getattr(layer, part) for layer in layers], dim=-1) for part in ("weight", "start", "shift")
    )
    return IntegerLayer(weight, start, shift, layers[0].make_product)


def stored_layer(
    tensors: Integers,
    name: str,
    product: Callable[[Tensor], Product],
    device: torch.device,
    out_bits: int = ACTIVATION_BITS,
) -> IntegerLayer:
    """A layer of a model's integers. Raises ModelError where it is incomplete, or where its sums may leave 32 bits."""
    try:
        weight, bias, exponent = (tensors[f"{name}.{part}"] for part in ("weight", "bias", "exponent"))
    except KeyError as error:
        raise ModelError(f"the coding weights lack {error}") from error
    bias, shift = bias.long(), exponent.long() + ACTIVATION_BITS - out_bits
    if bool((shift < 0).any() or (shift > 30).any() or weight.min() < -MAX_WEIGHT or weight.max() > MAX_WEIGHT):
        raise ModelError(f"{name}: a weight or an exponent is out of range")
    rounding = (1 << shift) >> 1
    # Products of high bytes and of low bytes, bias and rounding: every partial sum is below this.
    largest = weight.abs().sum(1, dtype=torch.int64) * (LARGEST_ACTIVATION + 256) + bias.abs() + rounding
    if int(largest.max()) >= 2**31:
        raise ModelError(f"{name}: sums may leave 32 bits")
    start = (bias + rounding).to(device, torch.int32)
    return IntegerLayer(weight.to(device, torch.int8).T.contiguous(), start, shift.to(device, torch.int32), product)


class IntegerBlock(NamedTuple):
    """`PriorBlock` in integers: its layers, and its bias int32 [Q, hidden]."""

    reduce: IntegerLayer
    spatial: IntegerLayer
    expand: IntegerLayer
    bias: Tensor

    def __call__(self, x: Tensor, quality: int) -> Tensor:
        """x int32 [B, h, w, C] -> the same shape."""
        rows, grid = x.flatten(0, 2), (x.shape[1], x.shape[2])

        def reduced(rows: Tensor) -> Tensor:
            return limited_relu_(self.reduce(rows).add_(self.bias[quality]))

        def expanded(hidden: Tensor, rows: Tensor) -> Tensor:
            return limited_(self.expand(hidden).add_(rows))

        hidden = limited_relu_(self.spatial(by_rows(reduced, rows), grid))
        return by_rows(expanded, hidden, rows).view(x.shape)


class PhaseLayers(NamedTuple):
    """What differs between the phases of a step: how the prior begins and ends at its positions.

    `stem`: from the known channels and the hyper-features; `heads`: to means and table indices of the coded ones.
    """

    phase: Phase
    stem: IntegerLayer
    heads: IntegerLayer


class IntegerPrior:
    """Prior and hyper-decoder in integers.

    `tensors` are the integers of a model directory, made by `integer_tensors`. Raises ModelError where they are
    incomplete or not provably exact. `product`: a name of `PRODUCTS`; by itself the fastest that is exact here.
    `tile`: pictures with more latent positions a side are taken in tiles, which changes memory and no integer.
    """

    def __init__(
        self,
        config: ModelConfig,
        tensors: Integers,
        device: torch.device,
        product: str | None = None,
        tile: int = PRIOR_TILE,
    ):
        self.product = product or choose_product(device)
        multiply = PRODUCTS[self.product]

        def layer(name: str, out_bits: int = ACTIVATION_BITS) -> IntegerLayer:
            return stored_layer(tensors, name, multiply, device, out_bits)

        def table(name: str, dtype: torch.dtype = torch.int32) -> Tensor:
            if f"table.{name}" not in tensors:
                raise ModelError(f"the coding weights lack the table {name}")
            return tensors[f"table.{name}"].to(device, dtype)

        def block(i: int) -> IntegerBlock:
            reduce, spatial, expand = (layer(f"prior.blocks.{i}.{part}") for part in ("reduce", "spatial", "expand"))
            return IntegerBlock(reduce, spatial, expand, table(f"blocks.{i}.bias"))

        self.config, self.device, self.tile = config, device, tile
        self.stem = layer("prior.stem")
        self.blocks = [block(i) for i in range(config.prior_blocks)]
        self.heads = layer("prior.mean_head", MEAN_BITS), layer("prior.scale_head")
        self.hyper_layers = [layer(f"hyper.{name}") for name in ("stem", "up_32", "up_16")]
        self.bias, self.scale_offset = table("bias"), table("scale_offset")
        self.hyper_mean, self.hyper_index = table("hyper_mean"), table("hyper_index")
        self.estimate, self.mean_gain, self.hyper_gain = (
            table(name, torch.int64) for name in ("estimate", "mean_gain", "hyper_gain")
        )
        self.made_layers: dict[int, list[PhaseLayers]] = {}

    def phase_layers(self, reveal_pass: int) -> list[PhaseLayers]:
        """The layers of a step's phases, made when they are first needed."""
        if reveal_pass not in self.made_layers:
            self.made_layers[reveal_pass] = self.make_phase_layers(reveal_pass)
        return self.made_layers[reveal_pass]

    def make_phase_layers(self, reveal_pass: int) -> list[PhaseLayers]:
        """The shares of the stem and of the heads that the phases of a step take."""
        n_channels, device = self.config.latent_channels, self.device
        hyper = torch.arange(2 * n_channels, len(self.stem.weight), device=device)
        everything = torch.arange(self.stem.weight.shape[1], device=device)
        inputs = torch.arange(len(self.heads[0].weight), device=device)
        found = []
        for phase in pass_phases(self.config, reveal_pass, device):
            # Of a known element the stem sees its estimate, and a 1 that says so.
            ones = self.stem.weight[n_channels + phase.known].sum(0, dtype=torch.int32) << ACTIVATION_BITS
            stem = self.stem.part(torch.cat((phase.known, hyper)), everything, self.stem.start + ones)
            heads = joined(tuple(head.part(inputs, phase.coded) for head in self.heads))
            found.append(PhaseLayers(phase, stem, heads))
        return found

    def hyper_parameters(self, quality: int, n_positions: int) -> CodingParameters:
        """Per-channel parameters of the hyper-latent, [n_positions, C_hyper]."""
        mean, index = self.hyper_mean[quality], self.hyper_index[quality].to(torch.uint8)
        return CodingParameters(mean.expand(n_positions, -1), index.expand(n_positions, -1))

    def hyper_features(self, hyper_16: Tensor, quality: int, grid: Grid) -> Tensor:
        """hyper_16 [B ceil(h/4) ceil(w/4), C_hyper] in 1/16 steps -> int16 [B, h, w, hyper_width] for the grid (h, w).

        In tiles, whose size changes no integer.
        """
        coarse = (-(-grid[0] // 4), -(-grid[1] // 4))
        hyper_16 = hyper_16.reshape(-1, *coarse, hyper_16.shape[1])
        features = torch.empty(
            (len(hyper_16), *grid, self.config.hyper_width), dtype=torch.int16, device=hyper_16.device
        )
        for tile in released(tiles(coarse, HYPER_TILE, HYPER_HALO)):
            with exact_arithmetic(self.device):
                found = self.upsampled(tile.outer_of(hyper_16), quality)
            within, inner = ([fine(getattr(span, part)) for span in tile] for part in ("within", "inner"))
            target = features[:, inner[0], inner[1]]
            target.copy_(found[:, within[0], within[1]][:, : target.shape[1], : target.shape[2]])
        return features

    def upsampled(self, hyper_16: Tensor, quality: int) -> Tensor:
        """Features int32 [B, 4 h, 4 w, hyper_width] of hyper_16 [B, h, w, C_hyper]."""
        stem, up_32, up_16 = self.hyper_layers
        x = scaled_latent(hyper_16, self.hyper_gain[quality])
        x = shuffled(limited_relu_(stem.over(x)))
        x = shuffled(limited_relu_(up_32.over(x)))
        return limited_relu_(up_16.over(x))

    def tiles(self, grid: Grid) -> Iterator[Tile]:
        """The parts of a picture that `__call__` takes, row after row."""
        return released(tracked(tiles(grid, self.tile, len(self.blocks))))  # each block sees one position further

    def __call__(
        self, y_16: Tensor, reveal_pass: int, quality: int, hyper_features: Tensor, tile: Tile
    ) -> CodingParameters:
        """Parameters [B, h, w, K] of the elements that are coded in a step, of the inner part of a tile.

        y_16 int32 [B, h, w, C]: latent of whole pictures in 1/16 steps, which counts where an earlier step coded it;
        hyper_features: see there.
        """
        with exact_arithmetic(self.device):
            return self.predict(tile.outer_of(y_16), reveal_pass, quality, tile.outer_of(hyper_features), tile)

    def predict(
        self, y_16: Tensor, reveal_pass: int, quality: int, hyper_features: Tensor, tile: Tile
    ) -> CodingParameters:
        """`__call__` from the outer part of a tile, [B, h, w, ...]."""
        elements = PassElements(self.config, reveal_pass, y_16.device)
        shape = len(y_16), *tile.inner_grid
        if not elements.n_channels:
            nothing = torch.zeros(*shape, 0, dtype=torch.int32, device=y_16.device)
            return CodingParameters(nothing, nothing.to(torch.uint8))
        by_phase = y_16[..., 0].numel() >= LEAST_BY_PHASE
        begin, end = (self.begun, self.ended) if by_phase else (self.begun_at_once, self.ended_at_once)
        x = limited_relu_(begin(y_16, reveal_pass, quality, hyper_features, tile).add_(self.bias[quality]))
        for number, block in enumerate(self.blocks, start=1):
            x, following = block(x, quality), tile.crop_halo(len(self.blocks) - number)
            rows, columns = following.outer_within(tile)  # what no later block needs is cut off
            x, tile = x[:, rows, columns], following
        return end(limited_relu_(x), reveal_pass, quality, tile)

    def begun_at_once(self, y_16: Tensor, reveal_pass: int, quality: int, hyper_features: Tensor, tile: Tile) -> Tensor:
        """The stem, int32 [B, h, w, prior_width], from all channels: unknown ones are 0."""
        known = pass_map(self.config, tile.outer_grid, y_16.device, tile.outer_origin).permute(1, 2, 0) < reveal_pass
        estimate = scaled_latent(torch.where(known, y_16, 0), self.estimate[quality])
        ones = (known.to(torch.int32) << ACTIVATION_BITS).expand_as(estimate)
        return self.stem.over(torch.cat((estimate, ones, hyper_features), dim=3))

    def ended_at_once(self, x: Tensor, reveal_pass: int, quality: int, tile: Tile) -> CodingParameters:
        """The heads, from x [B, h, w, prior_width]: parameters of all channels, of which those of the step are kept."""
        everything, elements = slice(None), PassElements(self.config, reveal_pass, x.device)
        mean, index = (head.over(x) for head in self.heads)
        found = self.mean(mean, quality, everything), self.table_index(index, quality, everything)
        coded = pass_map(self.config, tile.inner_grid, x.device, tile.inner_origin).permute(1, 2, 0) == reveal_pass
        shape = len(x), *tile.inner_grid
        return CodingParameters(
            *(elements.placed(part[:, coded].flatten(), shape, tile.inner_origin) for part in found)
        )

    def ended(self, x: Tensor, reveal_pass: int, quality: int, tile: Tile) -> CodingParameters:
        """The same, phase by phase, of the channels of the step alone."""
        n_elements = PassElements(self.config, reveal_pass, x.device).n_channels
        mean_16 = torch.zeros(*x.shape[:3], n_elements, dtype=torch.int32, device=x.device)
        table_index = torch.zeros_like(mean_16, dtype=torch.uint8)
        for phase, _, heads in self.phase_layers(reveal_pass):
            own, n_coded = phase.positions(tile.inner_origin), len(phase.coded)
            if not n_coded or not x[own].numel():
                continue
            result = heads.over(x[own])
            mean_16[own][..., :n_coded] = self.mean(result[..., :n_coded], quality, phase.coded)
            table_index[own][..., :n_coded] = self.table_index(result[..., n_coded:], quality, phase.coded)
        return CodingParameters(mean_16, table_index)

    def begun(self, y_16: Tensor, reveal_pass: int, quality: int, hyper_features: Tensor, tile: Tile) -> Tensor:
        """The same, phase by phase, from the channels that are known there."""
        x = torch.empty(*y_16.shape[:3], self.stem.weight.shape[1], dtype=torch.int32, device=y_16.device)
        for phase, stem, _ in self.phase_layers(reveal_pass):
            own = phase.positions(tile.outer_origin)
            if not x[own].numel():
                continue
            known = scaled_latent(y_16[own][..., phase.known], self.estimate[quality][phase.known])
            x[own] = stem.over(torch.cat((known, hyper_features[own]), dim=3))
        return x

    def mean(self, result: Tensor, quality: int, channels: Tensor | slice) -> Tensor:
        mean = result.clamp(-LARGEST_MEAN, LARGEST_MEAN) * self.mean_gain[quality][channels]
        return scaled(mean, MEAN_BITS + ACTIVATION_BITS).to(torch.int32)

    def table_index(self, result: Tensor, quality: int, channels: Tensor | slice) -> Tensor:
        index = scaled(result + self.scale_offset[quality][channels], ACTIVATION_BITS)
        return index.clamp(0, N_SCALES - 1).to(torch.uint8)


def scaled_latent(latent_16: Tensor, factor: Tensor) -> Tensor:
    """Latent [N, C] in 1/16 steps times an integer factor [C], as activations int32 [N, C]."""
    product = latent_16.clamp(-MAX_LATENT, MAX_LATENT) * factor
    return limited_(scaled(product, FACTOR_BITS)).to(torch.int32)


def fingerprint(config: ModelConfig, tensors: Integers) -> bytes:
    """SHA-256 of everything that decides which symbols a file holds: the integers and the reveal schedule."""
    digest = hashlib.sha256("|".join(config.reveal).encode())
    for name in sorted(tensors):
        array = tensors[name].contiguous().cpu().numpy()
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.digest()
