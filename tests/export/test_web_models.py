"""Models for browsers: hashed names, the list, and folders that hold other things."""

import hashlib
import json
from pathlib import Path

import pytest

from ulcodec.errors import ModelError
from ulcodec.export.web_models import HASH_DIGITS, LIST, publish_model

pytest.importorskip("onnx", reason="needs onnx")
pytest.importorskip("onnxscript", reason="needs onnxscript")
pytest.importorskip("onnxruntime", reason="needs onnxruntime")


def test_names_have_a_hash_of_the_contents(graph_model_dir: Path, tmp_path: Path) -> None:
    files = publish_model(graph_model_dir, tmp_path / "models")
    [(fingerprint, listed)] = json.loads((tmp_path / "models" / LIST).read_text()).items()
    assert listed["name"] == "tiny"
    assert set(listed["files"]) == {
        "hyper.onnx", "prior.onnx", "synthesis.onnx", "coding-00000.safetensors", "weights-00000.safetensors"
    }  # fmt: skip
    assert {tmp_path / "models" / name for name in listed["files"].values()} == set(files)
    for file in files:
        assert file.stem.endswith("-" + hashlib.sha256(file.read_bytes()).hexdigest()[:HASH_DIGITS])
    document = json.loads((graph_model_dir / "config.json").read_text())
    assert fingerprint == document["coding_sha256"][:8]
    assert listed["config"]["reveal"] == document["model"]["reveal"]


def test_a_second_model_is_added_and_other_files_stay(graph_model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / LIST).write_text('{"01234567": {"name": "other"}}')
    (tmp_path / "notes.txt").write_text("mine")
    publish_model(graph_model_dir, tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    publish_model(graph_model_dir, tmp_path)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    names = [model["name"] for model in json.loads((tmp_path / LIST).read_text()).values()]
    assert names == ["other", "tiny"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("contents", [b"{", b"[]", b"\xff", 100_000 * b"["], ids=["cut", "list", "bytes", "nested"])
def test_a_list_that_is_none(graph_model_dir: Path, tmp_path: Path, contents: bytes) -> None:
    (tmp_path / LIST).write_bytes(contents)
    with pytest.raises(ModelError, match=r"models\.json is no list of models"):
        publish_model(graph_model_dir, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [LIST]
    assert (tmp_path / LIST).read_bytes() == contents
