"""Tensors on disk: safetensors shards below 15 MB, in directories that hold one whole version at any moment.

A new version is written to a staging folder inside the directory, `.ulcodec-TOKEN.tmp`. Once its files are on the disk,
the folder is renamed to `.ulcodec-TOKEN.ready`. From then on the new version counts. Its files then move into the
directory one by one; readers take files that have not moved yet from the staging folder. Files that this module did not
write are never changed, neither in the directory nor beside it.
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays

from ulcodec.errors import ModelError
from ulcodec.io.files import keep_permissions, temporary_name

if TYPE_CHECKING:
    from torch import Tensor

SHARD_BYTES = 15_000_000

GROUPS = ("model", "ema", "optimizer", "weights", "coding", "video_weights", "video_coding", "refiner")
"""Groups of checkpoints and models. A new version replaces the shards of all of them, even if it has no such group."""

GRAPHS = "graphs"
"""Name of the document that describes the ONNX graphs of a model directory, `NAME.onnx`."""

CONTENTS = "contents.list"
"""File in a staging folder that lists the version's files, including those that have moved already."""

SHARD_NAME = re.compile(r"(?P<group>\w+)-\d{5}\.safetensors")
DOCUMENT_NAME = re.compile(r"\w+\.json")
STAGING_NAME = re.compile(r"\.ulcodec-[0-9a-f]{16}\.(?P<state>tmp|ready)")

READING_ATTEMPTS = 100
Result = TypeVar("Result")
Loaded = TypeVar("Loaded")


def pack_shards(tensors: Mapping[str, "Tensor"]) -> list[dict[str, "Tensor"]]:
    """Pack tensors, in their order, into dictionaries of less than `SHARD_BYTES`, or of one larger tensor."""
    packed: list[dict[str, Tensor]] = [{}]
    size_bytes = 0
    for name, tensor in tensors.items():
        if packed[-1] and size_bytes + tensor.nbytes > SHARD_BYTES * 0.99:
            packed.append({})
            size_bytes = 0
        packed[-1][name] = tensor.detach().cpu().contiguous()
        size_bytes += tensor.nbytes
    return packed


def write_directory(path: Path, groups: Mapping[str, Mapping[str, "Tensor"]], documents: Mapping[str, Any]) -> None:
    """Write tensors as `GROUP-00000.safetensors ...` and documents as `NAME.json`, all of them or none.

    They replace files of the same names, and shards of the version before. Other files stay. Raises OSError if the disk
    is full, or if the directory cannot be written.
    """
    is_new = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    staging = path / f"{temporary_name()}.tmp"
    try:
        recover_directory(path)
        staging.mkdir(mode=0o700)
        _write_files(staging, groups, documents)
        ready = staging.rename(staging.with_suffix(".ready"))
    except BaseException:
        _discard(staging)
        if is_new:
            with suppress(OSError):
                path.rmdir()
        raise
    _install(ready)


def _write_files(staging: Path, groups: Mapping[str, Mapping[str, "Tensor"]], documents: Mapping[str, Any]) -> None:
    """Write a version and the list of its files to a staging folder, and wait until they are on the disk."""
    for group, tensors in groups.items():
        for index, shard in enumerate(pack_shards(tensors)):
            _write_shard(shard, staging / f"{group}-{index:05d}.safetensors", staging.parent)
    for name, document in documents.items():
        (staging / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    names = sorted(file.name for file in staging.iterdir())
    (staging / CONTENTS).write_text("\n".join(names))
    usual_mode = (staging / CONTENTS).stat().st_mode & 0o777
    for file in staging.glob("*.safetensors"):
        file.chmod(usual_mode)  # safetensors lets only the owner read
    for file in staging.iterdir():
        with open(file, "r+b") as handle:
            os.fsync(handle.fileno())


def _write_shard(shard: dict[str, "Tensor"], file: Path, directory: Path) -> None:
    """Write tensors to a file. Raises OSError that names the directory."""
    from safetensors.torch import save_file

    try:
        save_file(shard, file)
    except SafetensorError as error:
        match = re.search(r"os error (\d+)", str(error))
        if match is None:
            raise OSError(f"{directory}: {error}") from error
        raise OSError(int(match[1]), os.strerror(int(match[1])), str(directory)) from error


def recover_directory(path: Path) -> None:
    """Clean up after a killed `write_directory`: install a whole version, discard an incomplete one.

    Only the process that writes the directory may call it. Readers need not.
    """
    for staging in _staging_folders(path):
        if staging.suffix == ".ready":
            _install(staging)
        else:
            _discard(staging)


def _staging_folders(path: Path) -> list[Path]:
    """Return the staging folders of writers that are at work, or that were killed."""
    if not path.is_dir():
        return []
    return [path / name for name in sorted(os.listdir(path)) if STAGING_NAME.fullmatch(name)]


def _install(ready: Path) -> None:
    """Move the files of a whole version into the directory; continues where a killed process stopped."""
    path, names = ready.parent, _listed_files(ready)
    for name in names:
        if (ready / name).exists():
            keep_permissions(path / name, ready / name)
            os.replace(ready / name, path / name)
    for stale in _stale_shards(path, names) if names else ():
        (path / stale).unlink()
    _discard(ready)


def _listed_files(ready: Path) -> list[str]:
    """Return the names of the files of a whole version; none if it is installed completely."""
    try:
        names = (ready / CONTENTS).read_text().splitlines()
    except FileNotFoundError:
        return []
    return [name for name in names if _is_ours(name)]


def _stale_shards(path: Path, names: list[str]) -> list[str]:
    """Return the shards in a directory that are no part of a version with files `names`, which replaces them."""
    groups = {*GROUPS, *(match["group"] for name in names if (match := SHARD_NAME.fullmatch(name)))}
    shards = (match for name in sorted(os.listdir(path)) if (match := SHARD_NAME.fullmatch(name)))
    return [match[0] for match in shards if match["group"] in groups and match[0] not in names]


def _is_ours(name: str) -> bool:
    """Whether `write_directory` writes files of this name."""
    return bool(SHARD_NAME.fullmatch(name) or DOCUMENT_NAME.fullmatch(name))


def _discard(staging: Path) -> None:
    """Remove a staging folder, except for files that `write_directory` did not put there."""
    with suppress(FileNotFoundError):
        for name in os.listdir(staging):
            if _is_ours(name) or name == CONTENTS:
                (staging / name).unlink()
        with suppress(OSError):
            staging.rmdir()


def stored_files(path: Path) -> dict[str, Path]:
    """Map the names of the files of a directory's newest version to their paths, there or in a staging folder."""
    if not path.is_dir():
        return {}
    files = {name: path / name for name in os.listdir(path) if _is_ours(name)}
    for ready in _staging_folders(path):
        if ready.suffix == ".ready" and (names := _listed_files(ready)):
            for stale in _stale_shards(path, names):
                files.pop(stale, None)
            files |= {name: ready / name if (ready / name).exists() else path / name for name in names}
    return files


def is_written(path: Path) -> bool:
    """Whether a directory holds files of `write_directory`, whole or damaged."""
    return bool(stored_files(path))


def read_consistently(path: Path, read: Callable[[], Result]) -> Result:
    """Return the result of `read` for one version of a directory: reads again if a writer replaced the version.

    Raises ModelError from `read`, or if every attempt met a new version.
    """
    for _ in range(READING_ATTEMPTS):
        before = _version_of(path)
        try:
            result = read()
        except ModelError:
            if _version_of(path) == before:
                raise
        else:
            if _version_of(path) == before:
                return result
    raise ModelError(
        f"{path} changed during each of {READING_ATTEMPTS} attempts to read it; stop its writer, or copy it"
    )


def _version_of(path: Path) -> dict[str, tuple[int, int, int]]:
    """Return the inode, size and time of each file of a directory: they differ between versions."""
    version = {}
    for name, file in stored_files(path).items():
        with suppress(FileNotFoundError):
            status = file.stat()
            version[name] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return version


def read_tensors(path: Path, group: str) -> dict[str, "Tensor"]:
    """Read all tensors of a group. Raises ModelError if there are none, or if a file is damaged."""
    from safetensors.torch import load_file

    return _read_group(path, group, load_file)


def read_arrays(path: Path, group: str) -> dict[str, NDArray[Any]]:
    """Read all tensors of a group as arrays, without torch. Raises as `read_tensors`."""
    return _read_group(path, group, load_arrays)


def _read_group(path: Path, group: str, load: Callable[[Path], dict[str, Loaded]]) -> dict[str, Loaded]:
    stored = stored_files(path)
    files = [
        stored[name] for name in sorted(stored) if (match := SHARD_NAME.fullmatch(name)) and match["group"] == group
    ]
    if not files:
        raise ModelError(f"{path}: no files {group}-*.safetensors")
    tensors: dict[str, Loaded] = {}
    for file in files:
        try:
            loaded = load(file)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{file}: {error}") from error
        except (KeyError, TypeError, AttributeError) as error:  # types of numbers that NumPy does not have
            raise ModelError(f"{file}: a tensor of a type that cannot be read: {error}") from error
        if twice := tensors.keys() & loaded.keys():
            raise ModelError(f"{file}: {min(twice)} is in another file, too: the directory holds files of two models")
        tensors.update(loaded)
    return tensors


class TensorPlace(NamedTuple):
    """Where the bytes of a tensor are: name of a file in a directory, first byte, and number of bytes."""

    file: str
    offset: int
    n_bytes: int


def tensor_places(path: Path, group: str) -> dict[str, TensorPlace]:
    """Return the places of all tensors of a group, in a directory that no process writes to.

    Raises ModelError if a file is damaged.
    """
    places: dict[str, TensorPlace] = {}
    for file in sorted(path.glob(f"{group}-*.safetensors")):
        try:
            with open(file, "rb") as handle:
                n_header = int.from_bytes(handle.read(8), "little")
                header = json.loads(handle.read(n_header))
        except (OSError, ValueError) as error:
            raise ModelError(f"{file}: {error}") from error
        for name, entry in header.items():
            if name != "__metadata__":
                start, end = entry["data_offsets"]
                places[name] = TensorPlace(file.name, 8 + n_header + start, end - start)
    return places


def read_document(path: Path, name: str) -> dict[str, Any]:
    """Read the JSON object `NAME.json`. Raises ModelError if it is missing or damaged."""
    file = stored_files(path).get(f"{name}.json", path / f"{name}.json")
    try:
        document = json.loads(file.read_text())
    except OSError as error:
        raise ModelError(f"{file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file}: {error}") from error
    if not isinstance(document, dict):
        raise ModelError(f"{file}: expected a JSON object, got {type(document).__name__}")
    return document
