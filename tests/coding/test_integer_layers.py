"""Integer layers are exact, and layers that may be inexact are refused."""

import pytest
import torch
from torch.nn import functional as F

from ulcodec.coding.fixed_point import ACTIVATION_BITS
from ulcodec.coding.integer_layers import StoredIntegers, pixel_shuffle
from ulcodec.coding.products import HIDDEN, PRODUCTS, WIDE, Activations, is_exact, neighbourhoods
from ulcodec.coding.quantise_prior import integer_tensors
from ulcodec.errors import ModelError
from ulcodec.model.unified import UnifiedLatentModel

CPU = torch.device("cpu")


@pytest.mark.parametrize(("part", "inputs"), [("reduce", WIDE), ("expand", HIDDEN)])
@pytest.mark.parametrize("name", PRODUCTS)
def test_layers_are_exact_at_the_limits(
    tiny_model: UnifiedLatentModel, name: str, part: str, inputs: Activations
) -> None:
    if not is_exact(name, CPU):
        pytest.skip(f"{name} products are not exact on this processor")
    tensors, layer_name = integer_tensors(tiny_model), f"prior.passes.1.blocks.0.{part}"
    layer = StoredIntegers(tensors, PRODUCTS[name], CPU).layer(layer_name, inputs=inputs)
    weight, bias, exponent = (tensors[f"{layer_name}.{tensor}"].long() for tensor in ("weight", "bias", "exponent"))
    x = torch.randint(inputs.least, inputs.largest + 1, (50, weight.shape[1]))
    x[0], x[1], x[2] = inputs.largest, inputs.least, torch.where(weight[0] > 0, inputs.largest, inputs.least)
    sums = (x @ weight.T + bias).double() / 2.0 ** (exponent + inputs.bits - ACTIVATION_BITS)
    assert torch.equal(layer(x.to(torch.int32)).double(), (sums + 0.5).floor())


@pytest.mark.parametrize("name", PRODUCTS)
def test_layer_of_one_input_channel_is_exact(name: str) -> None:
    if not is_exact(name, CPU):
        pytest.skip(f"{name} products are not exact on this processor")
    weight = torch.randint(-127, 128, (64, 1))
    tensors = {"layer.weight": weight, "layer.bias": torch.zeros(64).long(), "layer.exponent": torch.zeros(64).long()}
    layer = StoredIntegers(tensors, PRODUCTS[name], CPU).layer("layer")
    x = torch.randint(WIDE.least, WIDE.largest + 1, (20, 1))
    expected = ((x @ weight.T).double() / 2.0 ** (WIDE.bits - ACTIVATION_BITS) + 0.5).floor()
    assert torch.equal(layer(x.to(torch.int32)).double(), expected)


def positions_of(x: torch.Tensor) -> torch.Tensor:
    """[1, C, h, w] -> [N, C]"""
    return x[0].flatten(1).T


def test_neighbourhoods_and_pixel_shuffle_match_torch() -> None:
    grid = (7, 10)
    x = torch.randn(1, 3, *grid, dtype=torch.float64)
    weight = torch.randn(5, 3, 3, 3, dtype=torch.float64)
    product = neighbourhoods(positions_of(x), grid) @ weight.permute(0, 2, 3, 1).flatten(1).T
    torch.testing.assert_close(product, positions_of(F.conv2d(x, weight, padding=1)))
    wide = torch.randn(1, 12, *grid)
    assert torch.equal(pixel_shuffle(wide.permute(0, 2, 3, 1)), F.pixel_shuffle(wide, 2).permute(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [("weight", 127, "sums may leave 32 bits"), ("weight", 128, "out of range"), ("bias", 2**30, "sums may leave"),
     ("exponent", -1, "out of range"), ("exponent", 40, "out of range")],
)  # fmt: skip
def test_layers_that_may_be_inexact_are_refused(part: str, value: int, message: str) -> None:
    parts = {"weight": torch.ones(4, 1152), "bias": torch.zeros(4), "exponent": torch.ones(4)}
    parts["weight"][0, :500] = 100
    tensors = {f"layer.{name}": tensor.long() for name, tensor in parts.items()}
    stored = StoredIntegers(tensors, PRODUCTS["int64"], CPU)
    stored.layer("layer")
    tensors[f"layer.{part}"][0] = value
    with pytest.raises(ModelError, match=f"layer: .*{message}"):
        stored.layer("layer")


def test_bytes_with_too_large_weights_are_refused() -> None:
    """Halves of activations times such weights are not exact in float32."""
    name, n_in = "prior.passes.0.blocks.0.spatial", 1152
    tensors = {f"{name}.exponent": torch.zeros(1, dtype=torch.int8), f"{name}.bias": torch.zeros(1, dtype=torch.int64)}
    for weight, fits in ((113, True), (114, False)):
        tensors[f"{name}.weight"] = torch.full((1, n_in), weight, dtype=torch.int8)
        stored = StoredIntegers(tensors, PRODUCTS["float32"], CPU)
        if not fits:
            with pytest.raises(ModelError, match="sums may leave 32 bits"):
                stored.layer(name, HIDDEN.bits, HIDDEN)
            continue
        layer, x = stored.layer(name, HIDDEN.bits, HIDDEN), torch.full((1, n_in), 127, dtype=torch.int32)
        x[0, 0] = 126
        assert int(layer(x)) == 113 * (127 * n_in - 1)
