"""Networks that hold the weights of stored tensors."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from ulcodec.errors import ModelError
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.store.model_directory import open_model
from ulcodec.store.networks import load_weights


def test_modules_refuse_weights_that_do_not_fit() -> None:
    layer = nn.Linear(2, 3)
    weights = {"weight": torch.ones(3, 2, dtype=torch.float16), "bias": torch.zeros(3, dtype=torch.float16)}
    load_weights(layer, weights)
    assert layer.weight.dtype == torch.float32
    assert layer.weight.detach().eq(1).all()
    for wrong in ({"weight": weights["weight"]}, weights | {"bias": torch.zeros(4)}, weights | {"more": torch.ones(1)}):
        with pytest.raises(ModelError, match="weights do not fit the configuration"):
            load_weights(layer, wrong)


@pytest.mark.parametrize("model", ["tiny", "small"])
def test_networks_hold_the_stored_weights(model: str, tiny_model_dir: Path) -> None:
    """Weights are the same bit for bit, in the layout of a network that is made, filled and moved in separate steps."""
    stored, device = open_model(tiny_model_dir if model == "tiny" else model), torch.device("cpu")
    before = torch.get_rng_state()
    network = stored.networks(device)
    assert torch.equal(torch.get_rng_state(), before)
    expected = UnifiedLatentModel(stored.config)
    load_weights(expected, stored.weights)
    expected.to(device, memory_format=torch.channels_last)
    assert dict(network.state_dict()).keys() == stored.weights.keys()
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    for name, tensor in (dict(expected.named_parameters()) | dict(expected.named_buffers())).items():
        assert tensors[name].dtype == torch.float32
        assert torch.equal(tensors[name], tensor)
        assert tensors[name].stride() == tensor.stride()
        assert not tensors[name].requires_grad
        if name in stored.weights:
            assert torch.equal(tensors[name], stored.weights[name].float())
    assert not any(module.training for module in network.modules())


def test_networks_refuse_weights_that_do_not_fit(tiny_model_dir: Path) -> None:
    stored = open_model(tiny_model_dir)
    name = "encoder.stem.weight"
    without = {key: value for key, value in stored.weights.items() if key != name}
    for wrong in (without, stored.weights | {name: torch.zeros(1)}, stored.weights | {"more": torch.zeros(1)}):
        with pytest.raises(ModelError, match="weights do not fit the configuration"):
            dataclasses.replace(stored, weights=wrong).networks(torch.device("cpu"))
