"""The prior as it runs when files are coded: integer arithmetic end to end.

Activations are multiples of 1/256 within +-127, weights have 8 bits and a power-of-two scale an output channel. The
constructor proves from the weights that no sum leaves 32 bits. Between matrix products stand only additions, products
with integers, right shifts that round, and clamps, in int32 and int64. Everything a decoder must reproduce is in the
integers of `tensors`; how the matrix products are carried is free, as long as they are exact (`PRODUCTS`).

N = B h w positions of B pictures in row-major order, C latent channels; Q = 101 quality levels.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ulcodec.errors import ModelError
from ulcodec.memory import release
from ulcodec.model.blocks import QualityTable
from ulcodec.model.config import ModelConfig
from ulcodec.model.prior import ACTIVATION_LIMIT, LOG_SCALE_STEP, N_SCALES, SCALE_MIN
from ulcodec.model.rounding import compensated
from ulcodec.model.tiles import spans
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.schedule import LATENT_LOG_SNR_0, step_noise_variance

N_QUALITIES = 101
MEAN_GRID = 16
"""Means and decoded latents are multiples of 1/16 of a quantisation step."""

ACTIVATION_BITS = 8
LARGEST_ACTIVATION = int(ACTIVATION_LIMIT) << ACTIVATION_BITS
MEAN_BITS = 14
LARGEST_MEAN = 2**21
FACTOR_BITS = 12
MAX_WEIGHT = 127
MAX_EXPONENT = 18
MAX_LATENT = 2**24
"""Bound on a decoded latent in sixteenths of a step; larger ones are clamped before they enter the prior."""

Integers = Mapping[str, Tensor]
Arrangement = Callable[[Tensor], Tensor]
"""Puts the inputs of each output side by side: [N, C] -> [N, in], any dtype."""


class Product(Protocol):
    """Exact product of integers with a weight of its own, int8 [in, out].

    Takes x int32 [N, C] within +-`LARGEST_ACTIVATION` and its arrangement; returns int32 [N, out].
    """

    def __call__(self, x: Tensor, arrange: Arrangement) -> Tensor: ...


class Int8Product:
    """`x = 256 high + low`, both int8, and two int8 products: fast where the CPU multiplies int8 natively."""

    def __init__(self, weight: Tensor):
        self.weight = weight

    def __call__(self, x: Tensor, arrange: Arrangement) -> Tensor:
        high = torch._int_mm(arrange((x + 128).bitwise_right_shift_(8).to(torch.int8)), self.weight)
        low = torch._int_mm(arrange(x.to(torch.int8)), self.weight)  # integers wrap to their lowest byte
        return low.add_(high, alpha=256)


class Float64Product:
    """Integers below 2^53 in float64: exact in every order of summation."""

    def __init__(self, weight: Tensor):
        self.weight = weight.double()

    def __call__(self, x: Tensor, arrange: Arrangement) -> Tensor:
        return (arrange(x.double()) @ self.weight).to(torch.int32)


class Int64Product:
    """The definition: slow, and on CPU only."""

    def __init__(self, weight: Tensor):
        self.weight = weight.long()

    def __call__(self, x: Tensor, arrange: Arrangement) -> Tensor:
        return (arrange(x.long()) @ self.weight).to(torch.int32)


PRODUCTS: dict[str, Callable[[Tensor], Product]] = {
    "int8": Int8Product,
    "float64": Float64Product,
    "int64": Int64Product,
}

TILE = 128
"""Side in latent positions (2048 pixels) of the tiles in which the prior takes large pictures."""


def as_it_is(x: Tensor) -> Tensor:
    return x


def choose_product(device: torch.device) -> str:
    """The fastest way of `PRODUCTS` that is exact on this device: int8 on CPUs that pass `is_exact`, else float64."""
    return "int8" if device.type == "cpu" and is_exact("int8", device) else "float64"


def is_exact(name: str, device: torch.device) -> bool:
    """Compare a way of multiplying with int64 on the CPU: random integers, and the largest of both signs everywhere.

    Old CPUs add int8 products in 16 bits, and overflow there.
    """
    generator = torch.Generator().manual_seed(0)
    for n_positions, n_in, n_out in ((64, 1152, 128), (3, 640, 32)):
        x = torch.randint(-LARGEST_ACTIVATION, LARGEST_ACTIVATION + 1, (n_positions, n_in), generator=generator)
        weight = torch.randint(-MAX_WEIGHT, MAX_WEIGHT + 1, (n_in, n_out), generator=generator).to(torch.int8)
        x = x.to(torch.int32)
        x[0], x[1] = LARGEST_ACTIVATION, -LARGEST_ACTIVATION
        weight[: n_in // 3, 0], weight[: n_in // 3, 1] = MAX_WEIGHT, -MAX_WEIGHT
        weight[n_in // 3 :, :2] = 0
        expected = Int64Product(weight)(x, as_it_is)
        try:
            found = PRODUCTS[name](weight.to(device))(x.to(device), as_it_is)
        except RuntimeError:  # this build of torch has no such product
            return False
        if not torch.equal(found.cpu(), expected):
            return False
    return True


class CodingParameters(NamedTuple):
    """What elements are coded under: mean in 1/16 steps (int32) and table index (uint8), both [N, C]."""

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


def neighbourhoods(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """[N, C] -> [N, 9 C]: each position's 3x3 neighbourhood, zeros outside the grid."""
    height, width = grid
    x = x.reshape(-1, height, width, x.shape[1])
    padded = x.new_zeros(len(x), height + 2, width + 2, x.shape[3])
    padded[:, 1:-1, 1:-1] = x
    picture, row, column, _ = padded.stride()
    # The three positions of a row lie side by side in memory already. Those of a single column would overlap in a view.
    views = padded.as_strided((len(padded), height, width, 3, 3 * column), (picture, row, column, row, 1))
    return views.reshape(-1, 9 * column).contiguous()


def shuffled(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """`pixel_shuffle(2)` of [N, 4 C] -> [4 N, C]."""
    quarters = x.reshape(-1, *grid, x.shape[1] // 4, 2, 2).permute(0, 1, 4, 2, 5, 3)
    return quarters.reshape(4 * len(x), -1)


class IntegerLayer:
    """Matrix product with 8-bit weights; the result is back at 1/256 resolution (or at `out_bits`)."""

    def __init__(
        self,
        tensors: Integers,
        name: str,
        product: Callable[[Tensor], Product],
        device: torch.device,
        out_bits: int = ACTIVATION_BITS,
    ):
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
        self.product = product(weight.to(device, torch.int8).T.contiguous())
        self.start = (bias + rounding).to(device, torch.int32)
        self.shift = shift.to(device, torch.int32)

    def __call__(self, x: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """x int32 [N, C] within +-`LARGEST_ACTIVATION` -> int32 [N, out]. With a grid, of 3x3 neighbourhoods."""
        arrange = as_it_is if grid is None else partial(neighbourhoods, grid=grid)
        return self.product(x, arrange).add_(self.start).bitwise_right_shift_(self.shift)


class IntegerPrior:
    """Prior and hyper-decoder in integers, for pictures of one size and quality.

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
        tile: int = TILE,
    ):
        self.product = product or choose_product(device)
        multiply = PRODUCTS[self.product]

        def layer(name: str, out_bits: int = ACTIVATION_BITS) -> IntegerLayer:
            return IntegerLayer(tensors, name, multiply, device, out_bits)

        def table(name: str, dtype: torch.dtype = torch.int32) -> Tensor:
            if f"table.{name}" not in tensors:
                raise ModelError(f"the coding weights lack the table {name}")
            return tensors[f"table.{name}"].to(device, dtype)

        self.config, self.device, self.tile = config, device, tile
        self.stem = layer("prior.stem")
        self.blocks = [
            tuple(layer(f"prior.blocks.{i}.{part}") for part in ("reduce", "spatial", "expand"))
            for i in range(config.prior_blocks)
        ]
        self.block_bias = [table(f"blocks.{i}.bias") for i in range(config.prior_blocks)]
        self.mean_head = layer("prior.mean_head", MEAN_BITS)
        self.scale_head = layer("prior.scale_head")
        self.hyper_layers = [layer(f"hyper.{name}") for name in ("stem", "up_32", "up_16")]
        self.bias, self.scale_offset = table("bias"), table("scale_offset")
        self.hyper_mean, self.hyper_index = table("hyper_mean"), table("hyper_index")
        self.estimate, self.mean_gain, self.hyper_gain = (
            table(name, torch.int64) for name in ("estimate", "mean_gain", "hyper_gain")
        )

    def hyper_parameters(self, quality: int, n_positions: int) -> CodingParameters:
        """Per-channel parameters of the hyper-latent, [n_positions, C_hyper]."""
        mean, index = self.hyper_mean[quality], self.hyper_index[quality].to(torch.uint8)
        return CodingParameters(mean.expand(n_positions, -1), index.expand(n_positions, -1))

    def hyper_features(self, hyper_16: Tensor, quality: int, grid: tuple[int, int]) -> Tensor:
        """hyper_16 [B ceil(h/4) ceil(w/4), C_hyper] in 1/16 steps -> int16 [N, hyper_width] for the grid (h, w)."""
        coarse = (-(-grid[0] // 4), -(-grid[1] // 4))
        middle, fine = (2 * coarse[0], 2 * coarse[1]), (4 * coarse[0], 4 * coarse[1])
        stem, up_32, up_16 = self.hyper_layers
        x = scaled_latent(hyper_16, self.hyper_gain[quality])
        x = shuffled(limited_relu_(stem(x)), coarse)
        x = shuffled(limited_relu_(up_32(x, middle)), middle)
        x = limited_relu_(up_16(x, fine)).to(torch.int16)
        return x.reshape(-1, *fine, x.shape[1])[:, : grid[0], : grid[1]].flatten(0, 2)

    def __call__(
        self, y_16: Tensor, steps: Tensor, step: int, quality: int, hyper_features: Tensor, grid: tuple[int, int]
    ) -> CodingParameters:
        """Parameters [M] of the elements that are coded in `step`, from those of earlier steps, in the order of coding.

        y_16 int32 [N, C]: latent in 1/16 steps, where an earlier step coded it; steps uint8 [N, C]: each element's.
        """
        y_16, by_place, hyper_features = (x.reshape(-1, *grid, x.shape[1]) for x in (y_16, steps, hyper_features))
        if max(grid) <= self.tile:
            return self.predict(y_16, by_place < step, by_place == step, quality, hyper_features)
        stops = torch.count_nonzero(steps == step, dim=1).cumsum(0).reshape(-1, *grid)
        mean_16 = torch.empty(int(stops[-1, -1, -1]), dtype=torch.int32, device=self.device)
        table_index = torch.empty_like(mean_16, dtype=torch.uint8)
        halo = len(self.blocks)  # each sees one position further
        for rows in spans(range(grid[0]), grid[0], self.tile, halo):
            for columns in spans(range(grid[1]), grid[1], self.tile, halo):
                y_part, steps_part, hyper_part = (
                    x[:, rows.outer, columns.outer] for x in (y_16, by_place, hyper_features)
                )
                wanted = torch.zeros_like(steps_part, dtype=torch.bool)
                wanted[:, rows.within, columns.within] = steps_part[:, rows.within, columns.within] == step
                predicted = self.predict(y_part, steps_part < step, wanted, quality, hyper_part)
                in_lines = wanted[:, rows.within].sum((2, 3)).flatten().tolist()
                line_stops = stops[:, rows.inner, columns.inner.stop - 1].flatten().tolist()
                for whole, part in zip((mean_16, table_index), predicted, strict=True):
                    for line, stop in zip(torch.split(part, in_lines), line_stops, strict=True):
                        whole[stop - len(line) : stop] = line
        release()
        return CodingParameters(mean_16, table_index)

    def predict(
        self, y_16: Tensor, known: Tensor, wanted: Tensor, quality: int, hyper_features: Tensor
    ) -> CodingParameters:
        """For the wanted elements of whole pictures, or of tiles with their surroundings, from the known ones.

        y_16 int32, known and wanted bool [B, h, w, C], hyper_features int16 [B, h, w, hyper_width].
        """
        grid = (y_16.shape[1], y_16.shape[2])
        y_16, known, hyper_features = (x.flatten(0, 2) for x in (y_16, known, hyper_features))
        estimate = scaled_latent(y_16 * known, self.estimate[quality])
        x = self.stem(torch.cat((estimate, known.to(torch.int32) << ACTIVATION_BITS, hyper_features), dim=1))
        x = limited_relu_(x.add_(self.bias[quality]))
        for (reduce, spatial, expand), bias in zip(self.blocks, self.block_bias, strict=True):
            hidden = limited_relu_(reduce(x).add_(bias[quality]))
            hidden = limited_relu_(spatial(hidden, grid))
            x = limited_(expand(hidden).add_(x))
        x = limited_relu_(x)
        elements = wanted.flatten().nonzero()[:, 0]
        channels = elements % wanted.shape[-1]
        mean, index = (head(x).flatten()[elements] for head in (self.mean_head, self.scale_head))
        mean = mean.clamp(-LARGEST_MEAN, LARGEST_MEAN) * self.mean_gain[quality][channels]
        index = scaled(index + self.scale_offset[quality][channels], ACTIVATION_BITS)
        mean_16 = scaled(mean, MEAN_BITS + ACTIVATION_BITS).to(torch.int32)
        return CodingParameters(mean_16, index.clamp(0, N_SCALES - 1).to(torch.uint8))


def scaled_latent(latent_16: Tensor, factor: Tensor) -> Tensor:
    """Latent [N, C] in 1/16 steps times an integer factor [C], as activations int32 [N, C]."""
    product = latent_16.clamp(-MAX_LATENT, MAX_LATENT) * factor
    return limited_(scaled(product, FACTOR_BITS)).to(torch.int32)


# Export: from float weights to integers


class FloatLayer(NamedTuple):
    """What an integer layer is made of: weight [out, in] and bias [out], and the modules that take its inputs."""

    weight: Tensor
    bias: Tensor
    readers: tuple[str, ...]
    out_bits: int = ACTIVATION_BITS


def integer_layer(name: str, layer: FloatLayer, moments: Tensor | None = None) -> dict[str, Tensor]:
    """A layer as 8-bit integers with a power-of-two scale an output channel.

    With `moments` of its inputs (see `compensated`), what rounding a weight changes is made good by the others.
    """
    weight, bias = layer.weight.double(), layer.bias.double()
    largest = weight.abs().amax(1).clamp(min=MAX_WEIGHT * 2.0**-MAX_EXPONENT)
    exponent = torch.floor(torch.log2(MAX_WEIGHT / largest)).clamp(min=layer.out_bits - ACTIVATION_BITS)
    scale = 2.0**exponent
    if float((largest * scale).max()) > MAX_WEIGHT + 0.5:
        raise ModelError(f"{name}: a weight of {float(largest.max()):.3g} is too large to code with")
    weight, bias = weight * scale[:, None], bias * scale
    integers, bias = (weight.round(), bias) if moments is None else compensated(weight, bias, moments, MAX_WEIGHT)
    return {
        f"{name}.weight": integers.to(torch.int8),
        f"{name}.bias": torch.round(bias * 2.0**ACTIVATION_BITS).to(torch.int64),
        f"{name}.exponent": exponent.to(torch.int8),
    }


def with_mean_bias(tensors: Integers, change: Tensor) -> dict[str, Tensor]:
    """The mean head's bias with `change` [C], in the channels' own spread, added to what it gives."""
    name = "prior.mean_head.bias"
    one = 2.0 ** (tensors["prior.mean_head.exponent"].double() + ACTIVATION_BITS)
    return {name: tensors[name] + torch.round(change * one).to(torch.int64)}


def flat(layer: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Weight [out, kh kw in] and bias [out] of a convolution, in the order of `neighbourhoods`."""
    assert layer.bias is not None
    return layer.weight.detach().permute(0, 2, 3, 1).flatten(1), layer.bias.detach()


def every_quality(table: QualityTable) -> Tensor:
    """float64 [Q, C]"""
    quality = torch.arange(N_QUALITIES, dtype=torch.float64) / (N_QUALITIES - 1)
    with torch.no_grad():
        values: Tensor = table(quality)
    return values[:, :, 0, 0].double()


def float_layers(model: UnifiedLatentModel) -> dict[str, FloatLayer]:
    """The layers of prior and hyper-decoder by the names of the integer ones."""

    def layer(*readers: str, out_bits: int = ACTIVATION_BITS, unit: float = 1.0) -> FloatLayer:
        parts = [flat(model.get_submodule(reader)) for reader in readers]  # type: ignore[arg-type]
        bias = torch.stack([bias for _, bias in parts]).sum(0)
        return FloatLayer(torch.cat([weight for weight, _ in parts], dim=1) / unit, bias / unit, readers, out_bits)

    layers = {"prior.stem": layer("prior.signal", "prior.knowledge", "prior.hyper")}
    for i in range(model.config.prior_blocks):
        for part in ("reduce", "spatial", "expand"):
            name = f"prior.blocks.{i}.{part}"
            layers[name] = layer(name)
    layers["prior.mean_head"] = layer("prior.mean_head", out_bits=MEAN_BITS)
    layers["prior.scale_head"] = layer("prior.scale_head", unit=LOG_SCALE_STEP)
    return layers | {f"hyper.{name}": layer(f"hyper_decoder.{name}") for name in ("stem", "up_32", "up_16")}


def integer_tensors(model: UnifiedLatentModel, moments: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The integers that define how a trained model codes: layers and tables a quality level.

    `moments`: of each layer's inputs, for `integer_layer`.
    """
    tensors: dict[str, Tensor] = {}
    for name, layer in float_layers(model).items():
        tensors |= integer_layer(name, layer, None if moments is None else moments[name])
    prior, hyper = model.prior, model.hyper_decoder
    one = 2.0**ACTIVATION_BITS
    tables = {"bias": every_quality(prior.bias) * one}
    for i, block in enumerate(prior.blocks):
        tables[f"blocks.{i}.bias"] = every_quality(block.get_submodule("bias")) * one  # type: ignore[arg-type]

    log_gain = every_quality(prior.log_gain)
    noise = float(step_noise_variance(torch.tensor(LATENT_LOG_SNR_0, dtype=torch.float64)))
    factor = 2.0 ** (ACTIVATION_BITS + FACTOR_BITS) / MEAN_GRID
    tables["estimate"] = log_gain.exp() / (log_gain.exp() ** 2 + noise) * factor
    tables["mean_gain"] = log_gain.exp() * MEAN_GRID * one
    tables["scale_offset"] = (log_gain - math.log(SCALE_MIN)) / LOG_SCALE_STEP * one
    tables["hyper_gain"] = every_quality(hyper.log_gain).exp() * factor
    tables["hyper_mean"] = every_quality(hyper.mean) * MEAN_GRID
    tables["hyper_index"] = ((every_quality(hyper.log_scale) - math.log(SCALE_MIN)) / LOG_SCALE_STEP).clamp(
        0, N_SCALES - 1
    )
    return tensors | {f"table.{name}": torch.round(table).to(torch.int32) for name, table in tables.items()}


def fingerprint(config: ModelConfig, tensors: Integers) -> bytes:
    """SHA-256 of everything that decides which symbols a file holds: the integers and the reveal schedule."""
    digest = hashlib.sha256("|".join(config.reveal).encode())
    for name in sorted(tensors):
        array = tensors[name].contiguous().cpu().numpy()
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.digest()
