"""Stage 1 in miniature: it learns, resumes exactly, survives being killed, and ends in a model that codes."""

import csv
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import ulcodec
from ulcodec.codec.evaluation import middle
from ulcodec.errors import DeviceError, ModelError, TrainingError
from ulcodec.export.pipeline import check_output, export
from ulcodec.io.sources import read_pictures
from ulcodec.model.build import build_model
from ulcodec.model.config import TINY
from ulcodec.model.presets import PRESETS, preset
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.store.networks import load_weights
from ulcodec.store.tensor_files import read_document, read_tensors
from ulcodec.train import loop
from ulcodec.train.data.loading import load_pictures
from ulcodec.train.log import LossGuard, Metrics, summarise
from ulcodec.train.objective import OBJECTIVES, codec_loss
from ulcodec.train.settings import SLOW_PARAMETERS, ObjectiveSettings, Stage1Settings
from ulcodec.train.stage1 import resume_stage1, train_stage1, validation_scores
from ulcodec.train.warm_start import DEPTHS, load_initial_weights
from ulcodec_cli.main import app

N_IMAGES = 160
BATCH_SIZE = 8
SETTINGS = {
    "config": "tiny",
    "n_images": N_IMAGES,
    "batch_size": BATCH_SIZE,
    "crop_px": 64,
    "learning_rate": 0.1,
    "validation_share": 0.2,
}
"""Twenty steps of the tiny model, most of them in the warm-up; the rate depends on the number of images alone."""

KILLED_RUN = """
import json, os, signal, sys
from pathlib import Path

import torch

from ulcodec.train import settings, stage1
from ulcodec.train.settings import LoopSettings

torch.set_num_threads(1)
settings.LoopSettings = lambda **values: LoopSettings(**values, checkpoint_seconds=0)
replace, count = os.replace, 0

def killing_replace(source, target):
    global count
    count += "safetensors" in str(source)
    if count == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(source, target)

os.replace = killing_replace
folder, out, values = sys.argv[1:]
stage1.train_stage1(settings.Stage1Settings(data=(Path(folder),), out=Path(out), **json.loads(values)))
"""
"""Saves after every step; dies in the fifth save, between the two renames that replace the checkpoint."""


@pytest.fixture
def settings(photographs: Path, tmp_path: Path) -> Stage1Settings:
    return settings_for(photographs, tmp_path / "run")


def settings_for(photographs: Path, out: Path) -> Stage1Settings:
    return Stage1Settings(data=(photographs,), out=out, **SETTINGS)


@pytest.fixture(scope="module")
def finished_run(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unbroken run that others are compared with."""
    return train_stage1(settings_for(photographs, tmp_path_factory.mktemp("unbroken") / "run"))


def interrupt_at(monkeypatch: pytest.MonkeyPatch, objective: str, step: int, action: Callable[[], None]) -> None:
    """Call `action` inside the given step (counted from 0) of the runs that start now."""
    original, count = OBJECTIVES[objective], 0

    def interrupted(*arguments: object) -> tuple[Tensor, Metrics]:
        nonlocal count
        if torch.is_grad_enabled():
            if count == step:
                action()
            count += 1
        return original(*arguments)

    monkeypatch.setitem(OBJECTIVES, objective, interrupted)


def send_interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def stop_half_way(settings: Stage1Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(patch, settings.objective, N_IMAGES // BATCH_SIZE // 2 - 1, send_interrupt)
        with pytest.raises(KeyboardInterrupt):
            train_stage1(settings)
    assert read_document(settings.out / "checkpoint", "progress")["n_images"] == N_IMAGES // 2


def assert_same_state(run: Path, other: Path) -> None:
    """Weights, EMA and optimiser moments, bit for bit."""
    for group in ("model", "ema", "optimizer"):
        tensors, others = (read_tensors(directory / "checkpoint", group) for directory in (run, other))
        assert tensors.keys() == others.keys()
        assert [name for name in tensors if not torch.equal(tensors[name], others[name])] == []


def scores(settings: Stage1Settings, group: str | None) -> dict[str, float]:
    """Validation scores of fresh weights, or of a group in the run's checkpoint."""
    torch.manual_seed(settings.seed)
    model = build_model(preset(settings.config))
    if group is not None:
        load_weights(model, read_tensors(settings.out / "checkpoint", group))
    _, held_out = load_pictures(settings.data, min_side_px=64, validation_share=settings.validation_share)
    return validation_scores(model, held_out, settings)


def test_codec_objective_learns(photographs: Path, finished_run: Path) -> None:
    settings = settings_for(photographs, finished_run)
    before, after, averaged = (scores(settings, group) for group in (None, "model", "ema"))
    assert after["loss"] < 0.98 * before["loss"]
    assert averaged["loss"] < before["loss"]
    assert [after[f"chain_bpp@{quality}"] for quality in ("0", "0.5", "1")] == sorted(
        after[f"chain_bpp@{quality}"] for quality in ("0", "0.5", "1")
    )


@pytest.mark.parametrize("config", ["tiny", "paper_tiny"])
def test_ul_objective_learns(settings: Stage1Settings, config: str) -> None:
    settings = dataclasses.replace(settings, objective="ul", config=config)
    before = scores(settings, None)
    train_stage1(settings)
    after = scores(settings, "model")
    assert after["loss"] < before["loss"]


def test_resumed_run_equals_the_unbroken_one(
    settings: Stage1Settings, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_half_way(settings, monkeypatch)
    train_stage1(settings)
    assert_same_state(settings.out, finished_run)


def test_resumed_run_of_another_optimiser(settings: Stage1Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(settings, optimizer="soap")
    unbroken = train_stage1(replace(settings, out=settings.out.parent / "unbroken"))
    stop_half_way(settings, monkeypatch)
    with pytest.raises(TrainingError, match="state of the optimiser soap, not adamw"):
        train_stage1(replace(settings, optimizer="adamw"))
    train_stage1(settings)
    assert_same_state(settings.out, unbroken)


def test_training_on_streamed_shards(photographs: Path, tmp_path: Path) -> None:
    for number in range(3):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as shard:
            for file in sorted(photographs.glob("*.png"))[3 * number : 3 * number + 3]:
                shard.add(file, arcname=file.name)
    given = {**SETTINGS, "validation_share": 0.4, "shards_in_memory": 2, "crops_per_shard": 2 * BATCH_SIZE}
    whole = Stage1Settings(data=(tmp_path,), out=tmp_path / "whole", **given)
    train_stage1(whole)
    broken = replace(whole, out=tmp_path / "broken")
    train_stage1(replace(broken, n_images=N_IMAGES // 2))
    resume_stage1(broken.out, n_images=N_IMAGES)
    assert_same_state(broken.out, whole.out)


def test_complete_run_is_left_alone(photographs: Path, finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_stage1(settings_for(photographs, finished_run))
    assert f"this run is complete ({N_IMAGES} images)" in capsys.readouterr().out


def test_killed_run_resumes(settings: Stage1Settings, finished_run: Path) -> None:
    [photographs] = settings.data
    command = [sys.executable, "-c", KILLED_RUN, str(photographs), str(settings.out), json.dumps(SETTINGS)]
    killed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    [ready] = (settings.out / "checkpoint").glob(".ulcodec-*.ready")
    moved = {file.name for file in (settings.out / "checkpoint").glob("*.safetensors")}
    assert moved.issuperset(left := {file.name for file in ready.glob("*.safetensors")})
    assert 0 < len(left) < len(moved), "killed between two files of a checkpoint"
    train_stage1(settings)
    assert_same_state(settings.out, finished_run)


def test_log_forgets_what_was_not_saved(settings: Stage1Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_half_way(settings, monkeypatch)
    log = settings.out / "log.csv"
    log.write_text("n_images,loss\n8,1.5\n80,1.25\n88,1.125\n")
    train_stage1(settings)
    with open(log, newline="") as handle:
        assert [row["n_images"] for row in csv.DictReader(handle)][:2] == ["8", "80"]
    assert "1.125" not in log.read_text()


def test_every_step_can_be_logged_and_saved(
    settings: Stage1Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loop.LoopSettings, "__init__", lambda self, **values: init(self, **values, log_seconds=0))
    train_stage1(dataclasses.replace(settings, n_images=10 * BATCH_SIZE))
    with open(settings.out / "log.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [int(row["n_images"]) for row in rows] == list(range(8, 81, 8))
    assert all(float(row["chain_bpp"]) > 0 and float(row["gradient_norm"]) > 0 for row in rows)
    assert float(rows[-1]["learning_rate"]) == 0
    assert capsys.readouterr().out.count(" images/s ") == 10
    assert (settings.out / "constant" / "progress.json").exists()


init = loop.LoopSettings.__init__


def test_loss_that_is_not_finite_stops_the_run(
    settings: Stage1Settings, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_half_way(settings, monkeypatch)
    kept = {file.name: file.read_bytes() for file in (settings.out / "checkpoint").iterdir()}
    codec_loss = OBJECTIVES["codec"]

    def broken(*arguments: object) -> tuple[Tensor, Metrics]:
        loss, metrics = codec_loss(*arguments)
        return loss * torch.nan, metrics

    with monkeypatch.context() as patch:
        patch.setitem(OBJECTIVES, "codec", broken)
        with pytest.raises(TrainingError, match="the loss became nan; the last good checkpoint is kept"):
            train_stage1(settings)
    assert {file.name: file.read_bytes() for file in (settings.out / "checkpoint").iterdir()} == kept
    assert not (settings.out / "constant").exists()
    train_stage1(settings)
    assert_same_state(settings.out, finished_run)


def test_guard_stops_explosions_but_not_falls() -> None:
    guard = LossGuard(20.0)
    for _ in range(60):
        guard.check(1.0)
    guard.check(19.0)
    guard.check(1e-3)
    with pytest.raises(TrainingError, match="the loss exploded to 21 from a median of 1"):
        guard.check(21.0)
    for loss in (float("inf"), float("nan")):
        with pytest.raises(TrainingError, match="the loss became"):
            LossGuard(20.0).check(loss)


def test_gradient_that_is_not_finite_stops_the_run() -> None:
    step = torch.tensor(1.0), {"gradient_norm": torch.tensor(torch.nan)}
    with pytest.raises(TrainingError, match="the gradient is not finite"):
        summarise([step], LossGuard(20.0))


@pytest.mark.parametrize(("config", "objective"), [("tiny", "codec"), ("paper_tiny", "ul")])
def test_validation_repeats(settings: Stage1Settings, config: str, objective: str) -> None:
    settings = dataclasses.replace(settings, config=config, objective=objective)
    model = build_model(preset(config))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02)
    _, held_out = load_pictures(settings.data, min_side_px=64, validation_share=0.2)
    assert validation_scores(model, held_out, settings) == validation_scores(model, held_out, settings)
    assert model.training


def test_another_configuration_does_not_resume(settings: Stage1Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_half_way(settings, monkeypatch)
    with pytest.raises(TrainingError, match="holds another model configuration"):
        train_stage1(dataclasses.replace(settings, config="paper_tiny", objective="ul"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "sgd"}, "unknown optimiser 'sgd'; known: adamw, soap"),
        ({"objective": "gan"}, "unknown objective 'gan'; known: codec, ul"),
        ({"config": "paper_tiny"}, "writes no files: train it with the objective ul"),
        ({"n_images": None}, "give the run a length"),
        ({"crop_px": 80}, "multiple of 64 pixels, got 80"),
        ({"device": "no-such-device"}, "cannot use device 'no-such-device'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_run(settings: Stage1Settings, changes: dict[str, object], message: str) -> None:
    with pytest.raises((TrainingError, DeviceError), match=message):
        train_stage1(dataclasses.replace(settings, **changes))
    assert not settings.out.exists()


def test_unknown_configuration(settings: Stage1Settings) -> None:
    with pytest.raises(ModelError, match="unknown configuration 'huge'"):
        train_stage1(dataclasses.replace(settings, config="huge"))


def test_resolved_settings_are_json(settings: Stage1Settings) -> None:
    resolved = settings.resolved()
    assert json.loads(json.dumps(resolved)) == resolved
    assert resolved["model"]["name"] == "tiny"
    assert resolved["stage1"]["n_images"] == N_IMAGES


def test_trained_model_encodes_and_decodes(finished_run: Path, tmp_path: Path, picture: np.ndarray) -> None:
    sha256 = export(finished_run, tmp_path / "model", name="mine", sources=()).sha256
    codec = ulcodec.load(tmp_path / "model", device="cpu")
    assert (codec.name, codec.fingerprint) == ("mine", sha256[:8])
    data = codec.encode(picture, quality=80)
    assert codec.decode_array(data).shape == picture.shape
    said = codec.describe(data)
    assert said["payload_bits"] < 1.03 * said["bound_bits"] + 4 * 16
    provenance = read_document(tmp_path / "model", "config")["provenance"]
    assert provenance["progress"]["n_images"] == N_IMAGES
    assert provenance["training"]["objective"] == "codec"
    ema = read_tensors(finished_run / "checkpoint", "ema")
    exported = dict(codec.model.named_parameters())
    assert all(torch.equal(exported[name], weight.half().float()) for name, weight in ema.items())
    assert export(finished_run, tmp_path / "again", name="mine", sources=()).sha256 == sha256


def test_export_fits_tables_and_measures_what_the_integers_cost(finished_run: Path, tmp_path: Path) -> None:
    unfitted = export(finished_run, tmp_path / "unfitted", sources=()).sha256
    arguments = ["train", "export", str(finished_run), "-o", str(tmp_path / "model")]
    first, fitted, line = CliRunner().invoke(app, arguments).stdout.splitlines()
    assert first.endswith(f"fingerprint {ulcodec.load(tmp_path / 'model', device='cpu').fingerprint}")
    assert unfitted[:8] not in first
    assert "tables fitted" in fitted
    costs = [float(number) for number in re.findall(r"([+-][0-9.]+) % at quality", line)]
    assert len(costs) == 3
    assert all(-20 < cost < 3 for cost in costs)
    finished = CliRunner().invoke(app, [*arguments, "--force", "--data", str(tmp_path / "none")])
    assert (finished.exit_code, "means and tables not fitted to files: no pictures" in finished.stdout) == (0, True)


def test_eval_of_a_run_against_its_model(finished_run: Path, photographs: Path, tmp_path: Path) -> None:
    export(finished_run, tmp_path / "model", sources=())
    arguments = ["eval", str(photographs), "--model", str(finished_run), "--limit", "2", "--crop", "48"]
    found = json.loads(CliRunner().invoke(app, [*arguments, "--against", str(tmp_path / "model"), "--json"]).stdout)
    assert found["n_pictures"] == 2
    ours, theirs = found["curves"].values()
    assert ours == theirs
    assert [point["quality"] for point in ours] == [0, 25, 50, 75, 100]
    assert found["bd_rate_percent"] == pytest.approx(0, abs=1e-9)
    codec = ulcodec.load(tmp_path / "model", device="cpu")
    crops = [middle(pixels, 48) for pixels in read_pictures([photographs], 2)]
    sizes = [len(codec.encode(crop, quality=50)) for crop in crops]
    assert ours[2]["bpp"] == pytest.approx(8 * sum(sizes) / 2 / 48**2)
    shown = CliRunner().invoke(app, [*arguments, "--qualities", "50"])
    assert f"{ours[2]['bpp']:.4f}" in shown.stdout


@pytest.mark.parametrize("qualities", ["", "5,x", "101", "-1,3"])
def test_eval_refuses_qualities(photographs: Path, qualities: str) -> None:
    assert CliRunner().invoke(app, ["eval", str(photographs), "--qualities", qualities]).exit_code == 2


def test_a_finished_run_goes_on_from_its_full_rate(finished_run: Path, settings: Stage1Settings) -> None:
    run = settings.out
    shutil.copytree(finished_run, run)
    before = read_document(run / "constant", "progress")
    resume_stage1(run, n_images=N_IMAGES + 5 * BATCH_SIZE, data=settings.data)
    after = read_document(run / "checkpoint", "progress")
    assert before["n_images"] < N_IMAGES < after["n_images"] == N_IMAGES + 5 * BATCH_SIZE
    unbroken = dataclasses.replace(settings, out=run.with_name("unbroken"), n_images=N_IMAGES + 5 * BATCH_SIZE)
    train_stage1(unbroken)
    ours, theirs = (read_tensors(path / "checkpoint", "model") for path in (run, unbroken.out))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    resume_stage1(run)
    assert read_document(run / "checkpoint", "progress") == after
    with pytest.raises(TrainingError, match="no checkpoint to resume"):
        resume_stage1(run.with_name("none"))


def test_run_that_starts_from_a_model(
    settings: Stage1Settings, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dataclasses.replace(settings, init=tiny_model_dir, n_images=BATCH_SIZE)
    train_stage1(settings)
    start, end = read_tensors(tiny_model_dir, "weights"), read_tensors(settings.out / "checkpoint", "model")
    assert all((end[name] - weight.float()).abs().max() < 1e-3 for name, weight in start.items())
    with pytest.raises(TrainingError, match="holds another model configuration"):
        train_stage1(
            dataclasses.replace(settings, config="paper_tiny", objective="ul", out=settings.out.with_name("other"))
        )


def test_a_deeper_model_starts_as_the_one_it_grows_from(
    settings: Stage1Settings, tiny_model: UnifiedLatentModel, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deeper = dataclasses.replace(TINY, name="deeper", **{depth: getattr(TINY, depth) + 1 for depth in DEPTHS})
    monkeypatch.setitem(PRESETS, "deeper", deeper)
    grown = build_model(deeper)
    load_initial_weights(grown, tiny_model_dir, json.loads(json.dumps(deeper.to_json())))
    x, quality = torch.rand(2, 3, 32, 48), torch.tensor([0.2, 0.7])
    losses = [
        codec_loss(model, x, quality, ObjectiveSettings(), torch.Generator().manual_seed(0))[0]
        for model in (tiny_model, grown)
    ]
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-5)
    train_stage1(dataclasses.replace(settings, config="deeper", init=tiny_model_dir, n_images=2 * BATCH_SIZE))
    trained = read_tensors(settings.out / "checkpoint", "model")
    new = [
        weight for name, weight in trained.items() if ".expand.weight" in name and name not in tiny_model.state_dict()
    ]
    assert len(new) == len(DEPTHS)
    assert all(weight.any() for weight in new), "the new blocks learn"
    export(settings.out, settings.out / "model", sources=())
    with pytest.raises(TrainingError, match="holds another model configuration"):  # and not the other way
        train_stage1(dataclasses.replace(settings, init=settings.out / "model", out=settings.out.with_name("other")))


def test_more_latent_channels_and_qualities_start_from_a_smaller_model(
    settings: Stage1Settings, tiny_model: UnifiedLatentModel, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    further = TINY.n_quality_anchors + 2
    ratio = TINY.lagrangian_high / TINY.lagrangian_low
    larger = dataclasses.replace(
        TINY,
        name="larger",
        latent_channels=48,
        n_quality_anchors=further,
        lagrangian_high=TINY.lagrangian_low * ratio ** ((further - 1) / (TINY.n_quality_anchors - 1)),
    )
    monkeypatch.setitem(PRESETS, "larger", larger)
    grown_model = build_model(larger)
    load_initial_weights(grown_model, tiny_model_dir, json.loads(json.dumps(larger.to_json())))
    x, quality = torch.rand(2, 3, 32, 48), torch.tensor([0.2, 1.0])
    same_quality = quality * (TINY.n_quality_anchors - 1) / (further - 1)
    old, _ = tiny_model.encoder(x, quality)
    y, unit_latent = grown_model.encoder(x, same_quality)
    assert torch.allclose(y[:, :32], old, rtol=1e-3, atol=1e-3), "the first channels are those of the smaller model"
    assert y[:, 32:].square().mean() > 0, "and the others carry coefficients"
    _, before = tiny_model.decoder.trunk(old, quality)
    _, without = grown_model.decoder.trunk(y * (torch.arange(48) < 32)[:, None, None], same_quality)
    _, after = grown_model.decoder.trunk(y, same_quality)
    assert torch.allclose(without, before, atol=1e-3)
    assert (after - x).square().mean() < (before - x).square().mean(), "which bring the picture nearer"
    assert torch.allclose(
        grown_model.hyper_encoder(unit_latent, same_quality),
        tiny_model.hyper_encoder(unit_latent[:, :32], quality),
        rtol=1e-3,
        atol=1e-3,
    )
    steep = dataclasses.replace(larger, lagrangian_high=2 * larger.lagrangian_high)
    with pytest.raises(TrainingError, match="holds another model configuration"):
        load_initial_weights(build_model(steep), tiny_model_dir, json.loads(json.dumps(steep.to_json())))
    train_stage1(dataclasses.replace(settings, config="larger", init=tiny_model_dir, n_images=2 * BATCH_SIZE))
    export(settings.out, settings.out / "model", sources=())
    codec = ulcodec.load(settings.out / "model", device="cpu")
    picture = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    assert codec.decode(codec.encode(picture, quality=100)).size == (56, 40)


def test_units_that_leak_start_from_a_model_of_before_there_were_any(
    tiny_model: UnifiedLatentModel, tiny_model_dir: Path, tmp_path: Path
) -> None:
    older = tmp_path / "older"
    shutil.copytree(tiny_model_dir, older)
    config = json.loads((older / "config.json").read_text())
    assert config["model"].pop("negative_slope") == 0
    (older / "config.json").write_text(json.dumps(config))
    leaky = dataclasses.replace(TINY, negative_slope=0.01)
    model = build_model(leaky)
    load_initial_weights(model, older, json.loads(json.dumps(leaky.to_json())))
    block = model.encoder.blocks_8[0]
    with torch.no_grad():
        block.reduce.bias[:5] = -100.0
    loss = codec_loss(model, torch.rand(2, 3, 64, 64), torch.tensor([0.2, 0.7]), ObjectiveSettings(), torch.Generator())
    loss[0].backward()
    assert all(block.reduce.weight.grad[unit].any() for unit in range(5)), "units far below zero learn"
    assert block.activation(torch.tensor(-1.0)).item() == pytest.approx(-0.01)


def test_linear_transforms_learn_slowly(settings: Stage1Settings) -> None:
    """The first step of Adam moves every weight that has a gradient by the learning rate."""
    seen = set()
    for objective in OBJECTIVES:
        run = dataclasses.replace(settings, n_images=BATCH_SIZE, objective=objective, out=settings.out / objective)
        train_stage1(run)
        torch.manual_seed(run.seed)
        start = build_model(preset(run.config)).state_dict()
        end = read_tensors(run.out / "checkpoint", "model")
        moved = {name: float((end[name] - weight).abs().max()) for name, weight in start.items()}
        full = max(moved.values())
        assert full > 0
        for name, distance in moved.items():
            part, share = next((slow for slow in SLOW_PARAMETERS if name.endswith(slow[0])), ("", 1.0))
            if distance:
                assert distance / full == pytest.approx(share, rel=0.05), name
                seen.add(part)
    assert seen == {"", *(part for part, _ in SLOW_PARAMETERS)}


def test_export_leaves_what_it_did_not_write(finished_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    kept = {"a.old/weights.txt": "last month", "model.old/a": "1", "model.partial/b": "2"}
    for name, text in kept.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    sha256 = export(finished_run, out, sources=()).sha256
    kept |= {"model/README.txt": "mine", "model/other/config.json": "{}"}
    (out / "other").mkdir()
    for name in ("model/README.txt", "model/other/config.json"):
        (tmp_path / name).write_text(kept[name])
    assert export(finished_run, out, sources=()).sha256 == sha256
    assert {name: (tmp_path / name).read_text() for name in kept} == kept
    assert {file.name for file in out.iterdir() if file.name not in ("README.txt", "other")} == {
        "config.json", "coding-00000.safetensors", "weights-00000.safetensors"
    }  # fmt: skip


@pytest.mark.parametrize("force", [[], ["--force"]], ids=["", "force"])
def test_export_refuses_folders_of_other_things(finished_run: Path, tmp_path: Path, force: list[str]) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "config.json").write_text('{"name": "mine"}')
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(run)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    for out in (pictures, tmp_path, run, run / "checkpoint", run / "constant", tmp_path / "file", tmp_path / "link"):
        finished = CliRunner().invoke(app, ["train", "export", str(run), "-o", str(out), *force])
        assert finished.exit_code == 2
        assert re.fullmatch("ulcodec: error: .*(another|not a directory).*\\n", finished.stderr), finished.stderr
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_export_while_the_run_is_written(finished_run: Path, settings: Stage1Settings, tmp_path: Path) -> None:
    """A version that is whole but has not moved is read where it is; the writer's folders stay as they are."""
    run = shutil.copytree(finished_run, settings.out)
    checkpoint = run / "checkpoint"
    staging, ready = checkpoint / f".ulcodec-{'0' * 16}.tmp", checkpoint / f".ulcodec-{'1' * 16}.ready"
    staging.mkdir()
    (staging / "config.json").write_text("{")
    ready.mkdir()
    names = sorted(file.name for file in checkpoint.glob("*.*") if file.is_file())
    for name in names:
        (checkpoint / name).rename(ready / name)
    (ready / "contents.list").write_text("\n".join(names))
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    assert export(run, tmp_path / "a", name="mine", sources=()) == export(
        finished_run, tmp_path / "b", name="mine", sources=()
    )
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
    resume_stage1(run, data=settings.data)
    assert {file.name for file in checkpoint.iterdir()} == set(names)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows limits no sizes of files")
def test_a_disk_that_is_full(photographs: Path, tmp_path: Path) -> None:
    """One line, nothing left behind, and the last checkpoint as it was."""
    small = ["--config", "tiny", "--batch-size", "8", "--crop", "64", "--threads", "1", "--data", str(photographs)]
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        "from ulcodec_cli.main import app; app()"
    )
    for name in ("new", "old"):
        run = tmp_path / name
        if name == "old":
            finished = CliRunner().invoke(app, ["train", "stage1", *small, "--images", "8", "--out", str(run)])
            assert finished.exit_code == 0
        before = {file: file.read_bytes() for file in run.glob("checkpoint/*")}
        command = [sys.executable, "-c", limited, "train", "stage1", *small, "--images", "16", "--out", str(run)]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        assert finished.returncode == 2
        assert re.fullmatch("ulcodec: error: .*File too large\\n", finished.stderr), finished.stderr
        assert {file: file.read_bytes() for file in run.glob("checkpoint/*")} == before
        assert (run / "checkpoint").exists() == bool(before)


def test_nothing_to_export(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no checkpoint to export"):
        export(tmp_path, tmp_path / "model", sources=())


def test_training_needs_neither_entropy_coder_nor_video() -> None:
    code = "import sys; sys.modules['constriction'] = sys.modules['av'] = None; import ulcodec.train.stage1"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["log.csv", "validation.csv"])
@pytest.mark.parametrize("text", ["100,0.5\n200,0.4\n", "epoch,loss\n1,2\n"])
def test_logs_of_others_are_refused(photographs: Path, tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    settings = Stage1Settings(data=(photographs,), out=tmp_path, config="tiny", n_images=4, batch_size=2, crop_px=64)
    with pytest.raises(TrainingError, match=f"{name} is not the log of a run"):
        train_stage1(settings)
    assert (tmp_path / name).read_text() == text
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_export_leaves_a_writer_at_work_alone(tmp_path: Path) -> None:
    staging = tmp_path / "other" / ".ulcodec-0123456789abcdef.tmp"
    staging.mkdir(parents=True)
    (staging / "ema-00000.safetensors").write_bytes(b"being written")
    (tmp_path / "other" / "config.json").write_text("{}")
    with pytest.raises(TrainingError, match="no model directory"):
        check_output(tmp_path / "run", tmp_path / "other")
    assert (staging / "ema-00000.safetensors").exists()
