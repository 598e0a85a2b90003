"""Latents that a frozen codec encodes once into `RUN/latents`, and sets of them with their qualities."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ulcodec.errors import TrainingError
from ulcodec.io.sources import LeftOut
from ulcodec.store.tensor_files import is_written, read_document, read_tensors, recover_directory, write_directory
from ulcodec.train.data.pictures import PictureSet
from ulcodec.train.workers import Workers

PARTS = ("training", "validation")

Tensors = dict[str, Tensor]


class LatentSet(NamedTuple):
    """Latents in bins, float16, in the order of their qualities, float32 [N] in [0, 1]."""

    latents: PictureSet
    qualities: Tensor

    @classmethod
    def of(cls, tensors: Tensors) -> "LatentSet":
        """Invert `tensors`."""
        return cls(PictureSet.of_tensors(tensors), tensors["qualities"])

    def tensors(self) -> Tensors:
        """Return the parts by name, to be written to a file."""
        return {**self.latents.tensors(), "qualities": self.qualities}

    def to(self, device: torch.device) -> "LatentSet":
        return LatentSet(self.latents.to(device), self.qualities.to(device))

    def draw(self, count: int, side: int, generator: torch.Generator, workers: Workers) -> tuple[Tensor, Tensor]:
        """Draw this worker's rows of `count` random windows, one of each of as many equal ranges of the qualities.

        Returns y float32 [rows, C, side, side] and their qualities [rows].
        """
        windows, chosen = self.latents.stratified_windows(count, side, generator, workers.rows)
        return windows.permute(0, 3, 1, 2).float(), self.qualities[chosen]


def latents_of_run(
    path: Path, origin: dict[str, Any], encode: Callable[[LeftOut], tuple[Tensors, Tensors]], workers: Workers
) -> tuple[Tensors, Tensors]:
    """Load the training and the validation latents of a run from `path`; the first run encodes them there.

    `origin` (JSON values) names what the latents depend on. `encode` reads the data and encodes both sets; its argument
    counts the files that are left out. Raises TrainingError if the directory holds latents of another origin.
    """
    if workers.first:
        recover_directory(path)
    if workers.first and not is_written(path):
        left_out = LeftOut()
        encoded = encode(left_out)
        if left_out:
            print(f"left out: {left_out}")
        write_directory(path, dict(zip(PARTS, encoded, strict=True)), {"origin": origin})
    workers.wait()
    if (stored_origin := read_document(path, "origin")) != origin:
        raise TrainingError(f"{path} holds latents of {stored_origin}, not of {origin}; choose another run directory")
    training, validation = (read_tensors(path, name) for name in PARTS)
    return training, validation
