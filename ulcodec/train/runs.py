"""Run directories: read the configuration of a run, measure its progress, and rewind it for a new length."""

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from ulcodec.errors import TrainingError
from ulcodec.io.locations import Source
from ulcodec.store.tensor_files import is_written, read_document, read_tensors, recover_directory, write_directory
from ulcodec.train.settings import DenoiserSettings, LoopSettings, PriorSettings, Stage1Settings, Stage2Settings
from ulcodec.train.workers import Workers

Settings = TypeVar("Settings", Stage1Settings, Stage2Settings, PriorSettings, DenoiserSettings)


def run_config(run_dir: Path) -> dict[str, Any]:
    """Read the configuration in a run's checkpoint. Raises TrainingError if there is no checkpoint."""
    if not is_written(run_dir / "checkpoint"):
        raise TrainingError(f"{run_dir}: no checkpoint to resume")
    return read_document(run_dir / "checkpoint", "config")


def resumed(
    settings: Settings,
    run_dir: Path,
    *,
    minutes: float | None,
    n_images: int | None,
    data: tuple[Source, ...],
) -> Settings:
    """Return the settings that continue a run; rewind it if it gets a new length, `minutes` or `n_images`.

    `data`: pictures to train on, by default those in `settings`. Raises TrainingError for a length out of range, or as
    `rewind`.
    """
    settings = replace(settings, out=run_dir, data=data or settings.data)
    if minutes is None and n_images is None:
        return settings
    settings = replace(settings, minutes=minutes, n_images=n_images)
    settings.check()
    rewind(run_dir, settings.loop_settings(), settings.device)
    return settings


def rewind(run_dir: Path, settings: LoopSettings, device: str) -> None:
    """Prepare a run for a new length: if its learning rate has begun to fall, go back to the state before.

    Every worker must call it; the first one writes. Raises TrainingError, and changes nothing, if that state is beyond
    the new length.
    """
    workers = Workers.join(device)
    checkpoint, constant = run_dir / "checkpoint", run_dir / "constant"
    if workers.first:
        for path in (checkpoint, constant):
            recover_directory(path)
        if read_document(checkpoint, "progress")["decaying"]:
            documents = {name: read_document(constant, name) for name in ("config", "progress")}
            n_images, seconds = documents["progress"]["n_images"], documents["progress"]["seconds"]
            if progress_of(settings, n_images, seconds) >= 1:
                raise TrainingError(
                    f"{run_dir}: its rate began to fall at {n_images} images and {seconds / 60:.2f} minutes; "
                    "give it a greater length"
                )
            groups = {name: read_tensors(constant, name) for name in ("model", "ema", "optimizer")}
            write_directory(checkpoint, groups, documents)
    workers.wait()


def progress_of(settings: LoopSettings, n_images: int, seconds: float) -> float:
    """Share of a run that is over, 0 to 1."""
    shares = [0.0]
    if settings.minutes is not None:
        shares.append(seconds / (60 * settings.minutes))
    if settings.n_images is not None:
        shares.append(n_images / settings.n_images)
    return min(1.0, max(shares))
