"""Directories of tensors: whole or absent, and never larger a file than a shard."""

import dataclasses
import errno
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ulcodec.errors import ModelError
from ulcodec.model.config import TINY
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.store import tensor_files as checkpoint
from ulcodec.store.model_directory import open_model
from ulcodec.store.networks import load_weights
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
    """The version that a directory holds, whole."""
    number = read_document(path, "config")["number"]
    stored = read_tensors(path, "weights")
    assert {name: tensor.tolist() for name, tensor in stored.items()} == {
        name: tensor.tolist() for name, tensor in version(number)["weights"].items()
    }
    return number


def test_groups_and_documents_come_back(tmp_path: Path) -> None:
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


def test_a_tensor_beyond_a_shard_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SHARD_BYTES", 1000)
    packed = pack_shards({"small": torch.zeros(10), "large": torch.zeros(1000), "tail": torch.zeros(10)})
    assert [list(shard) for shard in packed] == [["small"], ["large"], ["tail"]]


class KilledError(BaseException):
    """Stands for a SIGKILL."""


CHANGES = [(os, "replace"), (Path, "rename"), (Path, "mkdir"), (Path, "unlink"), (Path, "rmdir"), (Path, "write_text")]
"""All that a writer does to the disk, with `save_file`."""


@contextmanager
def killed_after(n_changes: int) -> Iterator[list[str]]:
    """Kill the writer within after so many changes to the disk; gives their names."""
    done: list[str] = []

    def counted(name: str, function: Callable[..., object]) -> Callable[..., object]:
        def change(*arguments: object, **options: object) -> object:
            if len(done) == n_changes:
                raise KilledError
            done.append(name)
            return function(*arguments, **options)

        return change

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in [*CHANGES, (checkpoint, "save_file")]:
            patch.setattr(owner, name, counted(name, getattr(owner, name)))
        with suppress(KilledError):
            yield done


def write_large(path: Path, number: int) -> None:
    """As `write_version` in more shards than that, beside a group that it lacks."""
    weights = version(number)["weights"] | {"c": torch.zeros(300)}
    write_directory(path, {"weights": weights, "ema": {"d": torch.zeros(2)}}, {"config": {"number": number}})


def count_of_changes(path: Path) -> int:
    write_large(path, 1)
    with killed_after(1000) as done:
        write_version(path, 2)
    assert {"replace", "rename", "mkdir", "unlink", "rmdir", "write_text", "save_file"} == set(done)
    return len(done)


def foreign_files(folder: Path) -> dict[str, str]:
    """Files that no writer made, in and beside a directory: named as a writer might name its own."""
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


def test_killed_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory holds one version, whole, before anything is recovered and after; what others keep there stays."""
    monkeypatch.setattr(checkpoint, "SHARD_BYTES", 1000)
    seen = []
    for n_changes in range(count_of_changes(tmp_path / "counted") + 1):
        folder = tmp_path / str(n_changes)
        path = folder / "model"
        foreign = foreign_files(folder)
        write_large(path, 1)
        with killed_after(n_changes):
            write_version(path, 2)
        found = read_document(path, "config")["number"]
        seen.append(found)
        for again in range(2):
            if found == 2:
                assert version_at(path) == 2, f"after {n_changes} changes, recovered {again} times"
            else:
                assert {"a", "b", "c"} == read_tensors(path, "weights").keys()
                assert read_document(path, "config") == {"number": 1}
            recover_directory(path)
        write_version(path, 3)
        assert version_at(path) == 3
        assert {name: (folder / name).read_text() for name in foreign} == foreign
        kept = {name.removeprefix("model/").split("/")[0] for name in foreign if name.startswith("model/")}
        assert {file.name for file in path.iterdir()} == kept | {"config.json", "weights-00000.safetensors"}
    assert seen == sorted(seen)
    assert set(seen) == {1, 2}


def test_killed_while_a_new_directory_is_written(tmp_path: Path) -> None:
    """It counts as absent until it is whole."""
    path = tmp_path / "model"
    with killed_after(4):
        write_version(path, 1)
    assert path.exists()
    assert not is_written(path)
    write_version(path, 2)
    assert version_at(path) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_killed_while_it_recovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SHARD_BYTES", 1000)
    n_changes = count_of_changes(tmp_path / "counted")
    for n_recovered in range(8):
        path = tmp_path / str(n_recovered) / "model"
        write_large(path, 1)
        with killed_after(n_changes - 4) as done:
            write_version(path, 2)
        assert "rename" in done
        with killed_after(n_recovered):
            recover_directory(path)
        assert version_at(path) == 2
        recover_directory(path)
        assert version_at(path) == 2
        assert {file.name for file in path.iterdir()} == {"config.json", "weights-00000.safetensors"}


def test_a_reader_takes_one_version(tmp_path: Path) -> None:
    """What is replaced while it is read is read anew."""
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
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    write_version(tmp_path / "model", 1)

    def full(tensors: object, file: Path) -> None:
        file.write_bytes(b"some")
        raise SafetensorError(f"Error while serializing: I/O error: {os.strerror(code)} (os error {code})")

    monkeypatch.setattr(checkpoint, "save_file", full)
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
def test_damaged_shards(tmp_path: Path, damage: Damage) -> None:
    write_version(tmp_path / "model", 1)
    damage(tmp_path / "model" / "weights-00000.safetensors")
    with pytest.raises(ModelError, match=r"weights-00000\.safetensors"):
        read_tensors(tmp_path / "model", "weights")


def test_missing_groups_and_bad_documents(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no weights weights"):
        read_tensors(tmp_path, "weights")
    for content in (None, "{", "[1]"):
        if content is not None:
            (tmp_path / "config.json").write_text(content)
        with pytest.raises(ModelError, match=r"config\.json"):
            read_document(tmp_path, "config")


def test_weights_that_do_not_fit() -> None:
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
    """Bit for bit, in the layout of a network that is made, filled and placed step by step."""
    stored, device = open_model(tiny_model_dir if model == "tiny" else model), torch.device("cpu")
    before = torch.get_rng_state()
    network = stored.networks(device)
    assert torch.equal(torch.get_rng_state(), before)
    expected = UnifiedLatentModel(stored.config)
    load_weights(expected, stored.weights)
    expected.to(device, memory_format=torch.channels_last)
    assert dict(network.state_dict()).keys() == stored.weights.keys()
    found = dict(network.named_parameters()) | dict(network.named_buffers())
    for name, tensor in (dict(expected.named_parameters()) | dict(expected.named_buffers())).items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], tensor)
        assert found[name].stride() == tensor.stride()
        assert not found[name].requires_grad
        if name in stored.weights:
            assert torch.equal(found[name], stored.weights[name].float())
    assert not any(module.training for module in network.modules())


def test_networks_of_other_weights(tiny_model_dir: Path) -> None:
    stored = open_model(tiny_model_dir)
    name = "encoder.stem.weight"
    without = {key: value for key, value in stored.weights.items() if key != name}
    for wrong in (without, stored.weights | {name: torch.zeros(1)}, stored.weights | {"more": torch.zeros(1)}):
        with pytest.raises(ModelError, match="weights do not fit the configuration"):
            dataclasses.replace(stored, weights=wrong).networks(torch.device("cpu"))


@pytest.fixture
def model_dir(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model's directory that a test may damage."""
    return shutil.copytree(tiny_model_dir, tmp_path / "model")


def alter_an_integer(directory: Path) -> None:
    file = directory / "coding-00000.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def alter_the_reveal(directory: Path) -> None:
    document = read_document(directory, "config")
    document["model"]["reveal"].reverse()
    (directory / "config.json").write_text(json.dumps(document))


def drop_the_hash(directory: Path) -> None:
    document = read_document(directory, "config")
    del document["coding_sha256"]
    (directory / "config.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (alter_an_integer, "do not match their fingerprint"),
        (alter_the_reveal, "do not match their fingerprint"),
        (drop_the_hash, "missing 'coding_sha256'"),
        (lambda directory: cut(directory / "coding-00000.safetensors"), "coding-00000"),
        (lambda directory: cut(directory / "weights-00000.safetensors"), "weights-00000"),
        (lambda directory: (directory / "config.json").unlink(), "nor a model directory"),
    ],
    ids=["integer", "reveal", "no-hash", "cut-coding", "cut-weights", "no-config"],
)
def test_altered_models_are_not_opened(model_dir: Path, damage: Damage, message: str) -> None:
    open_model(model_dir)
    damage(model_dir)
    with pytest.raises(ModelError, match=message):
        open_model(model_dir)


@pytest.mark.parametrize(
    ("field", "value"), [("latent_channels", 20), ("negative_slope", 1.0), ("negative_slope", -0.1)]
)
def test_configurations_that_cannot_be(field: str, value: float) -> None:
    with pytest.raises(ModelError, match=f"{field} must be"):
        dataclasses.replace(TINY, **{field: value})
