"""Tensors on disk: safetensors shards below 15 MB, in directories that hold one version, old or new, at any moment.

A directory is written in a staging folder inside it, `.ulcodec-TOKEN.tmp`. Once its files are on the disk, that takes
the name `.ulcodec-TOKEN.ready`, and from then on the new version counts: its files move to their places one by one, and
whoever reads meanwhile takes those that have not moved from the folder. What others keep in the directory, or beside
it, is left alone.
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ulcodec.errors import ModelError
from ulcodec.io.files import keep_permissions, temporary_name

SHARD_BYTES = 15_000_000

GROUPS = ("model", "ema", "optimizer", "weights", "coding")
"""Groups of checkpoints and models; a directory holds no others beside those that are written."""

CONTENTS = "contents.list"
"""In a staging folder: the names of its files, so that those that have moved are known."""

SHARD_NAME = re.compile(r"(?P<group>\w+)-\d{5}\.safetensors")
DOCUMENT_NAME = re.compile(r"\w+\.json")
STAGING_NAME = re.compile(r"\.ulcodec-[0-9a-f]{16}\.(?P<state>tmp|ready)")

READING_ATTEMPTS = 100
Result = TypeVar("Result")


def pack_shards(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
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
    """Write tensors as `GROUP-00000.safetensors ...` and documents as `NAME.json`, all of them or none.

    They replace those of the same names, and shards that are left of a version before. Other files stay. Raises OSError
    if the disk is full, or the directory cannot be written.
    """
    made = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    staging = path / f"{temporary_name()}.tmp"
    try:
        recover_directory(path)
        staging.mkdir(mode=0o700)
        for group, tensors in groups.items():
            for index, shard in enumerate(pack_shards(tensors)):
                write_shard(shard, staging / f"{group}-{index:05d}.safetensors", path)
        for name, document in documents.items():
            (staging / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
        names = sorted(file.name for file in staging.iterdir())
        (staging / CONTENTS).write_text("\n".join(names))
        for file in staging.iterdir():
            with open(file, "r+b") as handle:
                os.fsync(handle.fileno())
        ready = staging.rename(staging.with_suffix(".ready"))
    except BaseException:
        discard(staging)
        if made:
            with suppress(OSError):
                path.rmdir()
        raise
    finish(ready)


def write_shard(shard: dict[str, Tensor], file: Path, directory: Path) -> None:
    """Write tensors to a file. Raises OSError, which names the directory."""
    try:
        save_file(shard, file)
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise OSError(f"{directory}: {error}") from error
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(directory)) from error


def recover_directory(path: Path) -> None:
    """Finish what a killed `write_directory` left: a version that is whole takes its place, any other is discarded.

    For the one process that writes the directory. Readers need not call it.
    """
    for staging in staging_folders(path):
        if staging.suffix == ".ready":
            finish(staging)
        else:
            discard(staging)


def staging_folders(path: Path) -> list[Path]:
    """The folders of writers that are at work, or were killed."""
    if not path.is_dir():
        return []
    return [path / name for name in sorted(os.listdir(path)) if STAGING_NAME.fullmatch(name)]


def finish(ready: Path) -> None:
    """Move the files of a version that is whole to their places; what was done already is not done again."""
    path, names = ready.parent, contents(ready)
    for name in names:
        if (ready / name).exists():
            keep_permissions(path / name, ready / name)
            os.replace(ready / name, path / name)
    for stale in stale_shards(path, names) if names else ():
        (path / stale).unlink()
    discard(ready)


def contents(ready: Path) -> list[str]:
    """Names of the files of a version that is whole; none if all of it is done."""
    try:
        names = (ready / CONTENTS).read_text().splitlines()
    except FileNotFoundError:
        return []
    return [name for name in names if is_ours(name)]


def stale_shards(path: Path, names: list[str]) -> list[str]:
    """Shards in a directory that a version of these files replaces by others, or by none."""
    groups = {*GROUPS, *(found["group"] for name in names if (found := SHARD_NAME.fullmatch(name)))}
    shards_there = (found for name in sorted(os.listdir(path)) if (found := SHARD_NAME.fullmatch(name)))
    return [found[0] for found in shards_there if found["group"] in groups and found[0] not in names]


def is_ours(name: str) -> bool:
    return bool(SHARD_NAME.fullmatch(name) or DOCUMENT_NAME.fullmatch(name))


def discard(staging: Path) -> None:
    """Remove a staging folder, but for files that no `write_directory` put there."""
    with suppress(FileNotFoundError):
        for name in os.listdir(staging):
            if is_ours(name) or name == CONTENTS:
                (staging / name).unlink()
        with suppress(OSError):
            staging.rmdir()


def stored_files(path: Path) -> dict[str, Path]:
    """Where the files of a directory's newest version are, by their names: those that have not moved yet too."""
    if not path.is_dir():
        return {}
    files = {name: path / name for name in os.listdir(path) if is_ours(name)}
    for ready in staging_folders(path):
        if ready.suffix == ".ready" and (names := contents(ready)):
            for stale in stale_shards(path, names):
                files.pop(stale, None)
            files |= {name: ready / name if (ready / name).exists() else path / name for name in names}
    return files


def is_written(path: Path) -> bool:
    """Whether a directory holds what `write_directory` writes, whole or damaged."""
    return bool(stored_files(path))


def read_consistently(path: Path, read: Callable[[], Result]) -> Result:
    """What `read` gives of a directory, read anew if a version took the place of another meanwhile."""
    for _ in range(READING_ATTEMPTS):
        before = version_of(path)
        try:
            result = read()
        except ModelError:
            if version_of(path) == before:
                raise
        else:
            if version_of(path) == before:
                return result
    raise ModelError(f"{path} is written again and again while it is read")


def version_of(path: Path) -> dict[str, tuple[int, int, int]]:
    """Tells one version of a directory's files from another, wherever they are."""
    version = {}
    for name, file in stored_files(path).items():
        with suppress(FileNotFoundError):
            found = file.stat()
            version[name] = (found.st_ino, found.st_size, found.st_mtime_ns)
    return version


def read_tensors(path: Path, group: str) -> dict[str, Tensor]:
    """All tensors of a group written by `write_directory`. Raises ModelError if there are none or one is damaged."""
    stored = stored_files(path)
    files = [
        stored[name] for name in sorted(stored) if (found := SHARD_NAME.fullmatch(name)) and found["group"] == group
    ]
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
    file = stored_files(path).get(f"{name}.json", path / f"{name}.json")
    try:
        document = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"{file}: {error}") from error
    if not isinstance(document, dict):
        raise ModelError(f"{file}: not a JSON object")
    return document
