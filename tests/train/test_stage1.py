"""Stage 1: the losses fall, validation scores are reproducible, and imports stay light."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from stage1_runs import stage1_settings

from ulcodec.model.build import build_model
from ulcodec.model.presets import preset
from ulcodec.store.networks import load_weights
from ulcodec.store.tensor_files import read_tensors
from ulcodec.train.data.loading import load_pictures
from ulcodec.train.settings import Stage1Settings
from ulcodec.train.stage1 import train_stage1, validation_scores


def scores_of(settings: Stage1Settings, group: str | None) -> dict[str, float]:
    """Return the validation scores of fresh weights, or of a group of tensors in the run's checkpoint."""
    torch.manual_seed(settings.seed)
    model = build_model(preset(settings.config))
    if group is not None:
        load_weights(model, read_tensors(settings.out / "checkpoint", group))
    _, held_out = load_pictures(settings.data, min_side_px=64, validation_share=settings.validation_share)
    return validation_scores(model, held_out, settings)


def test_loss_of_the_codec_objective_falls(photographs: Path, finished_run: Path) -> None:
    settings = stage1_settings(photographs, finished_run)
    before, after, after_ema = (scores_of(settings, group) for group in (None, "model", "ema"))
    assert after["loss"] < 0.98 * before["loss"]
    assert after_ema["loss"] < before["loss"]
    bpp = [after[f"chain_bpp@{quality}"] for quality in ("0", "0.5", "1")]
    assert bpp == sorted(bpp)


@pytest.mark.parametrize("config", ["tiny", "paper_tiny"])
def test_loss_of_the_ul_objective_falls(settings: Stage1Settings, config: str) -> None:
    settings = replace(settings, objective="ul", config=config)
    before = scores_of(settings, None)
    train_stage1(settings)
    after = scores_of(settings, "model")
    assert after["loss"] < before["loss"]


@pytest.mark.parametrize(("config", "objective"), [("tiny", "codec"), ("paper_tiny", "ul")])
def test_validation_is_reproducible(settings: Stage1Settings, config: str, objective: str) -> None:
    settings = replace(settings, config=config, objective=objective)
    model = build_model(preset(config))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02)
    _, held_out = load_pictures(settings.data, min_side_px=64, validation_share=0.2)
    assert validation_scores(model, held_out, settings) == validation_scores(model, held_out, settings)
    assert model.training


def test_stage1_imports_no_entropy_coder_and_no_video_library() -> None:
    code = "import sys; sys.modules['constriction'] = sys.modules['av'] = None; import ulcodec.train.stage1"
    subprocess.run([sys.executable, "-c", code], check=True)
