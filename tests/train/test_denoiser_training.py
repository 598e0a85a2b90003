"""Training of the denoiser around a frozen codec, and the model that comes of it."""

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
from ulcodec.train.denoiser import decode_pictures, denoiser_loss, train_denoiser
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


def validation(run: Path) -> dict[str, float]:
    with (run / "validation.csv").open() as file:
        [row] = csv.DictReader(file)
    return {name: float(value) for name, value in row.items()}


def test_loss_falls(settings: DenoiserSettings, run: Path, tmp_path: Path) -> None:
    fresh = train_denoiser(replace(settings, out=tmp_path / "run", n_images=4, learning_rate=1e-9))
    before, after = validation(fresh), validation(run)
    for quality in ("0", "0.2", "0.5"):
        assert after[f"spread_nats@{quality}"] < before[f"spread_nats@{quality}"] - 0.5
        assert after[f"diffusion@{quality}"] < before[f"diffusion@{quality}"] / 1.5


def test_only_the_denoiser_changes(exported: Path, tiny_model_dir: Path) -> None:
    before, after = open_model(tiny_model_dir), open_model(exported)
    assert after.fingerprint == before.fingerprint
    assert before.denoiser is None
    assert after.denoiser is not None
    assert after.denoiser["progress"]["n_images"] == 400
    changed = {name for name in before.weights if not torch.equal(before.weights[name], after.weights[name])}
    assert changed
    assert all(name.startswith(DENOISER) for name in changed)


def test_files_and_means_stay_as_they_are(exported: Path, tiny_codec: Codec, picture: np.ndarray) -> None:
    codec = ulcodec.load(exported, device="cpu")
    data = tiny_codec.encode(picture, quality=30)
    assert codec.encode(picture, quality=30) == data
    mean = tiny_codec.decode_array(data)
    assert np.array_equal(codec.decode_array(data), mean)
    assert not np.array_equal(codec.decode_array(data, realism=Realism(1, 2)), mean)


def test_the_run_goes_on(settings: DenoiserSettings, tmp_path: Path) -> None:
    halfway = replace(settings, out=tmp_path / "run", n_images=40)
    train_denoiser(halfway)
    train_denoiser(replace(halfway, n_images=80))
    shown = CliRunner().invoke(app, ["train", "resume", str(tmp_path / "run"), "--images", "120"])
    assert shown.exit_code == 0, shown.output


@pytest.mark.parametrize("given", ["model", "init"])
def test_starts_from_a_trained_one(
    given: str, settings: DenoiserSettings, run: Path, exported: Path, tmp_path: Path
) -> None:
    start = replace(settings, out=tmp_path / "further", n_images=4, learning_rate=1e-9)
    train_denoiser(replace(start, **{given: str(exported)}))  # type: ignore[arg-type]
    trained = read_tensors(tmp_path / "further" / "checkpoint", "model")
    last, ema = (read_tensors(run / "checkpoint", group) for group in ("model", "ema"))
    assert all(torch.allclose(trained[name], ema[name].half().float(), atol=1e-5) for name in trained)
    assert any(not torch.equal(last[name], trained[name]) for name in trained)


def test_start_of_another_configuration(settings: DenoiserSettings, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="small: its denoiser is of another configuration"):
        train_denoiser(replace(settings, out=tmp_path / "run", init="small"))
    assert not (tmp_path / "run").exists()


def test_another_codec_is_refused(settings: DenoiserSettings, run: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    save_model(tmp_path / "other", "other", UnifiedLatentModel(TINY), {})
    with pytest.raises(TrainingError, match="holds another model"):
        train_denoiser(replace(settings, model=str(tmp_path / "other"), n_images=500))


@pytest.mark.parametrize(
    "wrong", [{"n_images": None}, {"crop_px": 100}, {"crop_px": 32}, {"validation_share": 0.0}, {"optimizer": "sgd"}]
)
def test_settings_that_cannot_run(settings: DenoiserSettings, wrong: dict[str, float]) -> None:
    with pytest.raises(TrainingError):
        train_denoiser(replace(settings, **wrong))  # type: ignore[arg-type]


def test_decoded_as_from_files(tiny_codec: Codec, picture: np.ndarray) -> None:
    """The means that training sees are those of files, but for symbols at the border between two steps."""
    model = tiny_codec.model
    x = torch.from_numpy(picture[:64, :64].copy()).permute(2, 0, 1)[None] / 255
    _, mean = decode_pictures(model, x, torch.tensor([0.3]))
    decoded = tiny_codec.decode_array(tiny_codec.encode(picture[:64, :64], quality=30))
    seen = (mean[0].permute(1, 2, 0) * 255).round().clip(0, 255).numpy()
    assert np.abs(seen - decoded).mean() < 4


def test_spread_is_a_likelihood() -> None:
    """`-log p` of the residual as a Gaussian but for a constant; a fresh denoiser assumes a spread of 0.05."""
    model = UnifiedLatentModel(TINY)
    denoiser = model.decoder.denoiser
    generator = torch.Generator().manual_seed(0)
    mean, noise = torch.full((2, 3, 64, 64), 0.5), torch.randn(2, 3, 64, 64, generator=generator)
    features = torch.zeros(2, TINY.width_8, 8, 8)
    spread = {}
    for std in (0.035, 0.05):
        x = mean + std / 2 * noise
        _, metrics = denoiser_loss(denoiser, x, features, mean, 2.0, generator.manual_seed(1))
        spread[std] = float(metrics["spread_nats"])
    assert spread[0.05] == pytest.approx(np.log(0.05) + 0.5, abs=0.02)
    assert spread[0.035] == pytest.approx(np.log(0.05) + 0.5 * 0.49, abs=0.02)


def test_command_line(settings: DenoiserSettings, exported: Path, picture: np.ndarray, tmp_path: Path) -> None:
    data = ["--data", str(settings.data[0]), "--out", str(tmp_path / "run")]
    shown = CliRunner().invoke(app, ["train", "denoiser", *data, "--minutes", "3", "--bias", "1", "--dry-run"])
    assert shown.exit_code == 0
    assert '"bias": 1.0' in shown.output
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
    for wrong in (["--realism", "1.5"], ["--steps", "0"], ["--seed", "-1"], ["--thumbnail", "--realism", "1"],
                  ["--recover", "--realism", "1"]):  # fmt: skip
        assert decode("wrong.png", *wrong) == 2
        assert not (tmp_path / "wrong.png").exists()
