"""Export in one call: it writes once, and a failure before that changes nothing on the disk."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ulcodec
from ulcodec.errors import TrainingError
from ulcodec.export import pipeline
from ulcodec.export.pipeline import check_output, export, is_model
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.store.model_directory import open_model
from ulcodec.store.tensor_files import write_directory


@pytest.fixture(scope="module")
def pictures_dir(picture: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(3):
        Image.fromarray(np.roll(picture[:48, :64], 8 * number, axis=1)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def run_dir(tiny_model: UnifiedLatentModel, pictures_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of stage 1 whose checkpoint holds the tiny model."""
    directory = tmp_path_factory.mktemp("runs") / "tiny"
    settings = {"data": [str(pictures_dir)], "out": str(directory), "init": None}
    config = {"model": tiny_model.config.to_json(), "stage1": settings}
    documents = {"config": config, "progress": {"n_images": 64}}
    write_directory(directory / "checkpoint", {"ema": dict(tiny_model.state_dict())}, documents)
    return directory


def test_export_calibrates_writes_and_measures(run_dir: Path, tmp_path: Path, picture: np.ndarray) -> None:
    exported = export(run_dir, tmp_path / "model", name="mine")
    codec = ulcodec.load(tmp_path / "model", device="cpu")
    assert (codec.name, codec.fingerprint) == ("mine", exported.sha256[:8])
    assert (exported.n_pictures, exported.n_measured, exported.missing_sources) == (3, 3, [])
    assert list(exported.cost_percent) == [10, 50, 90]
    assert codec.decode_array(codec.encode(picture)).shape == picture.shape
    assert export(run_dir, tmp_path / "plain", sources=()).sha256 != exported.sha256


def test_stored_settings_name_no_folder(run_dir: Path, tmp_path: Path, pictures_dir: Path) -> None:
    export(run_dir, tmp_path / "model", sources=())
    training = open_model(tmp_path / "model").document["provenance"]["training"]
    assert (training["data"], training["out"]) == ([pictures_dir.name], "tiny")


def test_missing_pictures_skip_the_calibration(run_dir: Path, tmp_path: Path) -> None:
    exported = export(run_dir, tmp_path / "model", sources=[tmp_path / "none"])
    assert exported.missing_sources == [str(tmp_path / "none")]
    assert (exported.n_pictures, exported.cost_percent) == (0, {})


@pytest.mark.parametrize("function", ["read_checkpoint", "trained_model", "read_pictures", "calibrated"])
def test_failure_before_the_write_leaves_no_model(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    export(run_dir, tmp_path / "old", sources=())
    before = {file.name: file.read_bytes() for file in (tmp_path / "old").iterdir()}

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, function, fail)
    for directory in (tmp_path / "new", tmp_path / "old"):
        with pytest.raises(KeyboardInterrupt):
            export(run_dir, directory)
    assert not (tmp_path / "new").exists()
    assert {file.name: file.read_bytes() for file in (tmp_path / "old").iterdir()} == before


def test_export_replaces_only_a_model(run_dir: Path, tmp_path: Path) -> None:
    export(run_dir, tmp_path / "model", sources=())
    assert is_model(tmp_path / "model")
    check_output(run_dir, tmp_path / "model")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").write_text("keep")
    for directory in (tmp_path / "notes", run_dir):
        with pytest.raises(ulcodec.UlcError):
            export(run_dir, directory)


def test_run_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no checkpoint to export"):
        export(tmp_path, tmp_path / "model", sources=())


def test_refused_output_keeps_the_files_of_another_writer(tmp_path: Path) -> None:
    staging = tmp_path / "other" / ".ulcodec-0123456789abcdef.tmp"
    staging.mkdir(parents=True)
    (staging / "ema-00000.safetensors").write_bytes(b"being written")
    (tmp_path / "other" / "config.json").write_text("{}")
    with pytest.raises(TrainingError, match="no model directory"):
        check_output(tmp_path / "run", tmp_path / "other")
    assert (staging / "ema-00000.safetensors").exists()
