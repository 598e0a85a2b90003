"""Load stored tensors into networks."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ulcodec.errors import ModelError

Network = TypeVar("Network", bound=nn.Module)


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into a module, converting dtypes. Raises ModelError if names or shapes differ."""
    _set_weights(module, tensors, assign=False)


def load_network(make: Callable[[], Network], tensors: Mapping[str, Tensor], device: torch.device) -> Network:
    """Make a float32 network that holds `tensors`, ready to run on a device: channels last, without gradients.

    Raises ModelError if names or shapes differ.
    """
    with _SkipInitialisation():
        network = make()
    # One copy converts dtype, device and layout: the tensors are memory-mapped from their files.
    converted = {
        name: tensor.to(device, torch.float32, memory_format=_layout_of(tensor)) for name, tensor in tensors.items()
    }
    _set_weights(network, converted, assign=True)
    return placed(network, device).eval().requires_grad_(False)


def placed(network: Network, device: torch.device) -> Network:
    """Move a network to a device: channels last for pictures; networks of clips are as fast as they are."""
    if any(parameter.ndim == 5 for parameter in network.parameters()):
        return network.to(device)
    moved: Network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def _layout_of(tensor: Tensor) -> torch.memory_format:
    """Return channels last for the weights of convolutions, as `Module.to` does."""
    return torch.channels_last if tensor.ndim == 4 else torch.preserve_format


class _SkipInitialisation(TorchFunctionMode):
    """Context in which new modules keep uninitialised weights: drawing them takes longer than reading stored ones."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return options["tensor"] if "tensor" in options else args[0]
        return func(*args, **options)


def _set_weights(module: nn.Module, tensors: Mapping[str, Tensor], *, assign: bool) -> None:
    """Copy tensors into a module's parameters, or assign them. Raises ModelError if names or shapes differ."""
    try:
        module.load_state_dict(dict(tensors), assign=assign)
    except RuntimeError as error:
        raise ModelError(f"weights do not fit the configuration: {str(error).splitlines()[-1].strip()}") from error
