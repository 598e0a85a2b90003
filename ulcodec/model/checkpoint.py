"""Tensors on disk: safetensors shards below 15 MB, written so that a directory is either whole or absent."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ulcodec.errors import ModelError

SHARD_BYTES = 15_000_000

Network = TypeVar("Network", bound=nn.Module)


def shards(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Tensors in their order, packed into dictionaries of less than `SHARD_BYTES` (a larger tensor stands alone)."""
    packed: list[dict[str, Tensor]] = [{}]
    size_bytes = 0
    for name, tensor in tensors.items():
        if packed[-1] and size_bytes + tensor.nbytes > SHARD_BYTES * 0.99:
            packed.append({})
            size_bytes = 0
        packed[-1][name] = tensor.detach().cpu().contiguous()
        size_bytes += tensor.nbytes
    return packed


def write_directory(path: Path, groups: Mapping[str, Mapping[str, Tensor]], documents: Mapping[str, Any]) -> None:
    """Write tensors as `GROUP-00000.safetensors ...` and documents as `NAME.json`, replacing `path` as a whole."""
    partial, old = path.with_name(path.name + ".partial"), path.with_name(path.name + ".old")
    recover_directory(path)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for group, tensors in groups.items():
        for index, shard in enumerate(shards(tensors)):
            save_file(shard, partial / f"{group}-{index:05d}.safetensors")
    for name, document in documents.items():
        (partial / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    for file in partial.iterdir():
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())
    if path.exists():
        path.rename(old)
    partial.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def recover_directory(path: Path) -> None:
    """Finish a `write_directory` that was killed between its two renames."""
    old = path.with_name(path.name + ".old")
    if old.exists() and not path.exists():
        old.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def read_tensors(path: Path, group: str) -> dict[str, Tensor]:
    """All tensors of a group written by `write_directory`. Raises ModelError if there are none or one is damaged."""
    files = sorted(path.glob(f"{group}-*.safetensors"))
    if not files:
        raise ModelError(f"{path}: no {group} weights")
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            tensors.update(load_file(file))
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file}: {error}") from error
    return tensors


def read_document(path: Path, name: str) -> dict[str, Any]:
    """A JSON object written by `write_directory`. Raises ModelError."""
    file = path / f"{name}.json"
    try:
        document = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"{file}: {error}") from error
    if not isinstance(document, dict):
        raise ModelError(f"{file}: not a JSON object")
    return document


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into a module of the same names and shapes, converting dtypes. Raises ModelError otherwise."""
    set_weights(module, tensors, assign=False)


def load_network(make: Callable[[], Network], tensors: Mapping[str, Tensor], device: torch.device) -> Network:
    """Make a float32 network that holds these tensors, ready to run on the device: channels last, without gradients.

    Raises ModelError if names or shapes differ.
    """
    with SkipInitialisation():
        network = make()
    # Conversion, device and layout in one copy, in place of one each: the tensors are mapped from their files.
    placed = {
        name: tensor.to(device, torch.float32, memory_format=layout_of(tensor)) for name, tensor in tensors.items()
    }
    set_weights(network, placed, assign=True)
    ready: Network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return ready.eval().requires_grad_(False)


def layout_of(tensor: Tensor) -> torch.memory_format:
    """Channels last for the weights of convolutions, as `Module.to` chooses."""
    return torch.channels_last if tensor.ndim == 4 else torch.preserve_format


class SkipInitialisation(TorchFunctionMode):
    """Leaves the weights of modules made within as memory happens to be: random ones take longer than reading them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return options["tensor"] if "tensor" in options else args[0]
        return func(*args, **options)


def set_weights(module: nn.Module, tensors: Mapping[str, Tensor], *, assign: bool) -> None:
    """Copy tensors into a module's parameters, or put them in their place. Raises ModelError if they do not fit."""
    try:
        module.load_state_dict(dict(tensors), assign=assign)
    except RuntimeError as error:
        raise ModelError(f"weights do not fit the configuration: {str(error).splitlines()[-1].strip()}") from error
