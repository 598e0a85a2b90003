"""Scale the hidden units of a prior's blocks so that bytes hold them with the least error.

The scale of a ReLU network's hidden units is free: layers before and after it can absorb a factor (cross-layer
equalisation, Nagel et al. 2019, arXiv 1906.04721). Here it is a power of two for each layer, which is exact in floats.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ulcodec.codec.image import Codec
from ulcodec.codec.pixels import grid_of
from ulcodec.coding.products import ACTIVATION_BITS, LARGEST_HIDDEN, MAX_WEIGHT
from ulcodec.export.float_runs import encoded, run_layers
from ulcodec.model.prior import HIDDEN_BITS, PriorBlock
from ulcodec.progress import tracked

MOST_BITS = 12
"""Largest number of fraction bits that is tried."""


@torch.no_grad()
def scale_hidden_units(codec: Codec, pictures: Sequence[NDArray[np.uint8]], qualities: Sequence[int]) -> None:
    """Scale the hidden units of the codec's float prior in place, for the files of pictures uint8 [H, W, 3]."""
    blocks = [block for block in codec.model.prior.modules() if isinstance(block, PriorBlock)]
    errors: dict[nn.Module, Tensor] = {
        layer: torch.zeros(MOST_BITS + 1 - HIDDEN_BITS) for block in blocks for layer in _readers(block)
    }

    def add_errors(layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        errors[layer] += rounding_errors(arguments[0].float()).cpu()

    handles = [layer.register_forward_pre_hook(add_errors) for layer in errors]
    try:
        for pixels in tracked(pictures):
            for quality in qualities:
                for _ in run_layers(codec, encoded(codec, pixels, quality), quality, grid_of(*pixels.shape[:2])):
                    pass  # the hooks add the errors
    finally:
        for handle in handles:
            handle.remove()
    for block in blocks:
        _multiply(block, *chosen_factors(block, *(errors[layer] for layer in _readers(block))))


def _readers(block: PriorBlock) -> tuple[nn.Conv2d, nn.Conv2d]:
    """The layers whose inputs are hidden units."""
    return block.spatial, block.expand


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


def _multiply(block: PriorBlock, first: float, second: float) -> None:
    """Multiply the hidden units before and after `spatial`. The block's output stays the same where no unit clips."""
    assert block.reduce.bias is not None
    assert block.spatial.bias is not None
    for values in (block.reduce.weight, block.reduce.bias, block.bias.values):
        values.mul_(first)
    block.spatial.weight.mul_(second / first)
    block.spatial.bias.mul_(second)
    block.expand.weight.div_(second)
