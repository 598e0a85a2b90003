"""Quantise the float prior to integers: 8-bit weights with a power-of-two scale per output channel, and tables.

Runs once, when a model is exported. `integer_prior` runs the result.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ulcodec.coding.fixed_point import ACTIVATION_BITS, FACTOR_BITS, MEAN_BITS, MEAN_GRID, N_QUALITIES
from ulcodec.coding.integer_layers import MAX_EXPONENT, Integers
from ulcodec.coding.integer_prior import hidden_format
from ulcodec.coding.products import MAX_WEIGHT
from ulcodec.coding.rounding import round_with_compensation
from ulcodec.diffusion.schedule import LATENT_LOG_SNR_0, bin_noise_variance
from ulcodec.errors import ModelError
from ulcodec.model.blocks import QualityTable
from ulcodec.model.config import N_SCALES
from ulcodec.model.prior import LOG_SCALE_STEP, SCALE_MIN, PriorNetwork
from ulcodec.model.unified import EntropyModel

STEM_INPUTS = ("signal", "knowledge", "hyper", "carried")


class FloatLayer(NamedTuple):
    """Source of an integer layer: weight [out, in] and bias [out], and the modules that read its inputs.

    `in_bits`, `out_bits`: fraction bits of the integer layer's inputs and outputs.
    """

    weight: Tensor
    bias: Tensor
    readers: tuple[str, ...]
    in_bits: int = ACTIVATION_BITS
    out_bits: int = ACTIVATION_BITS


def integer_tensors(model: EntropyModel, moments: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return the integers that define how a trained model codes: layers, and tables with one row per quality level.

    `moments`: of each layer's inputs, for `quantise_layer`.
    """
    tensors: dict[str, Tensor] = {}
    for name, layer in float_layers(model).items():
        tensors |= quantise_layer(name, layer, None if moments is None else moments[name])
    return tensors | {f"table.{name}": torch.round(table).to(torch.int32) for name, table in _tables(model).items()}


def float_layers(model: EntropyModel) -> dict[str, FloatLayer]:
    """Return the layers of prior and hyper-decoder, by the names of the integer layers."""

    def layer(
        *readers: str, in_bits: int = ACTIVATION_BITS, out_bits: int = ACTIVATION_BITS, unit: float = 1.0
    ) -> FloatLayer:
        parts = [flatten_convolution(model.get_submodule(reader)) for reader in readers]  # type: ignore[arg-type]
        bias = torch.stack([bias for _, bias in parts]).sum(0)
        return FloatLayer(
            torch.cat([weight for weight, _ in parts], dim=1) / unit, bias / unit, readers, in_bits, out_bits
        )

    layers = {f"hyper.{name}": layer(f"hyper_decoder.{name}") for name in ("stem", "up_32", "up_16")}
    hidden_bits = hidden_format(model.config).bits
    for prefix, network in prior_networks(model).items():
        inputs = [part for part in STEM_INPUTS if getattr(network, part) is not None]
        layers[f"prior.{prefix}stem"] = layer(*(f"prior.{prefix}{part}" for part in inputs))
        for number in range(len(network.blocks)):
            name = f"prior.{prefix}blocks.{number}"
            layers[f"{name}.reduce"] = layer(f"{name}.reduce")
            layers[f"{name}.spatial"] = layer(f"{name}.spatial", in_bits=hidden_bits, out_bits=hidden_bits)
            layers[f"{name}.expand"] = layer(f"{name}.expand", in_bits=hidden_bits)
        layers[f"prior.{prefix}mean_head"] = layer(f"prior.{prefix}mean_head", out_bits=MEAN_BITS)
        layers[f"prior.{prefix}scale_head"] = layer(f"prior.{prefix}scale_head", unit=LOG_SCALE_STEP)
    return layers


def prior_networks(model: EntropyModel) -> dict[str, PriorNetwork]:
    """Return the prior's networks by the prefixes of their names."""
    return dict(zip(model.config.prior_networks, model.prior.networks, strict=True))


def flatten_convolution(layer: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Return weight [out, kh kw in] and bias [out] of a convolution, with inputs in the order of `neighbourhoods`."""
    assert layer.bias is not None
    return layer.weight.detach().permute(0, 2, 3, 1).flatten(1), layer.bias.detach()


def quantise_layer(name: str, layer: FloatLayer, moments: Tensor | None = None) -> dict[str, Tensor]:
    """Quantise a layer to 8-bit integers with a power-of-two scale per output channel.

    With `moments` of its inputs (see `round_with_compensation`), weights compensate for the rounding of others. Raises
    ModelError if a weight is too large.
    """
    weight, bias = layer.weight.double(), layer.bias.double()
    largest = weight.abs().amax(1).clamp(min=MAX_WEIGHT * 2.0**-MAX_EXPONENT)
    exponent = torch.floor(torch.log2(MAX_WEIGHT / largest)).clamp(min=layer.out_bits - layer.in_bits)
    scale = 2.0**exponent
    if float((largest * scale).max()) > MAX_WEIGHT + 0.5:
        limit = MAX_WEIGHT * 2.0 ** (layer.in_bits - layer.out_bits)
        raise ModelError(
            f"{name}: a weight of {float(largest.max()):.3g} is too large to code with; the limit is {limit:.3g}"
        )
    weight, bias = weight * scale[:, None], bias * scale
    if moments is None:
        integers = weight.round()
    else:
        integers, bias = round_with_compensation(weight, bias, moments, MAX_WEIGHT)
    return {
        f"{name}.weight": integers.to(torch.int8),
        f"{name}.bias": torch.round(bias * 2.0**layer.in_bits).to(torch.int64),
        f"{name}.exponent": exponent.to(torch.int8),
    }


def shift_mean_bias(tensors: Integers, changes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add changes [C] to the outputs of the networks' mean heads, in units of each channel's spread.

    `changes`: by the prefixes of the networks' names. Returns the new biases.
    """
    biases = {}
    for prefix, change in changes.items():
        head = f"prior.{prefix}mean_head"
        one = 2.0 ** (tensors[f"{head}.exponent"].double() + ACTIVATION_BITS)
        biases[f"{head}.bias"] = tensors[f"{head}.bias"] + torch.round(change * one).to(torch.int64)
    return biases


def _tables(model: EntropyModel) -> dict[str, Tensor]:
    """Return the tables [Q, ...] in units of the integers, float64."""
    prior, hyper = model.prior, model.hyper_decoder
    one = 2.0**ACTIVATION_BITS
    tables: dict[str, Tensor] = {}
    for prefix, network in prior_networks(model).items():
        biases = {name: part for name, part in network.named_modules() if isinstance(part, QualityTable)}
        tables |= {f"{prefix}{name}": _at_every_quality(bias) * one for name, bias in biases.items()}

    log_gain = _at_every_quality(prior.log_gain)
    noise = float(bin_noise_variance(torch.tensor(LATENT_LOG_SNR_0, dtype=torch.float64)))
    factor = 2.0 ** (ACTIVATION_BITS + FACTOR_BITS) / MEAN_GRID
    tables["estimate"] = log_gain.exp() / (log_gain.exp() ** 2 + noise) * factor
    tables["mean_gain"] = log_gain.exp() * MEAN_GRID * one
    tables["scale_offset"] = (log_gain - math.log(SCALE_MIN)) / LOG_SCALE_STEP * one
    tables["hyper_gain"] = _at_every_quality(hyper.log_gain).exp() * factor
    tables["hyper_mean"] = _at_every_quality(hyper.mean) * MEAN_GRID
    hyper_index = (_at_every_quality(hyper.log_scale) - math.log(SCALE_MIN)) / LOG_SCALE_STEP
    tables["hyper_index"] = hyper_index.clamp(0, N_SCALES - 1)
    return tables


def _at_every_quality(table: QualityTable) -> Tensor:
    """Evaluate a table at all quality levels: float64 [Q, C]."""
    quality = torch.arange(N_QUALITIES, dtype=torch.float64) / (N_QUALITIES - 1)
    with torch.no_grad():
        values: Tensor = table(quality)
    return values[:, :, 0, 0].double()
