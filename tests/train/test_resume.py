"""A run that is interrupted, killed or extended ends in the same bits as an unbroken run."""

import json
import shutil
import signal
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from stage1_runs import BATCH_SIZE, N_IMAGES, SETTINGS, assert_same_state, stage1_settings, stop_half_way

from ulcodec.errors import TrainingError
from ulcodec.model.config import TINY
from ulcodec.model.presets import PRESETS
from ulcodec.store.tensor_files import read_document, read_tensors
from ulcodec.train.settings import Stage1Settings
from ulcodec.train.stage1 import resume_stage1, train_stage1

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
"""Saves after every step. Dies in the fifth save, between two of the renames that replace the checkpoint."""


def test_interrupted_run_resumes(settings: Stage1Settings, finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_half_way(settings, monkeypatch)
    train_stage1(settings)
    assert_same_state(settings.out, finished_run)


@pytest.mark.parametrize("augmentation", [{}, {"reduction": 1.1, "turns": True}], ids=["plain", "augmented"])
def test_run_on_streamed_shards_resumes(photographs: Path, tmp_path: Path, augmentation: dict[str, object]) -> None:
    for number in range(3):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as shard:
            for file in sorted(photographs.glob("*.png"))[3 * number : 3 * number + 3]:
                shard.add(file, arcname=file.name)
    values = {**SETTINGS, "validation_share": 0.4, "shards_in_memory": 2, "crops_per_shard": 2 * BATCH_SIZE}
    values |= augmentation
    unbroken = Stage1Settings(data=(tmp_path,), out=tmp_path / "unbroken", **values)
    train_stage1(unbroken)
    resumed = replace(unbroken, out=tmp_path / "resumed")
    train_stage1(replace(resumed, n_images=N_IMAGES // 2))
    resume_stage1(resumed.out, n_images=N_IMAGES)
    assert_same_state(resumed.out, unbroken.out)


def test_complete_run_does_not_train(photographs: Path, finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_stage1(stage1_settings(photographs, finished_run))
    assert f"this run is complete ({N_IMAGES} images)" in capsys.readouterr().out


def test_killed_run_resumes(settings: Stage1Settings, finished_run: Path) -> None:
    [photographs] = settings.data
    command = [sys.executable, "-c", KILLED_RUN, str(photographs), str(settings.out), json.dumps(SETTINGS)]
    killed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    [ready] = (settings.out / "checkpoint").glob(".ulcodec-*.ready")
    moved_files = {file.name for file in (settings.out / "checkpoint").glob("*.safetensors")}
    waiting_files = {file.name for file in ready.glob("*.safetensors")}
    assert moved_files.issuperset(waiting_files)
    assert 0 < len(waiting_files) < len(moved_files), "killed between two files of a checkpoint"
    train_stage1(settings)
    assert_same_state(settings.out, finished_run)


def test_longer_run_continues_from_the_state_before_the_decay(finished_run: Path, settings: Stage1Settings) -> None:
    run = settings.out
    shutil.copytree(finished_run, run)
    before = read_document(run / "constant", "progress")
    resume_stage1(run, n_images=N_IMAGES + 5 * BATCH_SIZE, data=settings.data)
    after = read_document(run / "checkpoint", "progress")
    assert before["n_images"] < N_IMAGES < after["n_images"] == N_IMAGES + 5 * BATCH_SIZE
    unbroken = replace(settings, out=run.with_name("unbroken"), n_images=N_IMAGES + 5 * BATCH_SIZE)
    train_stage1(unbroken)
    weights, expected = (read_tensors(path / "checkpoint", "model") for path in (run, unbroken.out))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    resume_stage1(run)
    assert read_document(run / "checkpoint", "progress") == after
    with pytest.raises(TrainingError, match="no checkpoint to resume"):
        resume_stage1(run.with_name("none"))


def test_run_of_an_older_configuration_goes_on(settings: Stage1Settings, tmp_path: Path) -> None:
    """Its prior is one network, which the configuration holds as one number."""
    shared = replace(TINY, name="shared", shared_prior=True, prior_blocks=(1,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "shared", shared)
        run = train_stage1(replace(settings, config="shared", out=tmp_path / "run", n_images=N_IMAGES // 2))
        for name in ("checkpoint", "constant"):
            document = read_document(run / name, "config")
            assert document["model"].pop("shared_prior") is True
            [document["model"]["prior_blocks"]] = document["model"]["prior_blocks"]
            (run / name / "config.json").write_text(json.dumps(document))
        resume_stage1(run, n_images=N_IMAGES)
    assert read_document(run / "checkpoint", "progress")["n_images"] == N_IMAGES


def test_refused_resume_keeps_the_checkpoint(settings: Stage1Settings, tmp_path: Path) -> None:
    run = train_stage1(replace(settings, out=tmp_path / "run", n_images=N_IMAGES // 2))
    for name in ("checkpoint", "constant"):
        document = read_document(run / name, "config")
        document["model"]["prior_width"] = 48
        (run / name / "config.json").write_text(json.dumps(document))
    before = read_tensors(run / "checkpoint", "ema")
    with pytest.raises(TrainingError, match="another model configuration: prior_width 48, not 32"):
        resume_stage1(run, n_images=N_IMAGES)
    assert read_document(run / "checkpoint", "progress")["decaying"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in read_tensors(run / "checkpoint", "ema").items())
