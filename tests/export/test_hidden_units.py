"""Hidden units of a prior, scaled to fill bytes."""

import copy
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from ulcodec.codec.image import Codec
from ulcodec.coding.products import LARGEST_HIDDEN
from ulcodec.export.float_runs import FileLatent, encoded, exact_means, run_layers
from ulcodec.export.hidden_units import chosen_factors, rounding_errors, scale_hidden_units
from ulcodec.model.prior import HIDDEN_LIMIT, PriorBlock


def test_errors_of_each_number_of_fraction_bits() -> None:
    errors = rounding_errors(torch.tensor([[0.03, 1.0, HIDDEN_LIMIT]]))
    assert errors[0] == torch.tensor(0.03).square()
    assert abs(errors[1] - (1 / 32 - 0.03) ** 2 - (HIDDEN_LIMIT - LARGEST_HIDDEN / 32) ** 2) < 1e-4
    assert errors.argmin() == 0


def test_scaled_units_are_closer_to_bytes_and_give_the_same_means(tiny_codec: Codec, picture: np.ndarray) -> None:
    networks = replace(tiny_codec.torch_networks("the test"), model=copy.deepcopy(tiny_codec.model))
    codec = replace(tiny_codec, networks=networks)
    file = encoded(codec, picture, 60)
    before, errors_before = exact_means(codec.model, file), relative_errors(codec, file)
    scale_hidden_units(codec, [picture], lambda _: (20, 60, 80))
    after, errors_after = exact_means(codec.model, file), relative_errors(codec, file)
    assert (after - before).abs().mean() < 0.01 * before.abs().mean(), "only clamped units differ"
    assert max(errors_after) <= max(errors_before)
    assert sum(errors_after) < 0.8 * sum(errors_before)


def test_factors_keep_weights_within_their_limits() -> None:
    block = PriorBlock(8, 2, HIDDEN_LIMIT)
    errors = torch.arange(9.0, 0, -1)  # the larger the factor, the better
    assert chosen_factors(block, errors, errors) == (256, 256)
    with torch.no_grad():
        block.reduce.weight[0, 0] = 1000.0
        block.spatial.weight[0, 0, 0, 0] = -0.6
    assert chosen_factors(block, errors, errors) == (2, 256), "reduce can be multiplied by 2.03, spatial by 211"
    with torch.no_grad():
        block.spatial.weight[0, 0, 0, 0] = 100.0
    assert chosen_factors(block, errors, errors) == (2, 2)


def relative_errors(codec: Codec, file: FileLatent) -> list[float]:
    """Errors of the prior's hidden units as bytes, in the order of the layers that read them."""
    errors: list[float] = []

    def record(layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        (hidden,) = arguments
        errors.append(float((rounding_errors(hidden)[0] / hidden.square().sum()).sqrt()))

    blocks = [block for block in codec.model.prior.modules() if isinstance(block, PriorBlock)]
    handles = [layer.register_forward_pre_hook(record) for block in blocks for layer in (block.spatial, block.expand)]
    for _ in run_layers(codec.model, file):
        pass
    for handle in handles:
        handle.remove()
    return errors
