"""Checkpoints: a run refuses the checkpoint of another configuration, and a full disk keeps the last one."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from stage1_runs import assert_same_state, stop_half_way
from typer.testing import CliRunner

from ulcodec.errors import TrainingError
from ulcodec.train.settings import Stage1Settings
from ulcodec.train.stage1 import train_stage1
from ulcodec_cli.main import app


def test_checkpoint_of_another_optimiser_is_refused(settings: Stage1Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(settings, optimizer="soap")
    unbroken = train_stage1(replace(settings, out=settings.out.parent / "unbroken"))
    stop_half_way(settings, monkeypatch)
    with pytest.raises(TrainingError, match="state of the optimiser soap, not adamw"):
        train_stage1(replace(settings, optimizer="adamw"))
    train_stage1(settings)
    assert_same_state(settings.out, unbroken)


def test_checkpoint_of_another_configuration_is_refused(
    settings: Stage1Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_half_way(settings, monkeypatch)
    with pytest.raises(TrainingError, match="holds another model configuration"):
        train_stage1(replace(settings, config="paper_tiny", objective="ul"))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on file sizes")
def test_full_disk_keeps_the_last_checkpoint(photographs: Path, tmp_path: Path) -> None:
    """The error is one line, no temporary file remains, and the last checkpoint stays."""
    options = ["--config", "tiny", "--batch-size", "8", "--crop", "64", "--threads", "1", "--data", str(photographs)]
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        "from ulcodec_cli.main import app; app()"
    )
    for name in ("new", "old"):
        run = tmp_path / name
        if name == "old":
            finished = CliRunner().invoke(app, ["train", "stage1", *options, "--images", "8", "--out", str(run)])
            assert finished.exit_code == 0
        before = {file: file.read_bytes() for file in run.glob("checkpoint/*")}
        command = [sys.executable, "-c", program, "train", "stage1", *options, "--images", "16", "--out", str(run)]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        assert finished.returncode == 2
        assert re.fullmatch("ulcodec: error: .*File too large\\n", finished.stderr), finished.stderr
        assert {file: file.read_bytes() for file in run.glob("checkpoint/*")} == before
        assert (run / "checkpoint").exists() == bool(before)
