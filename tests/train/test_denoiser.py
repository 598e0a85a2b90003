"""Training of the denoiser around a frozen codec, and the exported model with it."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import ulcodec
from ulcodec.codec.image import Codec
from ulcodec.codec.realism import Realism
from ulcodec.errors import TrainingError
from ulcodec.export.pipeline import export
from ulcodec.model.config import TINY
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.store.model_directory import DENOISER, open_model, save_model
from ulcodec.store.tensor_files import read_tensors
from ulcodec.train.denoiser import denoiser_loss, train_denoiser
from ulcodec.train.objective import decode_pictures
from ulcodec.train.settings import DenoiserSettings
from ulcodec_cli.main import app


@pytest.fixture(scope="module")
def settings(photographs: Path, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> DenoiserSettings:
    return DenoiserSettings(
        data=(photographs,), out=tmp_path_factory.mktemp("denoiser") / "run", model=str(tiny_model_dir),
        n_images=400, batch_size=4, crop_px=64, learning_rate=4e-3, validation_share=0.2, device="cpu",
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(settings: DenoiserSettings) -> Path:
    return train_denoiser(settings)


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    export(run, run.parent / "model")
    return run.parent / "model"


def validation_of(run: Path) -> dict[str, float]:
    """Read the only row of a run's validation log."""
    with (run / "validation.csv").open() as file:
        [row] = csv.DictReader(file)
    return {name: float(value) for name, value in row.items()}


def test_validation_losses_fall(settings: DenoiserSettings, run: Path, tmp_path: Path) -> None:
    fresh = train_denoiser(replace(settings, out=tmp_path / "run", n_images=4, learning_rate=1e-9))
    before, after = validation_of(fresh), validation_of(run)
    for quality in ("0", "0.2", "0.5"):
        assert after[f"spread_nats@{quality}"] < before[f"spread_nats@{quality}"] - 0.5
        assert after[f"diffusion@{quality}"] < before[f"diffusion@{quality}"] / 1.5


def test_export_changes_only_the_denoiser(exported: Path, tiny_model_dir: Path) -> None:
    before, after = open_model(tiny_model_dir), open_model(exported)
    assert after.fingerprint == before.fingerprint
    assert before.denoiser is None
    assert after.denoiser is not None
    assert after.denoiser["progress"]["n_images"] == 400
    changed_names = {name for name in before.weights if not torch.equal(before.weights[name], after.weights[name])}
    assert changed_names
    assert all(name.startswith(DENOISER) for name in changed_names)


def test_denoiser_changes_no_file_and_no_mean(exported: Path, tiny_codec: Codec, picture: np.ndarray) -> None:
    codec = ulcodec.load(exported, device="cpu")
    data = tiny_codec.encode(picture, quality=30)
    assert codec.encode(picture, quality=30) == data
    mean = tiny_codec.decode_array(data)
    assert np.array_equal(codec.decode_array(data), mean)
    assert not np.array_equal(codec.decode_array(data, realism=Realism(1, 2)), mean)


def test_denoiser_run_resumes(settings: DenoiserSettings, tmp_path: Path) -> None:
    halfway = replace(settings, out=tmp_path / "run", n_images=40)
    train_denoiser(halfway)
    train_denoiser(replace(halfway, n_images=80))
    finished = CliRunner().invoke(app, ["train", "resume", str(tmp_path / "run"), "--images", "120"])
    assert finished.exit_code == 0, finished.output


@pytest.mark.parametrize("option", ["model", "init"])
def test_run_starts_from_a_trained_denoiser(
    option: str, settings: DenoiserSettings, run: Path, exported: Path, tmp_path: Path
) -> None:
    start = replace(settings, out=tmp_path / "further", n_images=4, learning_rate=1e-9)
    train_denoiser(replace(start, **{option: str(exported)}))  # type: ignore[arg-type]
    weights = read_tensors(tmp_path / "further" / "checkpoint", "model")
    last, ema = (read_tensors(run / "checkpoint", group) for group in ("model", "ema"))
    assert all(torch.allclose(weights[name], ema[name].half().float(), atol=1e-5) for name in weights)
    assert any(not torch.equal(last[name], weights[name]) for name in weights)


def test_denoiser_of_another_configuration_is_refused(settings: DenoiserSettings, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="small: its denoiser is of another configuration"):
        train_denoiser(replace(settings, out=tmp_path / "run", init="small"))
    assert not (tmp_path / "run").exists()


def test_checkpoint_for_another_codec_is_refused(settings: DenoiserSettings, run: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    save_model(tmp_path / "other", "other", UnifiedLatentModel(TINY), {})
    with pytest.raises(TrainingError, match="holds another model"):
        train_denoiser(replace(settings, model=str(tmp_path / "other"), n_images=500))


@pytest.mark.parametrize(
    "changes", [{"n_images": None}, {"crop_px": 100}, {"crop_px": 32}, {"validation_share": 0.0}, {"optimizer": "sgd"}]
)
def test_invalid_denoiser_settings_are_refused(settings: DenoiserSettings, changes: dict[str, float]) -> None:
    with pytest.raises(TrainingError):
        train_denoiser(replace(settings, **changes))  # type: ignore[arg-type]


def test_training_means_are_close_to_decoded_files(tiny_codec: Codec, picture: np.ndarray) -> None:
    """They differ only where a symbol lies near the border between two bins."""
    model = tiny_codec.model
    x = torch.from_numpy(picture[:64, :64].copy()).permute(2, 0, 1)[None] / 255
    _, mean = decode_pictures(model, x, torch.tensor([0.3]))
    decoded = tiny_codec.decode_array(tiny_codec.encode(picture[:64, :64], quality=30))
    training_mean = (mean[0].permute(1, 2, 0) * 255).round().clip(0, 255).numpy()
    assert np.abs(training_mean - decoded).mean() < 4


def test_spread_is_a_negative_log_likelihood() -> None:
    """It is `-log p` of a Gaussian residual except for a constant. A fresh denoiser predicts a spread of 0.05."""
    model = UnifiedLatentModel(TINY)
    denoiser = model.decoder.denoiser
    generator = torch.Generator().manual_seed(0)
    mean, noise = torch.full((2, 3, 64, 64), 0.5), torch.randn(2, 3, 64, 64, generator=generator)
    features = torch.zeros(2, TINY.width_8, 8, 8)
    spread_nats = {}
    for std in (0.035, 0.05):
        x = mean + std / 2 * noise
        _, metrics = denoiser_loss(denoiser, x, features, mean, 2.0, generator.manual_seed(1))
        spread_nats[std] = float(metrics["spread_nats"])
    assert spread_nats[0.05] == pytest.approx(np.log(0.05) + 0.5, abs=0.02)
    assert spread_nats[0.035] == pytest.approx(np.log(0.05) + 0.5 * 0.49, abs=0.02)


def test_dry_run_and_decode_options(
    settings: DenoiserSettings, exported: Path, picture: np.ndarray, tmp_path: Path
) -> None:
    data = ["--data", str(settings.data[0]), "--out", str(tmp_path / "run")]
    finished = CliRunner().invoke(app, ["train", "denoiser", *data, "--minutes", "3", "--bias", "1", "--dry-run"])
    assert finished.exit_code == 0
    assert '"bias": 1.0' in finished.output
    assert not (tmp_path / "run").exists()
    (tmp_path / "a.ulc").write_bytes(ulcodec.load(exported, device="cpu").encode(picture))

    def decode(name: str, *options: str) -> int:
        paths = [str(tmp_path / "a.ulc"), "-o", str(tmp_path / name), "--model", str(exported)]
        return CliRunner().invoke(app, ["decode", *paths, *options]).exit_code

    assert decode("mean.png") == decode("drawn.png", "--realism", "1", "--steps", "2", "--seed", "4") == 0
    assert (tmp_path / "mean.png").read_bytes() != (tmp_path / "drawn.png").read_bytes()
    assert decode("again.png", "--realism", "1", "--steps", "2", "--seed", "4") == 0
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "drawn.png").read_bytes()
    assert decode("small.png", "--thumbnail") == 0
    for options in (["--realism", "1.5"], ["--steps", "0"], ["--seed", "-1"], ["--thumbnail", "--realism", "1"],
                  ["--recover", "--realism", "1"]):  # fmt: skip
        assert decode("refused.png", *options) == 2
        assert not (tmp_path / "refused.png").exists()
