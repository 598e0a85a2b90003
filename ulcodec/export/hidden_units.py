"""Scale the hidden units of a prior's blocks so that bytes hold them with the least error.

The scale of a ReLU network's hidden units is free: layers before and after it can absorb a factor (cross-layer
equalisation, Nagel et al. 2019, arXiv 1906.04721). Here it is a power of two for each layer, which is exact in floats.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ulcodec.coding.fixed_point import ACTIVATION_BITS
from ulcodec.coding.products import LARGEST_HIDDEN, MAX_WEIGHT
from ulcodec.export.float_runs import Coding, QualitiesOf, Source, recorded_inputs
from ulcodec.model.config import HIDDEN_BITS
from ulcodec.model.prior import PriorBlock, hidden_factors

MOST_BITS = 12
"""Largest number of fraction bits that is tried."""

READERS = "spatial", "expand"
"""The layers of a block whose inputs are hidden units."""


@torch.no_grad()
def scale_hidden_units(coding: Coding[Source], sources: Sequence[Source], qualities_of: QualitiesOf[Source]) -> None:
    """Scale the hidden units of a float prior in place, for the files of sources."""
    modules = coding.model.named_modules()
    blocks = {name: block for name, block in modules if isinstance(block, PriorBlock)}
    no_errors = torch.zeros(MOST_BITS + 1 - HIDDEN_BITS)
    errors = {f"{name}.{layer}": no_errors for name in blocks for layer in READERS}
    for inputs in recorded_inputs(coding, errors, sources, qualities_of):
        for layer, hidden in inputs.items():
            errors[layer] = errors[layer] + rounding_errors(hidden).cpu()
    for name, block in blocks.items():
        factors = hidden_factors(*chosen_factors(block, *(errors[f"{name}.{layer}"] for layer in READERS)))
        for part, parameter in block.named_parameters():
            parameter.mul_(factors.get(part, 1.0))


def rounding_errors(hidden: Tensor) -> Tensor:
    """Sum the squared errors of hidden units as bytes of `HIDDEN_BITS` to `MOST_BITS` fraction bits, float32."""
    steps = [2.0**bits for bits in range(HIDDEN_BITS, MOST_BITS + 1)]
    rounded = ((hidden * step).round_().clamp_(0, LARGEST_HIDDEN) / step for step in steps)
    return torch.stack([(values - hidden).square_().sum() for values in rounded])


def chosen_factors(block: PriorBlock, first_errors: Tensor, second_errors: Tensor) -> tuple[float, float]:
    """Choose the factors of the hidden units before and after `spatial`: those of the least errors.

    Errors are by the number of bits above `HIDDEN_BITS`. Weights stay within the limits of their integers.
    """
    factors = 2.0 ** torch.arange(len(first_errors))
    reduce_limit = MAX_WEIGHT * 2.0 ** (ACTIVATION_BITS - HIDDEN_BITS)
    fits = factors * block.reduce.weight.abs().max().cpu() <= reduce_limit
    first = factors[first_errors.where(fits | (factors == 1), torch.inf).argmin()]
    fits = factors / first * block.spatial.weight.abs().max().cpu() <= MAX_WEIGHT
    second = factors[second_errors.where(fits | (factors == 1), torch.inf).argmin()]
    return float(first), float(second)
