"""Latents of a run's pictures, encoded once by a frozen codec into `RUN/latents`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from ulcodec.errors import TrainingError
from ulcodec.io.sources import LeftOut
from ulcodec.store.tensor_files import is_written, read_document, read_tensors, recover_directory, write_directory
from ulcodec.train.data.loading import pictures_of_run
from ulcodec.train.data.pictures import PictureSet
from ulcodec.train.limits import RunSettings
from ulcodec.train.workers import Workers

PARTS = ("training", "validation")

Tensors = dict[str, Tensor]


def latents_of_run(
    path: Path,
    origin: dict[str, Any],
    settings: RunSettings,
    encode: Callable[[PictureSet, PictureSet], tuple[Tensors, Tensors]],
    workers: Workers,
) -> tuple[Tensors, Tensors]:
    """Load the latents of the training and of the validation pictures from `path`; the first run encodes them there.

    `origin` (JSON values) names what the latents depend on. `encode` takes the pictures of both sets, once.
    Raises TrainingError if the directory holds latents of another origin.
    """
    if workers.first:
        recover_directory(path)
    if workers.first and not is_written(path):
        left_out = LeftOut()
        pictures = pictures_of_run(settings, left_out)
        if left_out:
            print(f"left out: {left_out}")
        write_directory(path, dict(zip(PARTS, encode(*pictures), strict=True)), {"origin": origin})
    workers.wait()
    if (stored_origin := read_document(path, "origin")) != origin:
        raise TrainingError(f"{path} holds latents of {stored_origin}, not of {origin}; choose another run directory")
    training, validation = (read_tensors(path, name) for name in PARTS)
    return training, validation
