"""Training of the refiner around a frozen codec, and the exported model with it."""

import csv
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import ulcodec
from ulcodec import train
from ulcodec.codec.image import Codec
from ulcodec.errors import TrainingError
from ulcodec.export.pipeline import export
from ulcodec.model.decoder import Trunk
from ulcodec.model.distortion import lagrangians
from ulcodec.model.likelihood import predict_all_passes, unit_bin_bits
from ulcodec.model.refiner import Refiner
from ulcodec.model.refiner_config import RefinerConfig
from ulcodec.model.tiles import Tile
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.store.model_directory import open_model, save_model
from ulcodec.store.tensor_files import read_document, read_tensors
from ulcodec.train.objective import round_around
from ulcodec.train.refiner import CodedWithGradient, coded_with_gradient, refiner_loss, train_refiner
from ulcodec.train.settings import RefinerSettings
from ulcodec_cli.main import app


@pytest.fixture(scope="module")
def settings(photographs: Path, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> RefinerSettings:
    return RefinerSettings(
        data=(photographs,), out=tmp_path_factory.mktemp("refiner") / "run", model=str(tiny_model_dir), width=16,
        blocks=1, n_images=400, batch_size=4, crop_px=64, learning_rate=4e-3, warmup_images=40, n_validations=1,
        validation_share=0.2, device="cpu",
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(settings: RefinerSettings) -> Path:
    return train_refiner(settings)


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    export(run, run.parent / "model")
    return run.parent / "model"


def explained_by(run: Path, number: int = 0) -> dict[str, float]:
    """Read the explained shares in a row of a run's validation log."""
    with (run / "validation.csv").open() as file:
        row = list(csv.DictReader(file))[number]
    return {name: float(value) for name, value in row.items() if name.startswith("explained")}


def test_training_explains_the_steps(settings: RefinerSettings, run: Path, tmp_path: Path) -> None:
    fresh = train_refiner(replace(settings, out=tmp_path / "run", n_images=4, learning_rate=1e-9))
    before, after = explained_by(fresh), explained_by(run)
    assert len(after) == 5
    assert all(abs(share) < 1e-6 for share in before.values())  # the first prediction is zero
    assert all(share > 0.3 for share in after.values())


class Answering(Refiner):
    """Predicts the same step at each call, and keeps the rounding error that it saw."""

    def __init__(self, model: UnifiedLatentModel, step: torch.Tensor):
        super().__init__(model.config, RefinerConfig(16, 1))
        self.step, self.rounding_error = step, torch.empty(0)

    def forward(
        self,
        latent: torch.Tensor,
        rounding_error: torch.Tensor,
        picture_error: torch.Tensor,
        quality: torch.Tensor,
        tile: Tile | None = None,
    ) -> torch.Tensor:
        self.rounding_error = rounding_error
        return self.step


def loss_at(
    model: UnifiedLatentModel,
    x: torch.Tensor,
    quality: torch.Tensor,
    coded: CodedWithGradient,
    move: torch.Tensor,
    error_weight: float = 1.0,
) -> torch.Tensor:
    """Bits of the symbols that were coded, and weighted squared error, if the restored latent is moved."""
    _, unit_latent = model.encoder(x, quality)
    means = model.hyper_decoder.predict(quality).mean
    hyper = round_around(model.hyper_encoder(unit_latent, quality), means)
    latent = coded.restored + move
    hyper_features = model.hyper_decoder(hyper, quality, (latent.shape[2], latent.shape[3]))
    prediction = predict_all_passes(model, latent, quality, hyper_features)
    bits = unit_bin_bits(coded.restored - prediction.mean, prediction.log_scale).double().sum()
    error = (x.double() - model.decoder.trunk(latent, quality)[1].clamp(0, 1)).square().flatten(1).mean(1)
    weights = lagrangians(model.config, quality) * 255**2 * x.shape[2] * x.shape[3]
    return bits + error_weight * (weights * error).sum()


def test_gradient_is_that_of_bits_and_weighted_squared_error(tiny_model: UnifiedLatentModel) -> None:
    """Except for the bits of an element itself: those of the symbols stay, and their predictions change."""
    x = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    quality = torch.tensor([0.2, 0.9])
    coded = coded_with_gradient(tiny_model, x, quality)
    direction = coded.gradient / coded.gradient.abs().max()
    moved = [float(loss_at(tiny_model, x, quality, coded, sign * 1e-2 * direction)) for sign in (1, -1)]
    assert float((coded.gradient * direction).sum()) == pytest.approx((moved[0] - moved[1]) / 2e-2, rel=0.02)


def test_gradient_of_bits(tiny_model: UnifiedLatentModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checked alone, since that of the squared error is much larger."""
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(train.refiner, "lagrangians", lambda config, quality: torch.zeros_like(quality))
    coded = coded_with_gradient(tiny_model, x, torch.tensor([0.9]))
    assert bool(coded.gradient.any())
    direction = coded.gradient / coded.gradient.abs().max()
    moved = [
        float(loss_at(tiny_model, x, torch.tensor([0.9]), coded, sign * 1e-2 * direction, error_weight=0))
        for sign in (1, -1)
    ]
    assert float((coded.gradient * direction).sum()) == pytest.approx((moved[0] - moved[1]) / 2e-2, rel=0.02)


def test_clipped_pixels_have_no_gradient(tiny_model: UnifiedLatentModel, monkeypatch: pytest.MonkeyPatch) -> None:
    x, quality = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([0.5])
    forward = Trunk.forward

    def too_bright(self: Trunk, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features, mean = forward(self, *inputs)
        return features, mean + 3

    monkeypatch.setattr(Trunk, "forward", too_bright)
    coded = coded_with_gradient(tiny_model, x, quality)
    assert bool((coded.decoded == 1).all())
    monkeypatch.setattr(train.refiner, "lagrangians", lambda config, quality: torch.zeros_like(quality))
    assert torch.equal(coded.gradient, coded_with_gradient(tiny_model, x, quality).gradient)


def test_elements_that_are_surely_zero_do_not_count(
    tiny_model: UnifiedLatentModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, quality = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)), torch.tensor([0.7])
    coded = coded_with_gradient(tiny_model, x, quality)
    limit = float(coded.log_scale.exp().median())
    monkeypatch.setattr(train.refiner, "STILL_SCALE", limit)
    still = coded.log_scale <= math.log(limit)
    assert 0.2 < still.float().mean() < 0.8
    target = (coded.restored - coded.y - coded.gradient / 22).clamp(-1, 1)

    refiner = Answering(tiny_model, target + 5 * still)
    loss, metrics = refiner_loss(refiner, tiny_model, x, quality)
    assert float(loss) == pytest.approx(0, abs=1e-9)
    assert float(metrics["explained"]) == pytest.approx(1)
    assert torch.equal(refiner.rounding_error == 0, still | (coded.restored == coded.y))

    loss, metrics = refiner_loss(Answering(tiny_model, torch.zeros_like(target)), tiny_model, x, quality)
    assert float(loss) == pytest.approx(float(target[~still].square().mean()), rel=1e-5)
    assert float(metrics["explained"]) == pytest.approx(0, abs=1e-6)


def test_loss_of_a_step_that_is_known(tiny_model: UnifiedLatentModel) -> None:
    """The loss is zero, and everything is explained, for the target itself."""
    x, quality = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)), torch.tensor([0.7])
    coded = coded_with_gradient(tiny_model, x, quality)
    target = (coded.restored - coded.y - coded.gradient / 22).clamp(-1, 1)
    loss, metrics = refiner_loss(Answering(tiny_model, torch.zeros_like(target)), tiny_model, x, quality)
    assert loss > 0
    assert float(metrics["explained"]) == 0
    loss, metrics = refiner_loss(Answering(tiny_model, target), tiny_model, x, quality)
    assert float(loss) == pytest.approx(0, abs=1e-9)
    assert float(metrics["explained"]) == pytest.approx(1)


def test_export_adds_only_the_refiner(exported: Path, tiny_model_dir: Path) -> None:
    before, after = open_model(tiny_model_dir), open_model(exported)
    assert after.fingerprint == before.fingerprint
    assert before.refiner is None
    assert after.refiner is not None
    assert after.refiner.config == RefinerConfig(16, 1)
    assert after.document["refiner"]["progress"]["n_images"] == 400
    assert all(torch.equal(before.weights[name], after.weights[name]) for name in before.weights)


def test_refiner_lowers_the_loss_of_its_files(exported: Path, tiny_codec: Codec, photographs: Path) -> None:
    codec = ulcodec.load(exported, device="cpu")
    losses = []
    for effort in (1, 2):
        total = 0.0
        for path in sorted(photographs.glob("*.png")):
            original = ulcodec.io.pictures.load_image(path.read_bytes()).pixels
            data = codec.encode(original, quality=80, effort=effort)
            error = np.square(original - tiny_codec.decode_array(data).astype(float)).mean()
            total += 8 * len(data) + codec.model.config.lagrangian(0.8) * error * original[:, :, 0].size
        losses.append(total)
    assert losses[1] < losses[0]


def test_refiner_run_resumes(settings: RefinerSettings, tmp_path: Path) -> None:
    halfway = replace(settings, out=tmp_path / "run", n_images=40)
    train_refiner(halfway)
    train_refiner(replace(halfway, n_images=80))
    finished = CliRunner().invoke(app, ["train", "resume", str(tmp_path / "run"), "--images", "120"])
    assert finished.exit_code == 0, finished.output


@pytest.mark.parametrize("option", ["model", "init"])
def test_run_starts_from_a_trained_refiner(
    option: str, settings: RefinerSettings, run: Path, exported: Path, tmp_path: Path
) -> None:
    start = replace(settings, out=tmp_path / "further", n_images=4, learning_rate=1e-9)
    train_refiner(replace(start, **{option: str(exported)}))  # type: ignore[arg-type]
    weights, ema = read_tensors(tmp_path / "further" / "checkpoint", "model"), read_tensors(run / "checkpoint", "ema")
    trained = [name for name in weights if option == "model" or not name.startswith("log_gain")]
    assert all(torch.allclose(weights[name], ema[name].half().float(), atol=1e-5) for name in trained)
    assert trained


def test_gains_of_another_codecs_refiner_are_those_of_the_decoder(
    settings: RefinerSettings, exported: Path, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    other = UnifiedLatentModel(open_model(settings.model).config)
    with torch.no_grad():
        other.decoder.trunk.log_gain.values += 0.5
    save_model(tmp_path / "other", "other", other, {})
    start = replace(settings, out=tmp_path / "run", n_images=4, learning_rate=1e-9)
    train_refiner(replace(start, model=str(tmp_path / "other"), init=str(exported)))
    gains = read_tensors(tmp_path / "run" / "checkpoint", "model")["log_gain.values"]
    assert torch.allclose(gains, other.decoder.trunk.log_gain.values, atol=2e-3)


def test_refiner_of_another_shape_starts_anew(settings: RefinerSettings, exported: Path, tmp_path: Path) -> None:
    train_refiner(
        replace(settings, out=tmp_path / "run", model=str(exported), n_images=4, learning_rate=1e-9, width=24)
    )
    assert not read_tensors(tmp_path / "run" / "checkpoint", "ema")["head.weight"].abs().max() > 1e-6


def test_refiner_that_does_not_fit_is_refused(settings: RefinerSettings, exported: Path, tmp_path: Path) -> None:
    start = replace(settings, out=tmp_path / "run")
    with pytest.raises(TrainingError, match=r"its refiner does not fit: width 16, not 24$"):
        train_refiner(replace(start, width=24, init=str(exported)))
    with pytest.raises(TrainingError, match="has no refiner to start from"):
        train_refiner(replace(start, init=settings.model))
    assert not start.out.exists()


def test_run_that_started_from_another_refiner_resumes(
    settings: RefinerSettings, exported: Path, tmp_path: Path
) -> None:
    first = shutil.copytree(exported, tmp_path / "first")
    start = replace(settings, out=tmp_path / "run", n_images=40, init=str(first))
    train_refiner(start)
    shutil.rmtree(first)
    finished = CliRunner().invoke(app, ["train", "resume", str(start.out), "--images", "80"])
    assert finished.exit_code == 0, finished.output
    for same_run in (replace(start, n_images=120), replace(start, n_images=160, init=None)):
        train_refiner(same_run)
        assert read_document(start.out / "checkpoint", "config")["refiner"]["init"] == str(first)
    assert min(explained_by(start.out, number=-1).values()) > 0.3
    with pytest.raises(TrainingError, match="this run did not start from small; leave out --init"):
        train_refiner(replace(start, init="small"))


@pytest.mark.parametrize("shape", [{"width": 24}, {"blocks": 2}])
def test_checkpoint_of_another_shape_is_refused(settings: RefinerSettings, run: Path, shape: dict[str, int]) -> None:
    with pytest.raises(TrainingError, match="holds another model"):
        train_refiner(replace(settings, n_images=500, **shape))  # type: ignore[arg-type]


def test_export_takes_a_name_and_no_data(run: Path, photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="leave out the data"):
        export(run, tmp_path / "model", sources=[photographs])
    export(run, tmp_path / "model", name="mine")
    assert open_model(tmp_path / "model").name == "mine"


def test_network_sees_the_same_in_training_and_in_files(
    exported: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In files, prior and latents are integers: predictions differ a little, and with them a few elements."""
    codec, seen = ulcodec.load(exported, device="cpu"), list[list[torch.Tensor]]()
    refiner, forward = codec.torch_networks("this test").refiner, Refiner.forward
    assert refiner is not None

    def record(self: Refiner, *inputs: torch.Tensor) -> torch.Tensor:
        seen.append([part.float() for part in inputs[:4]])
        return forward(self, *inputs)  # type: ignore[arg-type]

    monkeypatch.setattr(Refiner, "forward", record)
    original = ulcodec.io.pictures.load_image((photographs / "3.png").read_bytes()).pixels[:64, :64]
    codec.encode(original, quality=60, effort=2)
    x = torch.from_numpy(original).permute(2, 0, 1)[None] / 255
    refiner_loss(refiner, codec.model, x, torch.tensor([0.6]))
    (latent, rounding, error, quality), (latent_2, rounding_2, error_2, quality_2) = seen
    assert torch.equal(quality, quality_2)
    for one, other, tolerance in ((latent, latent_2, 0.1), (rounding, rounding_2, 0.1), (error, error_2, 0.02)):
        assert one.shape == other.shape
        assert ((one - other).abs() < tolerance).float().mean() > 0.9
        assert float(torch.corrcoef(torch.stack((one.flatten(), other.flatten())))[0, 1]) > 0.6
    assert float(((rounding == 0) == (rounding_2 == 0)).float().mean()) > 0.95


def test_refiner_of_another_codec_is_refused(settings: RefinerSettings, run: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    other = UnifiedLatentModel(open_model(settings.model).config)
    save_model(tmp_path / "other", "other", other, {})
    with pytest.raises(TrainingError, match="holds another model"):
        train_refiner(replace(settings, model=str(tmp_path / "other"), n_images=500))


@pytest.mark.parametrize(
    "changes", [{"n_images": None}, {"crop_px": 100}, {"width": 1}, {"blocks": -1}, {"width": 4.5}]
)
def test_invalid_refiner_settings_are_refused(settings: RefinerSettings, changes: dict[str, float]) -> None:
    with pytest.raises(TrainingError):
        train_refiner(replace(settings, **changes))  # type: ignore[arg-type]
