"""Deployments of a model that has graphs: they are moved instead of exported, and equal those of a fresh export."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ulcodec.errors import ModelError
from ulcodec.export import deployment
from ulcodec.export.deployment import PURPOSES, Purpose, export_deployment
from ulcodec.graphs.graph_files import listed_graphs

onnx = pytest.importorskip("onnx", reason="needs onnx")
pytest.importorskip("onnxscript", reason="needs onnxscript")
pytest.importorskip("onnxruntime", reason="needs onnxruntime")


class ExportedError(Exception):
    """Raised instead of exporting graphs."""


@pytest.fixture
def no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ExportedError

    monkeypatch.setattr(deployment, "export_graphs", refuse)


@pytest.fixture
def model_dir(graph_model_dir: Path, tmp_path: Path) -> Path:
    """A copy of a model with graphs, to change."""
    return Path(shutil.copytree(graph_model_dir, tmp_path / "model"))


def contents(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def test_equals_a_fresh_export(
    graph_model_dir: Path, model_dir: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    (model_dir / "graphs.json").unlink()
    export_deployment(model_dir, tmp_path / "fresh", "decoding")
    request.getfixturevalue("no_export")
    export_deployment(graph_model_dir, tmp_path / "moved", "decoding")
    assert contents(tmp_path / "moved") == contents(tmp_path / "fresh")


@pytest.mark.parametrize("purpose", PURPOSES)
@pytest.mark.usefixtures("no_export")
def test_refers_to_the_same_bytes(graph_model_dir: Path, tmp_path: Path, purpose: Purpose) -> None:
    export_deployment(graph_model_dir, tmp_path / "moved", purpose)
    graphs = list((tmp_path / "moved").glob("*.onnx"))
    assert sorted(graph.stem for graph in graphs) == listed_graphs(tmp_path / "moved")
    for graph in graphs:
        assert onnx.load(graph) == onnx.load(graph_model_dir / graph.name)
    assert any(graph.read_bytes() != (graph_model_dir / graph.name).read_bytes() for graph in graphs)


def edit_json(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(
    "change",
    [
        lambda model_dir: edit_json(model_dir / "config.json", name="other"),
        lambda model_dir: edit_json(model_dir / "graphs.json", opset=17),
        lambda model_dir: edit_json(model_dir / "graphs.json", graphs=["synthesis", "thumbnail", "prior"]),
        lambda model_dir: (model_dir / "graphs.json").unlink(),
    ],
    ids=["another version", "another opset", "a graph is missing", "no graphs"],
)
@pytest.mark.usefixtures("no_export")
def test_other_graphs_are_not_moved(model_dir: Path, tmp_path: Path, change: Callable[[Path], None]) -> None:
    change(model_dir)
    with pytest.raises(ExportedError):
        export_deployment(model_dir, tmp_path / "deployment", "decoding")


@pytest.mark.usefixtures("no_export")
def test_a_models_own_graphs_are_exported(model_dir: Path) -> None:
    with pytest.raises(ExportedError):
        export_deployment(model_dir, model_dir)


def external(model: Any) -> list[dict[str, Any]]:
    """Entries of the external data of a graph's constants."""
    return [{entry.key: entry for entry in constant.external_data} for constant in model.graph.initializer]


def edit_graph(file: Path, edit: Callable[[list[dict[str, Any]]], None]) -> None:
    model = onnx.load(file, load_external_data=False)
    edit([entries for entries in external(model) if entries])
    file.write_bytes(model.SerializeToString())


def shift(constants: list[dict[str, Any]]) -> None:
    constants[0]["offset"].value = str(int(constants[0]["offset"].value) + 2)


def without_length(constants: list[dict[str, Any]]) -> None:
    constants[0]["length"].key = "size"


def exchange(constants: list[dict[str, Any]]) -> None:
    """Let the largest constants of one size refer to each other's bytes."""
    sizes = [int(entries["length"].value) for entries in constants]
    largest = max(size for size in sizes if sizes.count(size) > 1)
    first, second = [entries["offset"] for entries, size in zip(constants, sizes, strict=True) if size == largest][:2]
    first.value, second.value = second.value, first.value


@pytest.mark.parametrize(
    "damage",
    [
        lambda graph: graph.unlink(),
        lambda graph: graph.write_bytes(graph.read_bytes()[:-1000]),
        lambda graph: edit_graph(graph, shift),
        lambda graph: edit_graph(graph, without_length),
    ],
    ids=["missing", "truncated", "no tensor's bytes", "no length"],
)
@pytest.mark.usefixtures("no_export")
def test_damaged_graph_is_one_line(model_dir: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    damage(model_dir / "synthesis.onnx")
    with pytest.raises(ModelError, match=r"synthesis\.onnx is missing or damaged; export .* again$"):
        export_deployment(model_dir, tmp_path / "deployment", "decoding")
    assert not (tmp_path / "deployment" / "graphs.json").exists()


@pytest.mark.parametrize("name", ["synthesis", "prior"])
@pytest.mark.usefixtures("no_export")
def test_wrong_reference_does_not_pass(model_dir: Path, tmp_path: Path, name: str) -> None:
    edit_graph(model_dir / f"{name}.onnx", exchange)
    with pytest.raises(ModelError, match=rf"{name} differs? from torch"):
        export_deployment(model_dir, tmp_path / "deployment", "decoding")
    assert listed_graphs(tmp_path / "deployment") == []


@pytest.mark.usefixtures("no_export")
def test_empty_graph_is_one_line(model_dir: Path, tmp_path: Path) -> None:
    (model_dir / "prior.onnx").write_bytes(b"")
    with pytest.raises(ModelError, match=r"^[^\n]*prior\.onnx: [^\n]*$"):
        export_deployment(model_dir, tmp_path / "deployment", "decoding")
