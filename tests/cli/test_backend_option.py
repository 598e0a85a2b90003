"""`--backend`, and the choice of the command line between the backends."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import Run, assert_refused
from PIL import Image

from ulcodec.codec import loading
from ulcodec.codec.image import Codec
from ulcodec_cli import common

pytest.importorskip("onnxruntime", reason="needs onnxruntime")


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the backends with which models are loaded."""
    taken: list[str] = []
    load = loading.load

    def record(*arguments: Any, **options: Any) -> Codec:
        taken.append(options["backend"])
        return load(*arguments, **options)

    monkeypatch.setattr(loading, "load", record)
    return taken


def test_one_small_picture_is_coded_by_onnxruntime(run: Run, photo: Path, backends: list[str]) -> None:
    coded = photo.with_suffix(".ulc")
    assert run("encode", photo, "--threads", 1).code == 0
    assert run("decode", coded, "--force", "--threads", 1).code == 0
    assert run("compare", photo, coded).code == 0
    assert backends == ["onnxruntime"] * 3
    for option in (("--thumbnail",), ("--crop", "5,5,20,20"), ("--fraction", 0.5)):
        assert run("decode", coded, "--force", *option).code == 0
    assert backends == ["onnxruntime"] * 6
    assert run("encode", photo, "--force", "--effort", 2).code == 0
    assert backends.pop() == "onnxruntime"
    backends.clear()
    for arguments in (("encode", photo, "--force"), ("decode", coded, "--force"), ("compare", photo, coded)):
        assert run(*arguments, "--backend", "torch").code == 0
    assert backends == ["torch"] * 3


def test_torch_takes_all_else(
    run: Run, photo: Path, album: Path, tiny_model_dir: Path, backends: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ("--model", tiny_model_dir)
    assert run("encode", photo, "--force", *model).code == 0, "a model without graphs"
    assert run("encode", photo, "--force", "--effort", 3).code == 0
    assert run("encode", album).code == 0
    assert run("decode", *sorted(album.glob("*.ulc")), "-o", album / "decoded/").code == 0
    monkeypatch.setattr(common, "ONE_OFF_PIXELS", 51 * 37 - 1)
    assert run("encode", photo, "--force").code == 0
    assert backends == ["torch"] * 5


def test_stale_graphs_leave_small_pictures_to_torch(
    run: Run, photo: Path, graph_model_dir: Path, tmp_path: Path, backends: list[str]
) -> None:
    model = shutil.copytree(graph_model_dir, tmp_path / "model")
    assert run("encode", photo, "--force", "--model", model).code == 0
    config = model / "config.json"
    config.write_text(config.read_text().replace('"name": "tiny"', '"name": "other"', 1))
    assert run("encode", photo, "--force", "--model", model).code == 0
    assert backends == ["onnxruntime", "torch"]


def test_either_backend_codes_folders(run: Run, album: Path, backends: list[str]) -> None:
    assert run("encode", album, "--backend", "onnxruntime").code == 0
    assert run("decode", album, "-o", album / "decoded/", "--backend", "onnxruntime").code == 0
    assert backends == ["onnxruntime"] * 2
    with Image.open(album / "decoded" / "a.png") as decoded:
        assert decoded.size == (30, 20)


def test_what_onnxruntime_cannot_do_is_one_line(run: Run, photo: Path, tiny_model_dir: Path) -> None:
    graphs = ("--backend", "onnxruntime")
    assert_refused(run("encode", photo, "--model", tiny_model_dir, *graphs), "no ONNX graphs", "export-onnx")
    assert_refused(run("encode", photo, "--effort", 3, *graphs), "effort 3 needs torch")
    assert_refused(run("encode", photo, "--device", "cuda", *graphs), "runs on the CPU, not on 'cuda'")
    assert run("encode", photo).code == 0
    coded = photo.with_suffix(".ulc")
    assert_refused(run("decode", coded, "--force", "--realism", 1, *graphs), "realism needs torch")
    assert run("decode", coded, "--backend", "tensorflow").code == 2
    assert photo.exists()
