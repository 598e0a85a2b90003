"""Export in one call: what is written, and what a failure leaves."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ulcodec
from ulcodec.export import pipeline
from ulcodec.export.pipeline import check_output, export, is_model
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.store.model_directory import open_model
from ulcodec.store.tensor_files import write_directory


@pytest.fixture(scope="module")
def photographs(picture: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(3):
        Image.fromarray(np.roll(picture[:48, :64], 8 * number, axis=1)).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def run_dir(tiny_model: UnifiedLatentModel, photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of stage 1 whose checkpoint holds the tiny model."""
    directory = tmp_path_factory.mktemp("runs") / "tiny"
    settings = {"data": [str(photographs)], "out": str(directory), "init": None}
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


def test_settings_of_a_model_hold_no_folder(run_dir: Path, tmp_path: Path, photographs: Path) -> None:
    export(run_dir, tmp_path / "model", sources=())
    training = open_model(tmp_path / "model").document["provenance"]["training"]
    assert (training["data"], training["out"]) == ([photographs.name], "tiny")


def test_missing_pictures_skip_the_calibration(run_dir: Path, tmp_path: Path) -> None:
    exported = export(run_dir, tmp_path / "model", sources=[tmp_path / "none"])
    assert exported.missing_sources == [str(tmp_path / "none")]
    assert (exported.n_pictures, exported.cost_percent) == (0, {})


@pytest.mark.parametrize("stage", ["read_checkpoint", "trained_model", "read_pictures", "calibrated"])
def test_failure_before_the_write_leaves_no_model(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    export(run_dir, tmp_path / "old", sources=())
    before = {file.name: file.read_bytes() for file in (tmp_path / "old").iterdir()}

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, stage, fail)
    for directory in (tmp_path / "new", tmp_path / "old"):
        with pytest.raises(KeyboardInterrupt):
            export(run_dir, directory)
    assert not (tmp_path / "new").exists()
    assert {file.name: file.read_bytes() for file in (tmp_path / "old").iterdir()} == before


def test_a_model_may_replace_a_model_only(run_dir: Path, tmp_path: Path) -> None:
    export(run_dir, tmp_path / "model", sources=())
    assert is_model(tmp_path / "model")
    check_output(run_dir, tmp_path / "model")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").write_text("keep")
    for directory in (tmp_path / "notes", run_dir):
        with pytest.raises(ulcodec.UlcError):
            export(run_dir, directory)
