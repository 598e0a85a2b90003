"""The prior as it runs when files are coded: integer arithmetic end to end, carried exactly in float64.

Activations are multiples of 1/256 within +-127, weights have 16 bits and a power-of-two scale a layer. A product sum of
such integers is below 2^53, which the constructor proves from the weights, so every order of summation gives the same
result: ordinary matrix products compute it on any thread count. Between layers stand only additions, products with
integers, floors of power-of-two multiples, and clamps. Everything a decoder must reproduce is in the integers of
`tensors`.

N = h w positions in row-major order, C latent channels; Q = 101 quality levels.
"""

import hashlib
import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ulcodec.errors import ModelError
from ulcodec.model.blocks import QualityTable
from ulcodec.model.config import ModelConfig
from ulcodec.model.prior import ACTIVATION_LIMIT, LOG_SCALE_STEP, N_SCALES, SCALE_MIN
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.schedule import LATENT_LOG_SNR_0, step_noise_variance

N_QUALITIES = 101
MEAN_GRID = 16
"""Means and decoded latents are multiples of 1/16 of a quantisation step."""

ACTIVATION_BITS = 8
MEAN_BITS = 14
FACTOR_BITS = 12
MAX_WEIGHT = 2**15 - 1
EXACT = 2**53
MAX_LATENT = 2**24
"""Bound on a decoded latent in sixteenths of a step; larger ones are clamped before they enter the prior."""

Integers = Mapping[str, Tensor]


class CodingParameters(NamedTuple):
    """What elements are coded under: mean in 1/16 steps (float64 integers) and table index (uint8), both [N, C]."""

    mean_16: Tensor
    table_index: Tensor


def scaled(x: Tensor, shift: int) -> Tensor:
    """`floor(x / 2^shift + 1/2)`, exact for integers below 2^52."""
    return torch.floor(x * 2.0**-shift + 0.5)


def limited(x: Tensor) -> Tensor:
    limit = ACTIVATION_LIMIT * 2**ACTIVATION_BITS
    return x.clamp(-limit, limit)


def limited_relu(x: Tensor) -> Tensor:
    return x.clamp(0, ACTIVATION_LIMIT * 2**ACTIVATION_BITS)


def neighbourhoods(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """[N, C] -> [N, 9 C]: each position's 3x3 neighbourhood, zeros outside the grid."""
    height, width = grid
    padded = F.pad(x.reshape(height, width, -1), (0, 0, 1, 1, 1, 1))
    shifted = [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return torch.cat(shifted, dim=2).reshape(height * width, -1)


def shuffled(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """`pixel_shuffle(2)` of [N, 4 C] -> [4 N, C]."""
    height, width = grid
    picture = F.pixel_shuffle(x.T.reshape(1, -1, height, width), 2)
    return picture[0].flatten(1).T.contiguous()


class IntegerLayer:
    """Matrix product with 16-bit weights; the result is back at 1/256 resolution (or at `out_bits`)."""

    def __init__(self, tensors: Integers, name: str, device: torch.device, out_bits: int = ACTIVATION_BITS):
        try:
            weight, bias, exponent = (tensors[f"{name}.{part}"] for part in ("weight", "bias", "exponent"))
        except KeyError as error:
            raise ModelError(f"the coding weights lack {error}") from error
        self.weight = weight.to(device, torch.float64).T.contiguous()
        self.bias = bias.to(device, torch.float64)
        self.shift = int(exponent) + ACTIVATION_BITS - out_bits
        largest_input = int(ACTIVATION_LIMIT) << ACTIVATION_BITS
        if float((self.weight.abs().sum(0) * largest_input + self.bias.abs()).max()) >= EXACT / 2:
            raise ModelError(f"{name}: sums may leave the exact range of float64")

    def __call__(self, x: Tensor) -> Tensor:
        return scaled(torch.addmm(self.bias, x, self.weight), self.shift)


class IntegerPrior:
    """Prior and hyper-decoder in integers, for one picture at a time.

    `tensors` are the integers of a model directory, made by `integer_tensors`. Raises ModelError where they are
    incomplete or not provably exact.
    """

    def __init__(self, config: ModelConfig, tensors: Integers, device: torch.device):
        def layer(name: str, out_bits: int = ACTIVATION_BITS) -> IntegerLayer:
            return IntegerLayer(tensors, name, device, out_bits)

        def table(name: str) -> Tensor:
            if f"table.{name}" not in tensors:
                raise ModelError(f"the coding weights lack the table {name}")
            return tensors[f"table.{name}"].to(device, torch.float64)

        self.config, self.device = config, device
        self.stem = layer("prior.stem")
        self.blocks = [
            tuple(layer(f"prior.blocks.{i}.{part}") for part in ("reduce", "spatial", "expand"))
            for i in range(config.prior_blocks)
        ]
        self.block_bias = [table(f"blocks.{i}.bias") for i in range(config.prior_blocks)]
        self.mean_head = layer("prior.mean_head", MEAN_BITS)
        self.scale_head = layer("prior.scale_head")
        self.hyper_layers = [layer(f"hyper.{name}") for name in ("stem", "up_32", "up_16")]
        self.bias, self.estimate, self.mean_gain, self.scale_offset = map(
            table, ("bias", "estimate", "mean_gain", "scale_offset")
        )
        self.hyper_gain, self.hyper_mean, self.hyper_index = map(table, ("hyper_gain", "hyper_mean", "hyper_index"))

    def hyper_parameters(self, quality: int, n_positions: int) -> CodingParameters:
        """Per-channel parameters of the hyper-latent, [n_positions, C_hyper]."""
        mean, index = self.hyper_mean[quality], self.hyper_index[quality].to(torch.uint8)
        return CodingParameters(mean.expand(n_positions, -1), index.expand(n_positions, -1))

    def hyper_features(self, hyper_16: Tensor, quality: int, grid: tuple[int, int]) -> Tensor:
        """hyper_16 [ceil(h/4) ceil(w/4), C_hyper] in 1/16 steps -> [N, hyper_width] for the latent grid (h, w)."""
        coarse = (-(-grid[0] // 4), -(-grid[1] // 4))
        middle, fine = (2 * coarse[0], 2 * coarse[1]), (4 * coarse[0], 4 * coarse[1])
        stem, up_32, up_16 = self.hyper_layers
        x = limited(scaled(hyper_16.clamp(-MAX_LATENT, MAX_LATENT) * self.hyper_gain[quality], FACTOR_BITS))
        x = shuffled(limited_relu(stem(x)), coarse)
        x = shuffled(limited_relu(up_32(neighbourhoods(x, middle))), middle)
        x = limited_relu(up_16(neighbourhoods(x, fine)))
        return x.reshape(*fine, -1)[: grid[0], : grid[1]].reshape(grid[0] * grid[1], -1)

    def __call__(
        self, y_16: Tensor, known: Tensor, quality: int, hyper_features: Tensor, grid: tuple[int, int]
    ) -> CodingParameters:
        """y_16 [N, C]: latent in 1/16 steps, 0 where not known; known [N, C] bool. Valid for the elements not known."""
        estimate = limited(scaled(y_16.clamp(-MAX_LATENT, MAX_LATENT) * self.estimate[quality], FACTOR_BITS))
        one = 2.0**ACTIVATION_BITS
        x = self.stem(torch.cat((estimate, known.to(torch.float64) * one, hyper_features), dim=1))
        x = limited_relu(x + self.bias[quality])
        for (reduce, spatial, expand), bias in zip(self.blocks, self.block_bias, strict=True):
            hidden = limited_relu(reduce(x) + bias[quality])
            hidden = limited_relu(spatial(neighbourhoods(hidden, grid)))
            x = limited(x + expand(hidden))
        x = limited_relu(x)
        mean = self.mean_head(x).clamp(-(2.0**21), 2.0**21) * self.mean_gain[quality]
        index = scaled(self.scale_head(x) + self.scale_offset[quality], ACTIVATION_BITS)
        return CodingParameters(scaled(mean, MEAN_BITS + ACTIVATION_BITS), index.clamp(0, N_SCALES - 1).to(torch.uint8))


# Export: from float weights to integers


def integer_layer(name: str, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """weight [out, in] and bias [out] as 16-bit integers with a common power-of-two scale."""
    largest = max(float(weight.abs().max()), 1e-6)
    exponent = min(24, math.floor(math.log2(MAX_WEIGHT / largest)))
    return {
        f"{name}.weight": torch.round(weight.double() * 2.0**exponent).to(torch.int16),
        f"{name}.bias": torch.round(bias.double() * 2.0 ** (exponent + ACTIVATION_BITS)).to(torch.int64),
        f"{name}.exponent": torch.tensor(exponent, dtype=torch.int64),
    }


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


def integer_tensors(model: UnifiedLatentModel) -> dict[str, Tensor]:
    """The integers that define how a trained model codes: layers and tables a quality level."""
    prior, hyper = model.prior, model.hyper_decoder
    stem = [flat(layer) for layer in (prior.signal, prior.knowledge, prior.hyper)]
    tensors = integer_layer(
        "prior.stem", torch.cat([w for w, _ in stem], dim=1), sum((b for _, b in stem), torch.zeros(()))
    )
    one = 2.0**ACTIVATION_BITS
    tables = {"bias": every_quality(prior.bias) * one}
    for i, block in enumerate(prior.blocks):
        for part in ("reduce", "spatial", "expand"):
            tensors |= integer_layer(f"prior.blocks.{i}.{part}", *flat(block.get_submodule(part)))  # type: ignore[arg-type]
        tables[f"blocks.{i}.bias"] = every_quality(block.get_submodule("bias")) * one  # type: ignore[arg-type]
    tensors |= integer_layer("prior.mean_head", *flat(prior.mean_head))
    scale_weight, scale_bias = flat(prior.scale_head)
    tensors |= integer_layer("prior.scale_head", scale_weight / LOG_SCALE_STEP, scale_bias / LOG_SCALE_STEP)
    for name in ("stem", "up_32", "up_16"):
        tensors |= integer_layer(f"hyper.{name}", *flat(hyper.get_submodule(name)))  # type: ignore[arg-type]

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
