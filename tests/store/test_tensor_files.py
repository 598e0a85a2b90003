"""Directories of tensors: a directory holds one whole version or none, in files no larger than a shard."""

import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from ulcodec.errors import ModelError
from ulcodec.store import tensor_files as tensor_files
from ulcodec.store.tensor_files import (
    SHARD_BYTES,
    is_written,
    pack_shards,
    read_consistently,
    read_document,
    read_tensors,
    recover_directory,
    write_directory,
)

Damage = Callable[[Path], object]


def version(number: int) -> dict[str, dict[str, Tensor]]:
    return {"weights": {"a": torch.full((3, 2), float(number)), "b": torch.tensor(number)}}


def write_version(path: Path, number: int) -> None:
    write_directory(path, version(number), {"config": {"number": number}})


def version_at(path: Path) -> int:
    """Return the version that a directory holds, after checking that it is whole."""
    number = read_document(path, "config")["number"]
    stored = read_tensors(path, "weights")
    assert {name: tensor.tolist() for name, tensor in stored.items()} == {
        name: tensor.tolist() for name, tensor in version(number)["weights"].items()
    }
    return number


def test_groups_and_documents_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "model"
    groups = {
        "half": {"x": torch.randn(5, 3).half(), "empty": torch.zeros(0, 4)},
        "integers": {"y": torch.arange(6, dtype=torch.int16).reshape(2, 3).T},
    }
    write_directory(path, groups, {"config": {"name": "ü", "list": [1, 2]}})
    for group, tensors in groups.items():
        stored = read_tensors(path, group)
        assert stored.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert stored[name].dtype == tensor.dtype
            assert torch.equal(stored[name], tensor)
    assert read_document(path, "config") == {"name": "ü", "list": [1, 2]}
    assert sorted(p.name for p in path.parent.iterdir()) == ["model"]


def test_shards_are_small_and_complete(tmp_path: Path) -> None:
    tensors = {f"t{i:02d}": torch.full((900_000 + 400_000 * (i % 5),), float(i)) for i in range(12)}
    tensors["last"] = torch.ones(2)
    write_directory(tmp_path / "model", {"weights": tensors}, {})
    files = sorted((tmp_path / "model").iterdir())
    assert files[0].name == "weights-00000.safetensors"
    assert len(files) > 4
    assert all(file.stat().st_size < SHARD_BYTES for file in files)
    stored = read_tensors(tmp_path / "model", "weights")
    assert all(torch.equal(stored[name], tensor) for name, tensor in tensors.items())


def test_large_tensor_gets_a_separate_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_files, "SHARD_BYTES", 1000)
    packed = pack_shards({"small": torch.zeros(10), "large": torch.zeros(1000), "tail": torch.zeros(10)})
    assert [list(shard) for shard in packed] == [["small"], ["large"], ["tail"]]


class KilledError(BaseException):
    """Simulates a SIGKILL."""


CHANGES = [(os, "replace"), (Path, "rename"), (Path, "mkdir"), (Path, "unlink"), (Path, "rmdir"), (Path, "write_text")]
"""All functions by which a writer changes the disk, apart from `save_file`."""


@contextmanager
def killed_after(n_changes: int) -> Iterator[list[str]]:
    """Kill the writer in this context after `n_changes` changes to the disk; yields the names of the changes."""
    changes: list[str] = []

    def counted(name: str, function: Callable[..., object]) -> Callable[..., object]:
        def change(*arguments: object, **options: object) -> object:
            if len(changes) == n_changes:
                raise KilledError
            changes.append(name)
            return function(*arguments, **options)

        return change

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in [*CHANGES, (safetensors.torch, "save_file")]:
            patch.setattr(owner, name, counted(name, getattr(owner, name)))
        with suppress(KilledError):
            yield changes


def write_large(path: Path, number: int) -> None:
    """Write a version with more shards than `write_version`, and one more group."""
    weights = version(number)["weights"] | {"c": torch.zeros(300)}
    write_directory(path, {"weights": weights, "ema": {"d": torch.zeros(2)}}, {"config": {"number": number}})


def count_of_changes(path: Path) -> int:
    write_large(path, 1)
    with killed_after(1000) as changes:
        write_version(path, 2)
    assert {"replace", "rename", "mkdir", "unlink", "rmdir", "write_text", "save_file"} == set(changes)
    return len(changes)


def foreign_files(folder: Path) -> dict[str, str]:
    """Make files in and beside a directory whose names resemble those of a writer; return their contents."""
    files = {
        "model.old/a.txt": "1",
        "model.partial/weights-00000.safetensors": "2",
        "model/notes.txt": "3",
        "model/mine/config.json": "4",
        "model/training-00000.safetensors": "5",
        "model/.ulcodec-mine.tmp/config.json": "6",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return files


def test_killed_writer_leaves_one_whole_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory holds one whole version before recovery and after it; foreign files stay."""
    monkeypatch.setattr(tensor_files, "SHARD_BYTES", 1000)
    versions = []
    for n_changes in range(count_of_changes(tmp_path / "counted") + 1):
        folder = tmp_path / str(n_changes)
        path = folder / "model"
        foreign = foreign_files(folder)
        write_large(path, 1)
        with killed_after(n_changes):
            write_version(path, 2)
        number = read_document(path, "config")["number"]
        versions.append(number)
        for n_recoveries in range(2):
            if number == 2:
                assert version_at(path) == 2, f"after {n_changes} changes, recovered {n_recoveries} times"
            else:
                assert {"a", "b", "c"} == read_tensors(path, "weights").keys()
                assert read_document(path, "config") == {"number": 1}
            recover_directory(path)
        write_version(path, 3)
        assert version_at(path) == 3
        assert {name: (folder / name).read_text() for name in foreign} == foreign
        foreign_names = {name.removeprefix("model/").split("/")[0] for name in foreign if name.startswith("model/")}
        assert {file.name for file in path.iterdir()} == foreign_names | {"config.json", "weights-00000.safetensors"}
    assert versions == sorted(versions)
    assert set(versions) == {1, 2}


def test_new_directory_of_a_killed_writer_is_absent(tmp_path: Path) -> None:
    """The directory counts as absent until its version is whole."""
    path = tmp_path / "model"
    with killed_after(4):
        write_version(path, 1)
    assert path.exists()
    assert not is_written(path)
    write_version(path, 2)
    assert version_at(path) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_killed_recovery_keeps_the_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_files, "SHARD_BYTES", 1000)
    n_changes = count_of_changes(tmp_path / "counted")
    for n_recovered in range(8):
        path = tmp_path / str(n_recovered) / "model"
        write_large(path, 1)
        with killed_after(n_changes - 4) as changes:
            write_version(path, 2)
        assert "rename" in changes
        with killed_after(n_recovered):
            recover_directory(path)
        assert version_at(path) == 2
        recover_directory(path)
        assert version_at(path) == 2
        assert {file.name for file in path.iterdir()} == {"config.json", "weights-00000.safetensors"}


def test_reader_gets_one_version(tmp_path: Path) -> None:
    """A version that is replaced during reading is read again."""
    path, n_reads = tmp_path / "model", 0
    write_version(path, 1)

    def read() -> tuple[int, float]:
        nonlocal n_reads
        n_reads += 1
        number = read_document(path, "config")["number"]
        if n_reads == 1:
            write_version(path, 2)
        return number, read_tensors(path, "weights")["b"].item()

    assert read_consistently(path, read) == (2, 2)
    (path / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config\.json"):
        read_consistently(path, read)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG])
def test_full_disk_keeps_the_old_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    write_version(tmp_path / "model", 1)

    def full(tensors: object, file: Path) -> None:
        file.write_bytes(b"some")
        raise SafetensorError(f"Error while serializing: I/O error: {os.strerror(code)} (os error {code})")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    for path in (tmp_path / "model", tmp_path / "new"):
        with pytest.raises(OSError, match=os.strerror(code)) as caught:
            write_version(path, 2)
        assert (caught.value.errno, caught.value.filename) == (code, str(path))
    assert version_at(tmp_path / "model") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
    assert {file.name for file in (tmp_path / "model").iterdir()} == {"config.json", "weights-00000.safetensors"}


def test_replaced_files_keep_their_mode(tmp_path: Path) -> None:
    write_version(tmp_path / "model", 1)
    for file in (tmp_path / "model").iterdir():
        file.chmod(0o600)
    write_version(tmp_path / "model", 2)
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "model").iterdir()} == {0o600}


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


@pytest.mark.parametrize("damage", [cut, lambda file: file.write_bytes(b""), lambda file: file.write_bytes(b"x" * 99)])
def test_damaged_shards_are_refused(tmp_path: Path, damage: Damage) -> None:
    write_version(tmp_path / "model", 1)
    damage(tmp_path / "model" / "weights-00000.safetensors")
    with pytest.raises(ModelError, match=r"weights-00000\.safetensors"):
        read_tensors(tmp_path / "model", "weights")


def test_missing_groups_and_invalid_documents_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no files weights-\*\.safetensors"):
        read_tensors(tmp_path, "weights")
    file = tmp_path / "config.json"
    with pytest.raises(ModelError, match=f"^{re.escape(str(file))}: {os.strerror(errno.ENOENT)}$"):
        read_document(tmp_path, "config")
    for content in ("{", "[1]"):
        file.write_text(content)
        with pytest.raises(ModelError, match=r"config\.json"):
            read_document(tmp_path, "config")
