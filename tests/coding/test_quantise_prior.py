"""Quantisation of the float prior to integers."""

import pytest
import torch

from ulcodec.coding.integer_layers import MAX_EXPONENT
from ulcodec.coding.integer_prior import MEAN_BITS
from ulcodec.coding.quantise_prior import FloatLayer, quantise_layer
from ulcodec.errors import ModelError


@pytest.mark.parametrize("size", [1e-4, 0.01, 1.0, 60.0])
def test_layers_keep_the_precision_of_their_scale(size: float) -> None:
    weight = size * torch.rand(3, 8, generator=torch.Generator().manual_seed(0))
    tensors = quantise_layer("layer", FloatLayer(weight, torch.zeros(3), ()))
    scale = 2.0 ** tensors["layer.exponent"].float()[:, None]
    assert (tensors["layer.weight"] / scale - weight).abs().max() <= 0.5 / scale.min()
    assert tensors["layer.exponent"].max() <= MAX_EXPONENT


def test_weights_too_large_to_code_with_are_refused() -> None:
    with pytest.raises(ModelError, match="a weight of 3 is too large"):
        quantise_layer("layer", FloatLayer(torch.full((2, 8), 3.0), torch.zeros(2), (), out_bits=MEAN_BITS))
