"""Training logs: CSV rows, progress lines, TensorBoard scalars, and a guard against diverging losses."""

import csv
import math
import statistics
from collections import deque
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ulcodec.errors import TrainingError
from ulcodec.io.files import atomic_write
from ulcodec.train.settings import LoopSettings
from ulcodec.train.workers import Workers

Metrics = dict[str, Tensor]
"""Detached scalars by name."""

LOGS = ("log.csv", "validation.csv")


def mean_scores(score: Callable[[], tuple[Tensor, Metrics]], count: int) -> dict[str, float]:
    """Average loss and metrics of `count` calls."""
    totals: dict[str, float] = {}
    for _ in range(count):
        loss, metrics = score()
        for name, value in {"loss": loss, **metrics}.items():
            totals[name] = totals.get(name, 0.0) + float(value) / count
    return totals


class LossGuard:
    """Stops a run whose loss is not finite, or exceeds its recent median by a factor."""

    def __init__(self, factor: float):
        self.factor = factor
        self.recent: deque[float] = deque(maxlen=200)

    def check(self, loss: float) -> None:
        """Raise TrainingError for a loss that is not finite or explodes."""
        if not math.isfinite(loss):
            raise TrainingError(f"the loss became {loss}; the last good checkpoint is kept. Try a lower learning rate")
        if len(self.recent) >= 50:
            median = statistics.median(self.recent)
            if loss > self.factor * abs(median):
                raise TrainingError(
                    f"the loss exploded to {loss:.4g} from a median of {median:.4g}; the last good checkpoint is "
                    "kept. Try a lower learning rate"
                )
        self.recent.append(loss)


class Timer:
    """Tells when an interval is over, by a clock in seconds that the caller reads."""

    def __init__(self, interval_s: float, now_s: float):
        self.interval_s, self.started_s = interval_s, now_s

    def is_due(self, now_s: float) -> bool:
        return now_s - self.started_s >= self.interval_s

    def restart(self, now_s: float) -> None:
        self.started_s = now_s


class Counters(Protocol):
    """What a log reads of the state of a run."""

    n_images: int
    seconds: float


class RunLog:
    """The log of a run: collects the steps, and writes their means as a row now and then.

    Every worker has one, since the means run over the workers too; the first worker writes.
    """

    def __init__(self, run_dir: Path, state: Counters, settings: LoopSettings, workers: Workers):
        self.state, self.workers = state, workers
        self.guard, self.timer = LossGuard(settings.explosion_factor), Timer(settings.log_seconds, state.seconds)
        self.writer = LogWriter(run_dir, state.n_images) if workers.first else None
        self.n_images_logged = state.n_images
        self.pending: list[tuple[Tensor, Metrics]] = []

    def add(self, loss: Tensor, metrics: Metrics) -> None:
        """Collect a step, without waiting for the device."""
        self.pending.append((loss, metrics))

    def check(self) -> dict[str, float]:
        """Average the collected steps. Raises TrainingError for a loss that is not finite or explodes."""
        return summarise(self.pending, self.guard, self.workers)

    def write(self, learning_rate: float, progress: float) -> None:
        """Write a row for the collected steps, and empty the collection. Raises as `check`."""
        means = self.check()
        self.pending = []
        n_images, seconds = self.state.n_images, self.state.seconds
        images_per_s = (n_images - self.n_images_logged) / (seconds - self.timer.started_s)
        self.timer.restart(seconds)
        self.n_images_logged = n_images
        if self.writer is not None:
            row = {"n_images": n_images, "seconds": seconds, "images_per_s": images_per_s}
            self.writer.write({**row, "learning_rate": learning_rate, **means}, progress)

    def close(self) -> None:
        """Close the files."""
        if self.writer is not None:
            self.writer.close()


class LogWriter:
    """Writes rows to `log.csv` and TensorBoard, and prints a progress line for each."""

    def __init__(self, run_dir: Path, n_images: int):
        self.path = run_dir / "log.csv"
        for path in (run_dir / name for name in LOGS):
            drop_rows_after(path, n_images)
        self.tensorboard = summary_writer(run_dir)

    def write(self, row: dict[str, float], progress: float) -> None:
        """Write a row; `progress` is the share of the run that is over."""
        append_row(self.path, row)
        if self.tensorboard is not None:
            for name, value in row.items():
                self.tensorboard.add_scalar(name, value, int(row["n_images"]))
        print(progress_line(row, progress), flush=True)

    def close(self) -> None:
        """Close the files of TensorBoard."""
        if self.tensorboard is not None:
            self.tensorboard.close()


def summarise(
    pending: list[tuple[Tensor, Metrics]], guard: LossGuard, workers: Workers | None = None
) -> dict[str, float]:
    """Average loss and metrics over steps and workers: the only place where the loop waits for the device.

    Raises TrainingError for a loss or a gradient that is not finite, or a loss that explodes.
    """
    if not pending:
        return {}
    losses = torch.stack([loss for loss, _ in pending]).float()
    names = pending[0][1]
    metrics = torch.stack([torch.stack([metrics[name] for _, metrics in pending]).float().mean() for name in names])
    (workers or Workers()).average([losses, metrics])
    for loss in losses.tolist():
        guard.check(loss)
    means = dict(zip(names, metrics.tolist(), strict=True))
    if not math.isfinite(means["gradient_norm"]):
        raise TrainingError("the gradient is not finite; the last good checkpoint is kept. Try a lower learning rate")
    return {"loss": float(losses.mean()), **means}


def append_row(path: Path, row: dict[str, float]) -> None:
    """Append a row to a CSV file, and the column names before the first one."""
    is_new = not path.exists() or path.stat().st_size == 0
    with open(path, "a", newline="") as handle:
        writer = csv.writer(handle)
        if is_new:
            writer.writerow(row)
        writer.writerow([value if isinstance(value, int) else f"{value:.6g}" for value in row.values()])


def check_logs(run_dir: Path) -> None:
    """Raise TrainingError for a file with the name of a log that is not the log of a run: it would be overwritten."""
    for path in (run_dir / name for name in LOGS):
        if path.is_file() and path.stat().st_size:
            with open(path, "rb") as handle:
                if not handle.readline().startswith(b"n_images,"):
                    raise TrainingError(f"{path} is not the log of a run; choose another run directory")


def drop_rows_after(path: Path, n_images: int) -> None:
    """Remove the rows of a log after the checkpoint that a run resumes from."""
    if path.exists():
        with open(path, newline="") as handle:
            lines = list(csv.reader(handle))
        rows = [line for line in lines[1:] if line and line[0].isdecimal() and int(line[0]) <= n_images]
        text = StringIO(newline="")
        csv.writer(text).writerows([*lines[:1], *rows])
        atomic_write(path, text.getvalue().encode())


def progress_line(row: dict[str, float], progress: float) -> str:
    """Format a row for the terminal, with the minutes that are left."""
    rate = next((f"{row[name]:.3f} bpp  " for name in ("chain_bpp", "continuous_bpp") if name in row), "")
    psnr = f"{row['psnr_db']:.2f} dB  " if "psnr_db" in row else ""
    remaining_s = row["seconds"] * (1 - progress) / progress if progress else math.nan
    return (
        f"{100 * progress:5.1f} %  {row['n_images']:>9} images  {row['images_per_s']:7.1f} images/s  "
        f"loss {row['loss']:.4f}  {rate}{psnr}{remaining_s / 60:.1f} min left"
    )


def summary_writer(run_dir: Path) -> Any:
    """A TensorBoard writer, or None if tensorboard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(run_dir))
