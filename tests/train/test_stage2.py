"""Stage 2: the base model, its sampler, and a run over the latents of the tiny codec."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from ulcodec.codec.generate import guided, load_sampler, sample_latents
from ulcodec.diffusion.sampler import Denoiser
from ulcodec.diffusion.schedule import ALPHA_0, SIGMA_0, alpha, sigma
from ulcodec.errors import ModelError, TrainingError
from ulcodec.model.base_model import BaseModel, BaseModelConfig
from ulcodec.model.config import TINY
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.store.model_directory import save_model
from ulcodec.store.tensor_files import read_tensors
from ulcodec.train.settings import Stage2Settings
from ulcodec.train.stage2 import resume_stage2, train_stage2
from ulcodec_cli.main import app

MEAN, STD = torch.tensor([3.0, -0.5, 0.0]), torch.tensor([20.0, 1.0, 0.01])
"""Of three channels as unlike as those of a codec's latent."""


@pytest.fixture(scope="module")
def gaussian() -> BaseModel:
    """A fresh base model, whose network still corrects nothing."""
    base = (
        BaseModel(BaseModelConfig(latent_channels=3, width=32, n_blocks=1, head_size=16)).eval().requires_grad_(False)
    )
    base.set_statistics(MEAN, STD)
    return base


@pytest.mark.parametrize("log_snr", [-10.0, -6.0, 0.0, 5.0])
def test_fresh_base_model_denoises_a_gaussian_exactly(gaussian: BaseModel, log_snr: float) -> None:
    generator = torch.Generator().manual_seed(0)
    z, noise = torch.randn(2, 4000, 3, 2, 2, generator=generator)
    z = MEAN[:, None, None] + STD[:, None, None] * z
    level = torch.tensor(log_snr)
    z_hat = gaussian(alpha(level) * z + sigma(level) * noise, level.expand(len(z)))
    expected = STD**2 / (1 + STD**2 * level.exp())  # the posterior variance
    torch.testing.assert_close(((z - z_hat) ** 2).mean((0, 2, 3)), expected, rtol=0.04, atol=0)


def test_sampler_draws_the_gaussian(gaussian: BaseModel) -> None:
    z_0 = sample_latents(gaussian, gaussian.draw_noisiest((2000, 2, 2), torch.Generator().manual_seed(0)), 200)
    torch.testing.assert_close(z_0.mean((0, 2, 3)), ALPHA_0 * MEAN, rtol=0, atol=0.5)
    expected = ((ALPHA_0 * STD) ** 2 + SIGMA_0**2).sqrt()
    torch.testing.assert_close(z_0.std((0, 2, 3)), expected, rtol=0.05, atol=0)


def test_guidance_moves_away_from_the_guide(gaussian: BaseModel) -> None:
    guide = BaseModel(gaussian.config).eval().requires_grad_(False)
    guide.set_statistics(MEAN + torch.tensor([0.0, 1.0, 0.0]), STD)

    z_1 = gaussian.draw_noisiest((500, 2, 2), torch.Generator().manual_seed(0))

    def mean_drawn(denoise: Denoiser) -> float:
        return float(sample_latents(denoise, z_1, 50)[:, 1].mean())

    plain = mean_drawn(gaussian)
    assert mean_drawn(guided(gaussian, guide, 1.0)) == pytest.approx(plain, abs=1e-4)
    assert mean_drawn(guided(gaussian, guide, 2.0)) < plain - 0.3


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


def test_resumed_run_equals_the_unbroken_one(run: Path, settings: Stage2Settings, tmp_path: Path) -> None:
    early = replace(settings, out=tmp_path / "run", n_images=settings.n_images // 2)
    train_stage2(early)
    resume_stage2(early.out, n_images=settings.n_images)
    unbroken = read_tensors(run / "checkpoint", "ema")
    for name, resumed in read_tensors(early.out / "checkpoint", "ema").items():
        assert torch.equal(resumed, unbroken[name]), name


def test_latents_of_another_codec_are_refused(run: Path, settings: Stage2Settings, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="choose another run directory"):
        train_stage2(replace(settings, quality=51))
    torch.manual_seed(1)
    save_model(tmp_path / "other", "tiny", UnifiedLatentModel(TINY), {})
    with pytest.raises(TrainingError, match="choose another run directory"):
        train_stage2(replace(settings, model=str(tmp_path / "other")))
    with pytest.raises(ModelError, match="draws latents of model"):
        load_sampler(run, model=tmp_path / "other", device=torch.device("cpu"))


def test_sample_command(run: Path, tmp_path: Path) -> None:
    arguments = ["sample", str(run), "-o", str(tmp_path / "new"), "-n", "2", "--width", "64", "--height", "48"]
    arguments += ["--steps", "8", "--device", "cpu"]
    drawn = CliRunner().invoke(app, arguments)
    assert drawn.exit_code == 0, drawn.output
    first, second = (np.asarray(Image.open(tmp_path / "new" / f"000{index}.png")) for index in range(2))
    assert first.shape == second.shape == (48, 64, 3)
    assert not np.array_equal(first, second)
    assert CliRunner().invoke(app, arguments).exit_code == 2
    guided = CliRunner().invoke(app, [*arguments, "--force", "--guide", str(run), "--guidance", "3"])
    assert guided.exit_code == 0, guided.output
    again = np.asarray(Image.open(tmp_path / "new" / "0000.png")).astype(int)
    assert np.abs(again - first).max() <= 1, "a guide that draws the same guides nowhere"


def test_commands_that_take_the_other_stage(run: Path, tmp_path: Path) -> None:
    exported = CliRunner().invoke(app, ["train", "export", str(run), "-o", str(tmp_path / "model")])
    assert (exported.exit_code, "which makes no codec" in exported.stderr) == (2, True)
    resumed = CliRunner().invoke(app, ["train", "resume", str(run)])
    assert (resumed.exit_code, "this run is complete (1280 images)" in resumed.stdout) == (0, True)


@pytest.mark.parametrize(
    ("option", "value"), [("--quality", "101"), ("--crop", "40"), ("--config", "huge"), ("--model", "none")]
)
def test_stage2_refuses(photographs: Path, tmp_path: Path, option: str, value: str) -> None:
    arguments = ["train", "stage2", "--data", str(photographs), "--out", str(tmp_path / "run"), "--images", "8"]
    refused = CliRunner().invoke(app, [*arguments, option, value])
    assert refused.exit_code == 2
    assert len(refused.stderr.strip().splitlines()) == 1
