"""Training logs: CSV rows, progress lines, TensorBoard scalars, and a guard against diverging losses."""

import csv
import math
import statistics
from collections import deque
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ulcodec.errors import TrainingError
from ulcodec.io.files import atomic_write
from ulcodec.train.workers import Workers

Metrics = dict[str, Tensor]
"""Detached scalars by name."""

LOGS = ("log.csv", "validation.csv")


class LossGuard:
    """Stops a run whose loss is not finite or leaves its recent range."""

    def __init__(self, factor: float):
        self.factor = factor
        self.recent: deque[float] = deque(maxlen=200)

    def check(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise TrainingError(f"the loss became {loss}; the last good checkpoint is kept. Try a lower learning rate")
        if len(self.recent) >= 50:
            typical = statistics.median(self.recent)
            if loss > self.factor * abs(typical):
                raise TrainingError(
                    f"the loss exploded to {loss:.4g} from a median of {typical:.4g}; the last good checkpoint is "
                    "kept. Try a lower learning rate"
                )
        self.recent.append(loss)


def summarise(
    pending: list[tuple[Tensor, Metrics]], guard: LossGuard, workers: Workers | None = None
) -> dict[str, float]:
    """Means over the steps since the last line and the workers; the only place where the loop waits for the device."""
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
    """Add a line to a CSV file, the first with the names above it."""
    new = not path.exists() or path.stat().st_size == 0
    with open(path, "a", newline="") as handle:
        writer = csv.writer(handle)
        if new:
            writer.writerow(row)
        writer.writerow([value if isinstance(value, int) else f"{value:.6g}" for value in row.values()])


def check_logs(run_dir: Path) -> None:
    """Raise TrainingError where a log of this name is not that of a run: its rows would be dropped."""
    for path in (run_dir / name for name in LOGS):
        if path.is_file() and path.stat().st_size:
            with open(path, "rb") as handle:
                if not handle.readline().startswith(b"n_images,"):
                    raise TrainingError(f"{path} is not the log of a run; choose another run directory")


def drop_rows_after(path: Path, n_images: int) -> None:
    """Forget what was logged after the checkpoint from which the run resumes."""
    if path.exists():
        with open(path, newline="") as handle:
            lines = list(csv.reader(handle))
        rows = [line for line in lines[1:] if line and line[0].isdecimal() and int(line[0]) <= n_images]
        text = StringIO(newline="")
        csv.writer(text).writerows([*lines[:1], *rows])
        atomic_write(path, text.getvalue().encode())


class Log:
    """A CSV row and a progress line each time, and TensorBoard scalars where tensorboard is installed."""

    def __init__(self, run_dir: Path, n_images: int):
        self.path = run_dir / "log.csv"
        for path in (run_dir / name for name in LOGS):
            drop_rows_after(path, n_images)
        self.tensorboard = summary_writer(run_dir)

    def write(self, row: dict[str, float], progress: float) -> None:
        append_row(self.path, row)
        if self.tensorboard is not None:
            for name, value in row.items():
                self.tensorboard.add_scalar(name, value, int(row["n_images"]))
        print(progress_line(row, progress), flush=True)

    def close(self) -> None:
        if self.tensorboard is not None:
            self.tensorboard.close()


def progress_line(row: dict[str, float], progress: float) -> str:
    rate = next((f"{row[name]:.3f} bpp  " for name in ("chain_bpp", "continuous_bpp") if name in row), "")
    psnr = f"{row['psnr_db']:.2f} dB  " if "psnr_db" in row else ""
    remaining_s = row["seconds"] * (1 - progress) / progress if progress else math.nan
    return (
        f"{100 * progress:5.1f} %  {row['n_images']:>9} images  {row['images_per_s']:7.1f} images/s  "
        f"loss {row['loss']:.4f}  {rate}{psnr}{remaining_s / 60:.1f} min left"
    )


def summary_writer(run_dir: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(run_dir))
