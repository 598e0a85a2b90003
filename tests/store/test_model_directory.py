"""A model directory opens only if the integers and the reveal schedule match its fingerprint."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from random_networks import random_refiner
from safetensors.numpy import save_file
from safetensors.torch import load_file
from safetensors.torch import save_file as save_tensors

import ulcodec
from ulcodec.codec.loading import load
from ulcodec.coding.quantise_prior import integer_tensors
from ulcodec.errors import ModelError
from ulcodec.model.config import N_CHANNEL_GROUPS, N_PHASES, SMALL, TINY, ModelConfig
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.store.model_directory import fingerprint, open_model, save_model, write_model
from ulcodec.store.stored_integers import open_integers
from ulcodec.store.tensor_files import read_arrays, read_document

Damage = Callable[[Path], object]


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


@pytest.fixture
def model_dir(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """Copy of the tiny model's directory that a test may damage."""
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


def rewrite(directory: Path, name: str, integers: np.ndarray | None) -> None:
    """Replace or drop some of a model's integers, with the fingerprint that fits: what a hostile writer does."""
    coding = read_arrays(directory, "coding") | ({} if integers is None else {name: integers})
    if integers is None:
        del coding[name]
    save_file(coding, directory / "coding-00000.safetensors")
    document = read_document(directory, "config")
    document["coding_sha256"] = fingerprint(ModelConfig.from_json(document["model"]), coding).hex()
    (directory / "config.json").write_text(json.dumps(document))


def store_bfloat16(directory: Path) -> None:
    file = directory / "coding-00000.safetensors"
    coding = load_file(file)
    save_tensors({**coding, "table.estimate": coding["table.estimate"].bfloat16()}, file)


@pytest.mark.parametrize("opened", [open_model, open_integers])
@pytest.mark.parametrize(
    ("name", "integers", "message"),
    [
        ("table.estimate", np.ones((101, TINY.latent_channels), np.float32), "table.estimate holds float32"),
        ("table.estimate", np.ones((3, TINY.latent_channels), np.int32), "estimate is .*, not"),
        ("table.mean_gain", np.ones((101, 3), np.int32), "mean_gain is .*, not"),
        ("table.hyper_mean", np.ones(1, np.int32), "hyper_mean is .*, not"),
        ("table.hyper_gain", None, "lack the table hyper_gain"),
        ("table.hyper_index", np.full((101, TINY.hyper_channels), 200, np.int32), "names tables that do not exist"),
        ("tables.lengths", None, "lack 'tables.lengths'"),
    ],
)
def test_hostile_integers_are_refused(
    model_dir: Path, opened: Callable[[Path], object], name: str, integers: np.ndarray | None, message: str
) -> None:
    rewrite(model_dir, name, integers)
    with pytest.raises(ModelError, match=message):
        opened(model_dir)


@pytest.mark.parametrize("opened", [open_model, open_integers])
def test_unusual_types_are_refused(model_dir: Path, opened: Callable[[Path], object]) -> None:
    store_bfloat16(model_dir)
    with pytest.raises(ModelError, match="type"):
        opened(model_dir)


def test_too_few_tables_are_refused(model_dir: Path) -> None:
    coding = read_arrays(model_dir, "coding")
    for part in ("frequencies", "lengths", "minima"):
        rewrite(model_dir, f"tables.{part}", coding[f"tables.{part}"][:2])
    with pytest.raises(ModelError, match="2 frequency tables, expected 64"):
        open_integers(model_dir)


@pytest.mark.parametrize("model", [None, [1], "tiny"])
def test_configuration_that_is_no_object(model_dir: Path, model: object) -> None:
    document = read_document(model_dir, "config")
    (model_dir / "config.json").write_text(json.dumps({**document, "model": model}))
    with pytest.raises(ModelError, match="must be an object"):
        open_integers(model_dir)


@pytest.mark.parametrize("value", [-1, 0, 1.5, "a", True, 10**9])
def test_width_that_is_no_width(value: object) -> None:
    with pytest.raises(ModelError, match="hyper_width must be"):
        ModelConfig.from_json({**TINY.to_json(), "hyper_width": value})


@pytest.mark.parametrize("opened", [open_model, open_integers])
@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (None, "incomplete configuration of the refiner"),
        ({"width": 16}, "incomplete configuration of the refiner"),
        ({"width": 10**9, "n_blocks": 1}, "refiner's width must be"),
        ({"width": 16, "n_blocks": "2"}, "refiner's blocks must be"),
    ],
)
def test_refiners_of_no_shape_are_refused(
    model_dir: Path, entry: object, message: str, opened: Callable[[Path], object]
) -> None:
    document = read_document(model_dir, "config")
    (model_dir / "config.json").write_text(json.dumps({**document, "refiner": entry}))
    with pytest.raises(ModelError, match=message):
        opened(model_dir)


def test_weights_of_another_refiner_are_refused(model_dir: Path) -> None:
    stored = open_model(model_dir)
    write_model(model_dir, replace(stored, refiner=random_refiner(stored.config, width=16, n_blocks=1)))
    document = read_document(model_dir, "config")
    assert document["refiner"] == {"width": 16, "n_blocks": 1}
    document["refiner"]["width"] = 24
    (model_dir / "config.json").write_text(json.dumps(document))
    with pytest.raises(ModelError, match="weights do not fit"):
        load(model_dir, device="cpu")
    (model_dir / "refiner-00000.safetensors").unlink()
    with pytest.raises(ModelError, match="refiner"):
        load(model_dir, device="cpu")


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
def test_altered_models_are_refused(model_dir: Path, damage: Damage, message: str) -> None:
    open_model(model_dir)
    damage(model_dir)
    with pytest.raises(ModelError, match=message):
        open_model(model_dir)


@pytest.mark.parametrize(
    ("field", "value"), [("latent_channels", 20), ("negative_slope", 1.0), ("negative_slope", -0.1)]
)
def test_invalid_configurations_are_refused(field: str, value: float) -> None:
    with pytest.raises(ModelError, match=f"{field} must be"):
        dataclasses.replace(TINY, **{field: value})


def test_every_integer_is_in_the_fingerprint(tiny_model: UnifiedLatentModel) -> None:
    tensors = integer_tensors(tiny_model)
    assert all(not tensor.is_floating_point() for tensor in tensors.values())
    fingerprints = {fingerprint(TINY, tensors)}
    for name, tensor in tensors.items():
        changed = tensor.clone()
        changed.view(-1)[-1] += 1
        fingerprints.add(fingerprint(TINY, tensors | {name: changed}))
    assert len(fingerprints) == 1 + len(tensors)
    assert fingerprint(TINY, dict(reversed(tensors.items()))) in fingerprints, (
        "the order of the tensors does not matter"
    )
    values = TINY.to_json() | {"reveal": ["1" * N_PHASES] * N_CHANNEL_GROUPS, "prior_blocks": [1]}
    assert fingerprint(ModelConfig.from_json(values), tensors) not in fingerprints


def test_configuration_of_older_models_is_read(
    shared_prior_model: UnifiedLatentModel, picture: np.ndarray, tmp_path: Path
) -> None:
    """It holds one number of blocks, and nothing on the kind of the prior."""
    directory = tmp_path / "model"
    save_model(directory, "older", shared_prior_model, {})
    data = ulcodec.load(directory, device="cpu").encode(picture, quality=60)
    document = read_document(directory, "config")
    assert document["model"].pop("shared_prior") is True
    [document["model"]["prior_blocks"]] = document["model"]["prior_blocks"]
    (directory / "config.json").write_text(json.dumps(document))
    assert open_model(directory).config == shared_prior_model.config
    codec = ulcodec.load(directory, device="cpu")
    assert codec.encode(picture, quality=60) == data
    assert np.abs(codec.decode_array(data) - picture.astype(int)).mean() < 60


def test_shipped_model_has_the_configuration_of_its_name() -> None:
    assert open_model("small").config == SMALL
