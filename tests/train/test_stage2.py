"""Stage 2: training of the base model on latents of the tiny codec, and pictures drawn from it."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from ulcodec.codec.generate import load_sampler
from ulcodec.errors import ModelError, TrainingError
from ulcodec.model.config import TINY
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.store.model_directory import save_model
from ulcodec.store.tensor_files import read_document, read_tensors
from ulcodec.train.settings import Stage1Settings, Stage2Settings
from ulcodec.train.stage1 import resume_stage1, train_stage1
from ulcodec.train.stage2 import resume_stage2, train_stage2
from ulcodec_cli.main import app


@pytest.fixture(scope="module")
def settings(photographs: Path, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Stage2Settings:
    return Stage2Settings(
        data=(photographs,), out=tmp_path_factory.mktemp("stage2") / "run", model=str(tiny_model_dir), config="tiny",
        quality=50, n_images=1280, batch_size=8, crop_px=48, learning_rate=4e-4, n_validations=4, validation_share=0.2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(settings: Stage2Settings) -> Path:
    return train_stage2(settings)


def test_validation_loss_falls(run: Path) -> None:
    with open(run / "validation.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [int(row["n_images"]) for row in rows] == [320, 640, 960, 1280]
    losses = [float(row["loss"]) for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.995 * losses[0]


def test_longer_run_resumes_with_the_same_weights(run: Path, settings: Stage2Settings, tmp_path: Path) -> None:
    resumed = replace(settings, out=tmp_path / "run", n_images=settings.n_images // 2)
    train_stage2(resumed)
    resume_stage2(resumed.out, n_images=settings.n_images)
    expected = read_tensors(run / "checkpoint", "ema")
    for name, weight in read_tensors(resumed.out / "checkpoint", "ema").items():
        assert torch.equal(weight, expected[name]), name


def test_latents_of_another_codec_are_refused(run: Path, settings: Stage2Settings, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="choose another run directory"):
        train_stage2(replace(settings, quality=51))
    torch.manual_seed(1)
    save_model(tmp_path / "other", "tiny", UnifiedLatentModel(TINY), {})
    with pytest.raises(TrainingError, match="choose another run directory"):
        train_stage2(replace(settings, model=str(tmp_path / "other")))
    with pytest.raises(ModelError, match="draws latents of model"):
        load_sampler(run, model=tmp_path / "other", device=torch.device("cpu"))


def test_sample_command_draws_pictures(run: Path, tmp_path: Path) -> None:
    arguments = ["sample", str(run), "-o", str(tmp_path / "new"), "-n", "2", "--width", "64", "--height", "48"]
    arguments += ["--steps", "8", "--device", "cpu"]
    finished = CliRunner().invoke(app, arguments)
    assert finished.exit_code == 0, finished.output
    first, second = (np.asarray(Image.open(tmp_path / "new" / f"000{index}.png")) for index in range(2))
    assert first.shape == second.shape == (48, 64, 3)
    assert not np.array_equal(first, second)
    assert CliRunner().invoke(app, arguments).exit_code == 2, "the pictures exist"
    refused = CliRunner().invoke(app, [*arguments, "--force", "--video", "gif"])
    assert (refused.exit_code, "draws pictures, not clips" in refused.stderr) == (2, True)
    refused = CliRunner().invoke(app, ["sample", str(run), "-o", str(tmp_path), "--reconstruct", "photos"])
    assert (refused.exit_code, "a codec reconstructs by ulcodec encode" in refused.stderr) == (2, True)
    finished = CliRunner().invoke(app, [*arguments, "--force", "--guide", str(run), "--guidance", "3"])
    assert finished.exit_code == 0, finished.output
    guided_first = np.asarray(Image.open(tmp_path / "new" / "0000.png")).astype(int)
    assert np.abs(guided_first - first).max() <= 1, "a model that guides itself changes nothing"


def test_export_refuses_stage_2_and_resume_accepts_it(run: Path, tmp_path: Path) -> None:
    exported = CliRunner().invoke(app, ["train", "export", str(run), "-o", str(tmp_path / "model")])
    assert (exported.exit_code, "which makes no codec" in exported.stderr) == (2, True)
    resumed = CliRunner().invoke(app, ["train", "resume", str(run)])
    assert (resumed.exit_code, "this run is complete (1280 images)" in resumed.stdout) == (0, True)


@pytest.mark.parametrize(
    ("option", "value"), [("--quality", "101"), ("--crop", "40"), ("--config", "huge"), ("--model", "none")]
)
def test_invalid_options_of_stage_2_are_refused(photographs: Path, tmp_path: Path, option: str, value: str) -> None:
    arguments = ["train", "stage2", "--data", str(photographs), "--out", str(tmp_path / "run"), "--images", "8"]
    finished = CliRunner().invoke(app, [*arguments, option, value])
    assert finished.exit_code == 2
    assert len(finished.stderr.strip().splitlines()) == 1


def test_runs_of_earlier_versions_continue(run: Path, photographs: Path, tmp_path: Path) -> None:
    """Their configurations had no strides, no second level, and no number of frames."""
    stage1 = train_stage1(
        Stage1Settings(
            data=(photographs,), out=tmp_path / "stage1", config="paper_tiny", objective="ul", n_images=8, batch_size=4,
            crop_px=48, validation_share=0.2, device="cpu",
        )
    )  # fmt: skip
    base = shutil.copytree(run, tmp_path / "base")
    for directory, part, added in (
        (stage1, "model", ("strides",)),
        (stage1, "stage1", ("n_frames", "resize_px", "latent_warmup_images")),
        (base, "model", ("base", "n_axes", "fine_width", "fine_blocks")),
        (base, "stage2", ("shards_in_memory", "crops_per_shard")),
    ):
        file = directory / "checkpoint" / "config.json"
        config = json.loads(file.read_text())
        values = config[part]["base"] if "base" in added else config[part]
        for name in set(added) - {"base"}:
            del values[name]
        file.write_text(json.dumps(config))
    assert next(load_sampler(stage1, device=torch.device("cpu")).sample(1, n_steps=1, decoder_steps=2)).shape[-1] == 3
    resume_stage1(stage1, n_images=16)
    assert read_document(stage1 / "checkpoint", "progress")["n_images"] == 16
    n_images = read_document(base / "checkpoint", "progress")["n_images"]
    resume_stage2(base, n_images=2 * n_images)
    assert read_document(base / "checkpoint", "progress")["n_images"] == 2 * n_images
