"""Run directories: read the configuration of a run, measure its progress, and set a new length."""

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from ulcodec.errors import TrainingError
from ulcodec.io.locations import Source
from ulcodec.store.tensor_files import is_written, read_document
from ulcodec.train.settings import (
    DenoiserSettings,
    LoopSettings,
    PriorSettings,
    RefinerSettings,
    Stage1Settings,
    Stage2Settings,
    VideoSettings,
)

Settings = TypeVar(
    "Settings", Stage1Settings, Stage2Settings, PriorSettings, VideoSettings, DenoiserSettings, RefinerSettings
)

Starting = TypeVar("Starting", Stage1Settings, VideoSettings, DenoiserSettings, RefinerSettings)
"""Settings of runs that can start from a model, `init`."""


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
) -> tuple[Settings, bool]:
    """Return the settings that continue a run, and whether it gets a new length, `minutes` or `n_images`.

    `data`: pictures to train on, by default those in `settings`. Raises TrainingError for a length out of range.
    """
    settings = replace(settings, out=run_dir, data=data or settings.data)
    new_length = minutes is not None or n_images is not None
    if new_length:
        settings = replace(settings, minutes=minutes, n_images=n_images)
        settings.check()
    return settings, new_length


def as_begun(settings: Starting, part: str) -> tuple[Starting, str | None]:
    """Return the settings with the `init` that their run began with, and the model whose weights it has yet to load.

    That is None if the run has begun. `part`: name of the settings in the configuration of a run. Raises TrainingError
    if `init` is another model than the run began with.
    """
    if not is_written(settings.out / "checkpoint"):
        return settings, settings.init
    begun = run_config(settings.out).get(part)
    if not isinstance(begun, dict):  # a run of another kind, which is refused where its state is read
        return settings, None
    first = begun.get("init")
    if settings.init not in (None, first):
        raise TrainingError(
            f"{settings.out}: this run did not start from {settings.init}; leave out --init, or choose another run "
            "directory"
        )
    return replace(settings, init=first), None


def progress_of(settings: LoopSettings, n_images: int, seconds: float) -> float:
    """Share of a run that is over, 0 to 1."""
    shares = [0.0]
    if settings.minutes is not None:
        shares.append(seconds / (60 * settings.minutes))
    if settings.n_images is not None:
        shares.append(n_images / settings.n_images)
    return min(1.0, max(shares))
