"""Directories of tensors: whole or absent, and never larger a file than a shard."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ulcodec.errors import ModelError
from ulcodec.model import checkpoint
from ulcodec.model.checkpoint import (
    SHARD_BYTES,
    load_weights,
    read_document,
    read_tensors,
    recover_directory,
    shards,
    write_directory,
)
from ulcodec.model.config import TINY
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.store import open_model

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
    packed = shards({"small": torch.zeros(10), "large": torch.zeros(1000), "tail": torch.zeros(10)})
    assert [list(shard) for shard in packed] == [["small"], ["large"], ["tail"]]


class KilledError(Exception):
    """Stands for a SIGKILL."""


@pytest.mark.parametrize("fresh", [True, False], ids=["new", "there"])
@pytest.mark.parametrize("done", range(12))
def test_killed_between_any_two_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int, fresh: bool
) -> None:
    """After any number of renames and removals, the directory or its recovery holds one version, whole."""
    path = tmp_path / "model"
    if not fresh:
        monkeypatch.setattr(checkpoint, "SHARD_BYTES", 20)
        write_version(path, 1)  # in two shards, of which one is stale later
        assert len(list(path.glob("weights-*"))) == 2
        monkeypatch.setattr(checkpoint, "SHARD_BYTES", SHARD_BYTES)
    count = 0

    def killing(change: Callable[..., object]) -> Callable[..., object]:
        def changed(*arguments: object, **options: object) -> object:
            nonlocal count
            if count == done:
                raise KilledError
            count += 1
            return change(*arguments, **options)

        return changed

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killing(os.replace))
        for name in ("rename", "unlink", "rmdir"):
            patch.setattr(Path, name, killing(getattr(Path, name)))
        killed = False
        try:
            write_version(path, 2)
        except KilledError:
            killed = True
    recover_directory(path)
    if fresh and not path.exists():
        assert killed
    else:
        assert version_at(path) in ((2,) if fresh or not killed else (1, 2))
    write_version(path, 3)
    assert version_at(path) == 3
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
    assert sorted(file.name for file in path.iterdir()) == ["config.json", "weights-00000.safetensors"]


def test_nothing_of_the_users_is_touched(tmp_path: Path) -> None:
    path = tmp_path / "model"
    for folder in (path, tmp_path / "model.old", tmp_path / "model.partial", tmp_path / ".ulcodec-other-00.tmp"):
        folder.mkdir()
        (folder / "notes.txt").write_text("mine")
        (folder / "weights-final.safetensors").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for number in (1, 2):
        write_version(path, number)
        recover_directory(path)
    added = {path / "config.json", path / "weights-00000.safetensors"}
    (path / "weights-final.safetensors").unlink()  # a name of our pattern but for its digits
    assert set(tmp_path.rglob("*")) == (set(before) | added) - {path / "weights-final.safetensors"}
    assert version_at(path) == 2


def test_a_full_disk_leaves_what_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model"
    write_version(path, 1)

    def full(*_: object) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    for target in (path, tmp_path / "other"):
        with pytest.raises(OSError, match="No space left"):
            write_version(target, 2)
    assert version_at(path) == 1
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["config.json", "model", "weights-00000.safetensors"]


def test_killed_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model"
    write_version(path, 1)

    def killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", killed)
        with pytest.raises(KilledError):
            write_version(path, 2)
    assert version_at(path) == 1
    write_version(path, 3)
    assert version_at(path) == 3


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
