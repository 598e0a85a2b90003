"""Tensors on disk: safetensors shards below 15 MB, written so that a directory is either whole or absent."""

import errno
import glob
import json
import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ulcodec.errors import ModelError

SHARD_BYTES = 15_000_000
MANIFEST = "manifest"
"""Names the files of a folder that waits to be moved."""

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
    """Write tensors as `GROUP-00000.safetensors ...` and documents as `NAME.json`, all or none.

    A new directory takes its name when its files are on the disk. In one that exists they are first collected in a
    folder `.ulcodec-NAME-TOKEN.ready`, from which `recover_directory` moves them into their places. Nothing else in
    or beside the directory is touched. Raises OSError, with the directory as it was.
    """
    recover_directory(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    parent = path if path.exists() else path.parent
    for left in parent.glob(f".ulcodec-{glob.escape(path.name)}-*.tmp"):
        discard(left)
    staging = parent / f".ulcodec-{path.name}-{secrets.token_hex(8)}.tmp"
    staging.mkdir()
    try:
        fill_directory(staging, groups, documents)
        if parent is path:
            names = sorted(file.name for file in staging.iterdir())
            (staging / MANIFEST).write_text(json.dumps(names))
        for file in staging.iterdir():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
        staging.rename(staging.with_suffix(".ready") if parent is path else path)
    except Exception:
        discard(staging)
        raise
    recover_directory(path)


def fill_directory(path: Path, groups: Mapping[str, Mapping[str, Tensor]], documents: Mapping[str, Any]) -> None:
    for group, tensors in groups.items():
        for index, shard in enumerate(shards(tensors)):
            file = path / f"{group}-{index:05d}.safetensors"
            try:
                save_file(shard, file)
            except SafetensorError as error:
                raise OSError(errno.EIO, str(error), str(file)) from error
    for name, document in documents.items():
        (path / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")


def recover_directory(path: Path) -> None:
    """Finish a `write_directory` that was killed after all its files were on the disk; others may do so meanwhile."""
    for ready in sorted(path.glob(f".ulcodec-{glob.escape(path.name)}-*.ready")):
        with suppress(FileNotFoundError):
            names = json.loads((ready / MANIFEST).read_text())
            for name in names:
                with suppress(FileNotFoundError):
                    os.replace(ready / name, path / name)
            for group in {name.rpartition("-")[0] for name in names if name.endswith(".safetensors")}:
                for shard in path.glob(f"{group}-[0-9][0-9][0-9][0-9][0-9].safetensors"):
                    if shard.name not in names:
                        shard.unlink(missing_ok=True)
        discard(ready)


def discard(folder: Path) -> None:
    """Remove a folder of `write_directory` with the files that it puts there; anything else keeps it."""
    for file in [*folder.glob("*.safetensors"), *folder.glob("*.json"), folder / MANIFEST]:
        file.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


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
