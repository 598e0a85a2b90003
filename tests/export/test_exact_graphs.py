"""Integer layers in float32 against their definition, for inputs and weights of all magnitudes."""

import pytest
import torch

from ulcodec.coding.fixed_point import LARGEST_ACTIVATION, LARGEST_MEAN
from ulcodec.coding.integer_layers import IntegerLayer, StoredIntegers
from ulcodec.coding.products import HIDDEN, WIDE, Activations, Int64Product
from ulcodec.errors import ModelError
from ulcodec.export.exact_graphs import ExactLayer, quality_table

CPU = torch.device("cpu")


def layers(
    n_in: int, largest_weight: int, inputs: Activations = WIDE, largest_bias: int = 2**26
) -> tuple[IntegerLayer, ExactLayer]:
    """Make a layer with a shift of 0 to 18 at each output, and positive weights at the first."""
    generator = torch.Generator().manual_seed(n_in)
    exponent = torch.arange(19, dtype=torch.int8) - inputs.bits + 8
    weight = torch.randint(-largest_weight, largest_weight + 1, (19, n_in), generator=generator, dtype=torch.int8)
    weight[[0, 9]] = largest_weight
    bias = torch.randint(-largest_bias, largest_bias, (19,), generator=generator)
    tensors = {"layer.weight": weight, "layer.bias": bias, "layer.exponent": exponent}
    stored = StoredIntegers(tensors, Int64Product, CPU)
    return stored.layer("layer", 8, inputs), ExactLayer(stored, "layer", 8, inputs)


def assert_equal_after_clamp(integer: IntegerLayer, exact: ExactLayer, x: torch.Tensor) -> None:
    """Compare results after the widest clamp that follows a layer."""
    expected = integer(x).clamp(-LARGEST_MEAN, LARGEST_MEAN).float()
    assert torch.equal(exact(x.float()).clamp(-LARGEST_MEAN, LARGEST_MEAN), expected)


@pytest.mark.parametrize(("n_in", "largest_weight"), [(3, 127), (64, 127), (500, 127), (1024, 60)])
def test_rows_of_all_norms(n_in: int, largest_weight: int) -> None:
    integer, exact = layers(n_in, largest_weight)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-LARGEST_ACTIVATION, LARGEST_ACTIVATION + 1, (64, n_in), generator=generator)
    x = x >> torch.arange(64)[:, None] % 16
    x[0], x[1] = LARGEST_ACTIVATION, -LARGEST_ACTIVATION
    assert not exact.is_proven
    assert_equal_after_clamp(integer, exact, x.int())


@pytest.mark.parametrize(("largest_bias", "is_proven"), [(2**22, True), (2**26, False)])
def test_bytes(largest_bias: int, is_proven: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    integer, exact = layers(64, 127, HIDDEN, largest_bias)
    assert exact.is_proven is is_proven
    x = torch.randint(0, 256, (64, 64), generator=generator)
    x[0] = 255
    assert_equal_after_clamp(integer, exact, x.int())


def test_too_large_table() -> None:
    stored = StoredIntegers({"table.bias": torch.full((101, 4), 2**20 + 1)}, Int64Product, CPU)
    with pytest.raises(ModelError, match=r"table\.bias: values up to 1048577 exceed"):
        quality_table(stored, "bias")
