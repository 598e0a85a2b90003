"""Logs of a run, and the guard that stops a diverging run."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from stage1_runs import BATCH_SIZE, assert_same_state, stop_half_way
from torch import Tensor

from ulcodec.errors import TrainingError
from ulcodec.train.log import LossGuard, Metrics, summarise
from ulcodec.train.objective import OBJECTIVES
from ulcodec.train.settings import LoopSettings, Stage1Settings
from ulcodec.train.stage1 import train_stage1


def test_rows_after_the_checkpoint_are_dropped(settings: Stage1Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_half_way(settings, monkeypatch)
    log = settings.out / "log.csv"
    log.write_text("n_images,loss\n8,1.5\n80,1.25\n88,1.125\n")
    train_stage1(settings)
    with open(log, newline="") as handle:
        assert [row["n_images"] for row in csv.DictReader(handle)][:2] == ["8", "80"]
    assert "1.125" not in log.read_text()


def test_every_step_can_be_logged(
    settings: Stage1Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    init = LoopSettings.__init__
    monkeypatch.setattr(LoopSettings, "__init__", lambda self, **values: init(self, **values, log_seconds=0))
    train_stage1(replace(settings, n_images=10 * BATCH_SIZE))
    with open(settings.out / "log.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [int(row["n_images"]) for row in rows] == list(range(8, 81, 8))
    assert all(float(row["chain_bpp"]) > 0 and float(row["gradient_norm"]) > 0 for row in rows)
    assert float(rows[-1]["learning_rate"]) == 0
    assert capsys.readouterr().out.count(" images/s ") == 10
    assert (settings.out / "constant" / "progress.json").exists()


def test_nan_loss_stops_the_run(settings: Stage1Settings, finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_half_way(settings, monkeypatch)
    checkpoint = {file.name: file.read_bytes() for file in (settings.out / "checkpoint").iterdir()}
    codec_loss = OBJECTIVES["codec"]

    def nan_loss(*arguments: object) -> tuple[Tensor, Metrics]:
        loss, metrics = codec_loss(*arguments)
        return loss * torch.nan, metrics

    with monkeypatch.context() as patch:
        patch.setitem(OBJECTIVES, "codec", nan_loss)
        with pytest.raises(TrainingError, match="the loss became nan; the last good checkpoint is kept"):
            train_stage1(settings)
    assert {file.name: file.read_bytes() for file in (settings.out / "checkpoint").iterdir()} == checkpoint
    assert not (settings.out / "constant").exists()
    train_stage1(settings)
    assert_same_state(settings.out, finished_run)


def test_guard_stops_rising_losses_only() -> None:
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


def test_nan_gradient_stops_the_run() -> None:
    step = torch.tensor(1.0), {"gradient_norm": torch.tensor(torch.nan)}
    with pytest.raises(TrainingError, match="the gradient is not finite"):
        summarise([step], LossGuard(20.0))


@pytest.mark.parametrize("name", ["log.csv", "validation.csv"])
@pytest.mark.parametrize("text", ["100,0.5\n200,0.4\n", "epoch,loss\n1,2\n"])
def test_files_that_are_not_logs_of_a_run_are_kept(photographs: Path, tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    settings = Stage1Settings(data=(photographs,), out=tmp_path, config="tiny", n_images=4, batch_size=2, crop_px=64)
    with pytest.raises(TrainingError, match=f"{name} is not the log of a run"):
        train_stage1(settings)
    assert (tmp_path / name).read_text() == text
    assert [file.name for file in tmp_path.iterdir()] == [name]
