"""Tensors on disk: safetensors shards below 15 MB, written so that a directory is either whole or absent."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ulcodec.errors import ModelError

SHARD_BYTES = 15_000_000


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


def load_weights(module: torch.nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into a module of the same names and shapes, converting dtypes. Raises ModelError otherwise."""
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise ModelError(f"weights do not fit the configuration: {str(error).splitlines()[-1].strip()}") from error
