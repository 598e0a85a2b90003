"""Packages of models."""

import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from email.parser import BytesParser
from pathlib import Path

import numpy as np
import pytest

import ulcodec
from ulcodec.errors import MissingPackageError, ModelError
from ulcodec.export import packages
from ulcodec.export.packages import build_package

pytest.importorskip("build", reason="needs build")


@pytest.fixture(scope="module")
def wheel(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_package(tiny_model_dir, tmp_path_factory.mktemp("wheels") / "new")


@pytest.fixture
def model_dir(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to change."""
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def metadata(wheel: Path) -> dict[str, str]:
    [data] = [data for name, data in contents(wheel).items() if name.endswith("/METADATA")]
    message = BytesParser().parsebytes(data)
    return {**message, "page": message.get_payload(decode=True).decode()}


def test_wheel_has_the_model_and_an_entry_point(wheel: Path, tiny_model_dir: Path) -> None:
    digits = ulcodec.load(tiny_model_dir, device="cpu").fingerprint
    module = f"ulcodec_model_tiny_{digits}"
    assert wheel.name == f"{module}-1.0-py3-none-any.whl"
    found = contents(wheel)
    assert found[f"{module}-1.0.dist-info/entry_points.txt"].decode().split("\n")[:2] == [
        "[ulcodec.models]", f"tiny-{digits} = {module}"
    ]  # fmt: skip
    files = {file.name: file.read_bytes() for file in tiny_model_dir.iterdir()}
    stored = {Path(name).name: data for name, data in found.items() if name.startswith(f"{module}/")}
    assert stored.pop("__init__.py").startswith(b'"""')
    assert stored == files
    fields = metadata(wheel)
    assert fields["Name"] == f"ulcodec-model-tiny-{digits}"
    assert fields["Requires-Dist"] == f"ulcodec>={ulcodec.__version__}"
    assert "License-Expression" not in fields
    assert f"fingerprint {digits}." in fields["page"]


def test_installed_wheel_is_found_in_another_process(wheel: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    """As pip installs it: `ulcodec` needs nothing but the folder on the path."""
    codec = ulcodec.load(tiny_model_dir, device="cpu")
    (tmp_path / "a.ulc").write_bytes(codec.encode(np.full((20, 30, 3), 90, np.uint8)))
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    code = "import sys; sys.path.append('site'); import ulcodec; print(ulcodec.load_for('a.ulc').fingerprint)"
    finished = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert finished.stdout.split() == [codec.fingerprint]


def test_same_model_gives_the_same_bytes(wheel: Path, model_dir: Path, tmp_path: Path) -> None:
    for file in model_dir.iterdir():
        file.chmod(0o600)
        file.touch()
    assert build_package(model_dir, tmp_path).read_bytes() == wheel.read_bytes()


def test_page_licence_and_version_are_those_given(model_dir: Path, tmp_path: Path) -> None:
    (model_dir / "README.md").write_text("Trained on photographs of fish: größer.", encoding="utf-8")
    (model_dir / "LICENSE").write_text("Terms.")
    wheel = build_package(model_dir, tmp_path, version="2.1-rc1", license="cc-by-4.0")
    fields = metadata(wheel)
    assert (fields["Version"], fields["License-Expression"]) == ("2.1rc1", "CC-BY-4.0")
    assert "Trained on photographs of fish: größer." in fields["page"]
    names = set(contents(wheel))
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert not any(re.search("ulcodec_model_tiny_[0-9a-f]{8}/(README|LICENSE)", name) for name in names)


def test_other_files_of_the_directory_stay_out(model_dir: Path, wheel: Path, tmp_path: Path) -> None:
    for name in ("notes.txt", "secret.json", "optimizer-00000.safetensors", "mine.onnx", "setup.py"):
        (model_dir / name).write_bytes(b"mine")
    (model_dir / "folder").mkdir()
    assert contents(build_package(model_dir, tmp_path)) == contents(wheel)


def test_graphs_of_the_model_are_packed(graph_model_dir: Path, tmp_path: Path) -> None:
    model_dir = Path(shutil.copytree(graph_model_dir, tmp_path / "model"))
    (model_dir / "mine.onnx").write_bytes(b"mine")
    names = {Path(name).name for name in contents(build_package(model_dir, tmp_path))}
    graphs = {file.name for file in graph_model_dir.glob("*.onnx")} | {"graphs.json"}
    assert graphs < names
    assert "mine.onnx" not in names
    fields = metadata(build_package(model_dir, tmp_path, force=True))
    assert re.search(r"fingerprint ([0-9a-f]{8}), in sequences (?!\1)[0-9a-f]{8}\.", fields["page"])
    document = (model_dir / "config.json").read_text()
    (model_dir / "config.json").write_text(document + "\n")
    with pytest.warns(UserWarning, match="the ONNX graphs are those of another version, and are left out"):
        wheel = build_package(model_dir, tmp_path, version="2")
    stale = {Path(name).name for name in contents(wheel)}
    assert not stale & graphs, "graphs of another version are left out"


def test_deployment_is_refused(graph_model_dir: Path, tmp_path: Path) -> None:
    """Its package would have the name of the whole model, and could do less."""
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    from ulcodec.export.deployment import export_deployment

    export_deployment(graph_model_dir, tmp_path / "deployment", "decoding")
    with pytest.raises(ModelError, match="deployment is a deployment, a part of a model: package the whole model"):
        build_package(tmp_path / "deployment", tmp_path)


def test_files_of_another_model_in_the_directory(graph_model_dir: Path, model_dir: Path, tmp_path: Path) -> None:
    """A model was unpacked over another one: its own shards replaced those of the same names only."""
    for file in graph_model_dir.glob("video_*.safetensors"):
        shutil.copy(file, model_dir)
    names = {Path(name).name for name in contents(build_package(model_dir, tmp_path))}
    assert "weights-00000.safetensors" in names
    assert not any(name.startswith("video_") for name in names), "config.json has no video part"
    shutil.copy(model_dir / "weights-00000.safetensors", model_dir / "weights-00001.safetensors")
    with pytest.raises(ModelError, match="is in another file, too: the directory holds files of two models"):
        build_package(model_dir, tmp_path, force=True)


def rename(name: object) -> Callable[[Path], object]:
    return lambda directory: (directory / "config.json").write_text(
        re.sub('"name": "tiny"', f'"name": {name}', (directory / "config.json").read_text(), count=1)
    )


def damage_weights(directory: Path) -> None:
    with (directory / "weights-00000.safetensors").open("r+b") as file:
        file.truncate(1000)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename('"my model"'), "the name of a model has a to z.*; got 'my model'"),
        (rename("null"), "does not describe a model"),
        (damage_weights, "model/weights-00000.safetensors"),
        (lambda directory: (directory / "coding-00000.safetensors").unlink(), "no files coding"),
        (lambda directory: (directory / "README.md").write_bytes(b"\xff"), "the wheel cannot be built: .*utf-8"),
    ],
)
def test_broken_models_are_refused(
    model_dir: Path, tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    change(model_dir)
    with pytest.raises(ModelError, match=message):
        build_package(model_dir, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_options_are_refused(model_dir: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for options in ({"version": "one"}, {"version": ""}, {"license": "Mine"}, {"license": ""}):
        with pytest.raises(ValueError, match=r"(Invalid version|license)"):
            build_package(model_dir, wheel.parent, **options)
    before = wheel.read_bytes()
    with pytest.raises(FileExistsError, match="--force overwrites it"):
        build_package(model_dir, wheel.parent)
    assert wheel.read_bytes() == before
    with pytest.raises(ModelError, match="no model 'none'"):
        build_package("none", wheel.parent)
    with pytest.raises(NotADirectoryError, match="is not a directory"):
        build_package(model_dir, wheel)
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r'pip install "ulcodec\[package\]"'):
        build_package(model_dir, wheel.parent)
