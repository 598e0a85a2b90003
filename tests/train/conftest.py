"""Fixtures for tests of training."""

from pathlib import Path

import pytest
import torch
from numbered_pictures import files
from stage1_runs import stage1_settings

from ulcodec.model.build import build_model
from ulcodec.model.presets import preset
from ulcodec.train.data.loading import load_pictures
from ulcodec.train.settings import Stage1Settings
from ulcodec.train.stage1 import Stage1Step


@pytest.fixture
def settings(photographs: Path, tmp_path: Path) -> Stage1Settings:
    """Settings of a miniature run that no test has started."""
    return stage1_settings(photographs, tmp_path / "run")


@pytest.fixture
def step_settings(photographs: Path, tmp_path: Path) -> Stage1Settings:
    """Settings of a run of four crops a batch."""
    return Stage1Settings(
        data=(photographs,), out=tmp_path / "run", config="tiny", n_images=64, batch_size=4, crop_px=64, device="cpu"
    )


@pytest.fixture
def step(step_settings: Stage1Settings) -> Stage1Step:
    """The loss of a training step, for fresh weights."""
    pictures, _ = load_pictures(step_settings.data, min_side_px=64, validation_share=0.1)
    torch.manual_seed(1)
    return Stage1Step(build_model(preset("tiny")), lambda n_images: pictures, step_settings)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files of `numbered_pictures`, a folder with the name of a picture, and a broken link."""
    directory = tmp_path / "pictures"
    for name, data in files().items():
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    (directory / "folder.png").mkdir()
    (directory / "gone.png").symlink_to("nowhere.png")
    return directory
