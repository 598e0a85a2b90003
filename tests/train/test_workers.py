"""Two workers over Gloo take the same steps as one process."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from moving_clips import write_clips

from ulcodec.diffusion.batch_noise import BatchGenerator, draw_rows
from ulcodec.errors import TrainingError
from ulcodec.store.tensor_files import read_document, read_tensors
from ulcodec.train.workers import Workers, without_denormals

COMMON = ["--config", "tiny", "--images", "192", "--batch-size", "16", "--threads", "1"]
STAGE_1 = ["train", "stage1", *COMMON, "--crop", "64"]
STAGE_2 = ["train", "stage2", *COMMON, "--crop", "64"]
CLIPS = ["--config", "tiny-video", "--objective", "ul", "--crop", "16", "--frames", "8", "--images", "96"]

STDERR_SHOWN = 8000
"""Characters from the end of the standard error of a failed command."""

LOGGING_EVERY_STEP = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from ulcodec.model.base_model import BASE_MODELS
from ulcodec.model.presets import PRESETS
from ulcodec.train import settings
from ulcodec.train.loop import Loop
from ulcodec.train.settings import LoopSettings
settings.LoopSettings = lambda **values: LoopSettings(**values, log_seconds=0, checkpoint_seconds=0)
BASE_MODELS["tiny"] |= dict(dropout=0.0, fine_width=32, fine_blocks=2)
PRESETS["tiny-video"] = replace(PRESETS["tiny-video"], decoder_dropout=0.0)
# Without dropout: each process draws it for its rows, not for the batch.
if os.environ.get("DIE_AT") and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    step = Loop.step
    def dying_step(loop, loss_function):
        if loop.state.n_images == int(os.environ["DIE_AT"]):
            os.kill(os.getpid(), signal.SIGKILL)
        return step(loop, loss_function)
    Loop.step = dying_step
from ulcodec_cli.main import app
app()
"""


def launch(
    script: Path, data: Path, out: Path, n_workers: int, arguments: list[str] = STAGE_1, **environment: str
) -> list[float]:
    """Train, and return the loss of every step."""
    start(script, [*arguments, "--data", str(data), "--out", str(out)], n_workers, **environment)
    with open(out / "log.csv", newline="") as handle:
        return [float(row["loss"]) for row in csv.DictReader(handle)]


def start(script: Path, arguments: list[str], n_workers: int, **environment: str) -> None:
    """Run a command in `n_workers` processes."""
    script.write_text(LOGGING_EVERY_STEP)
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n_workers}", "--max-restarts=3"]
    command = [sys.executable, *(torchrun if n_workers > 1 else []), str(script), *arguments]
    finished = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, **environment, "OMP_NUM_THREADS": "1"},
    )
    assert finished.returncode == 0, f"exit code {finished.returncode}: ... {finished.stderr[-STDERR_SHOWN:]}"


@pytest.fixture(scope="module")
def one_process(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    folder = tmp_path_factory.mktemp("alone")
    return folder / "run", launch(folder / "train.py", photographs, folder / "run", 1)


@pytest.mark.parametrize("die_at", ["", "96"], ids=["two processes", "one killed and restarted"])
def test_two_workers_train_like_one(
    one_process: tuple[Path, list[float]], photographs: Path, tmp_path: Path, die_at: str
) -> None:
    run, losses = one_process
    losses_of_two = launch(tmp_path / "train.py", photographs, tmp_path / "run", 2, DIE_AT=die_at)
    assert len(losses) == 192 // 16
    assert losses_of_two == pytest.approx(losses, rel=2e-3)
    assert losses[-1] != pytest.approx(losses[0], rel=2e-3), "the loss must change for this test to mean anything"
    assert read_document(tmp_path / "run" / "checkpoint", "progress")["n_images"] == 192
    weights, expected = (read_tensors(path / "checkpoint", "ema") for path in (tmp_path / "run", run))
    assert max(float((weights[name] - expected[name]).abs().max()) for name in expected) < 1e-3


def test_two_workers_extend_a_finished_run(one_process: tuple[Path, list[float]], tmp_path: Path) -> None:
    """The first worker rewinds the run and finishes the write of a killed process, while the other waits."""
    runs = []
    for n_workers in (1, 2):
        run = shutil.copytree(one_process[0], tmp_path / str(n_workers))
        if n_workers == 2:
            (run / "checkpoint" / f".ulcodec-{'0' * 16}.tmp").mkdir()
            shutil.copy(run / "checkpoint" / "config.json", run / "checkpoint" / f".ulcodec-{'0' * 16}.tmp")
        start(tmp_path / "train.py", ["train", "resume", str(run), "--images", "256"], n_workers)
        assert read_document(run / "checkpoint", "progress")["n_images"] == 256
        assert not list(run.glob("checkpoint/.*"))
        runs.append(read_tensors(run / "checkpoint", "ema"))
    assert max(float((runs[0][name] - runs[1][name]).abs().max()) for name in runs[0]) < 1e-3


@pytest.fixture(scope="module")
def base_of_one_process(
    photographs: Path, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[float]]:
    folder = tmp_path_factory.mktemp("base")
    arguments = [*STAGE_2, "--model", str(tiny_model_dir)]
    return folder / "run", launch(folder / "train.py", photographs, folder / "run", 1, arguments)


@pytest.mark.parametrize(
    ("options", "die_at"), [([], ""), (["--shard"], ""), (["--shard"], "96")], ids=["whole", "sharded", "killed"]
)
def test_two_workers_train_the_base_model_like_one(
    base_of_one_process: tuple[Path, list[float]],
    photographs: Path,
    tiny_model_dir: Path,
    tmp_path: Path,
    options: list[str],
    die_at: str,
) -> None:
    run, losses = base_of_one_process
    arguments = [*STAGE_2, "--model", str(tiny_model_dir), *options]
    losses_of_two = launch(tmp_path / "train.py", photographs, tmp_path / "run", 2, arguments, DIE_AT=die_at)
    assert len(losses) == 192 // 16
    assert losses_of_two == pytest.approx(losses, rel=2e-3)
    assert losses[-1] != pytest.approx(losses[0], rel=2e-3), "the loss must change for this test to mean anything"
    for group in ("model", "ema", "optimizer"):
        tensors, expected = (read_tensors(path / "checkpoint", group) for path in (tmp_path / "run", run))
        assert {name: tensor.shape for name, tensor in tensors.items()} == {n: t.shape for n, t in expected.items()}
        assert max(float((tensors[name] - expected[name]).abs().max()) for name in expected) < 1e-3, group
    validations = [(path / "validation.csv").read_text().splitlines() for path in (tmp_path / "run", run)]
    assert [len(rows) for rows in validations] == [11, 11]


def test_two_workers_train_on_clips_like_one(tmp_path: Path) -> None:
    """Stage 1, and a base model of two levels on its latents, with its weights split between the workers."""
    clips = write_clips(tmp_path / "clips")
    runs = []
    for n_workers in (1, 2):
        folder = tmp_path / str(n_workers)
        folder.mkdir()
        losses = launch(folder / "train.py", clips, folder / "run", n_workers, [*STAGE_1, *CLIPS])
        on_latents = ["train", "stage2", *COMMON, "--model", str(tmp_path / "1" / "run")]
        shard = ["--shard"] if n_workers == 2 else []
        base_losses = launch(folder / "train.py", clips, folder / "base", n_workers, [*on_latents, *shard])
        runs.append((losses, base_losses))
    for losses, losses_of_two in zip(*runs, strict=True):
        assert len(losses) > 1
        assert losses_of_two == pytest.approx(losses, rel=2e-3)
        assert losses[-1] != pytest.approx(losses[0], rel=2e-3), "the loss must change for this test to mean anything"


def test_rows_of_all_workers_make_the_batch() -> None:
    rows = []
    for rank in range(3):
        generator = Workers(rank, 3).generator(torch.device("cpu"))
        generator.manual_seed(1)
        rows.append(draw_rows(torch.rand, (2, 4), generator))
    plain = torch.Generator().manual_seed(1)
    assert torch.equal(torch.cat(rows), torch.rand(6, 4, generator=plain))
    assert torch.equal(draw_rows(torch.rand, (6, 4), BatchGenerator().manual_seed(1)), torch.cat(rows))


def test_batches_are_shared_equally_or_refused() -> None:
    assert Workers(1, 3).share(6) == 2
    assert Workers(1, 3).rows(torch.arange(6)).tolist() == [2, 3]
    with pytest.raises(TrainingError, match="a batch of 7 cannot be shared equally by 3 processes"):
        Workers(1, 3).share(7)


def test_denormal_numbers_are_zero_in_training() -> None:
    if not torch.set_flush_denormal(False):
        pytest.skip("this CPU cannot flush denormal numbers")
    small = torch.tensor([1e-30])
    assert (small * 1e-10).item() > 0
    with without_denormals():
        assert (small * 1e-10).item() == 0
        with without_denormals():
            pass
        assert (small * 1e-10).item() == 0
    assert (small * 1e-10).item() > 0
