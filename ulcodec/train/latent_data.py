"""Latents of frozen networks, for a base model to learn from.

The networks are a codec, which encodes all pictures once, or those of a run of stage 1 with the objective `ul`, which
encode the crops of each step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ulcodec.devices import autocast
from ulcodec.io.sources import LeftOut
from ulcodec.model.config import PATCH_PX
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.store.model_directory import open_model
from ulcodec.store.trained_run import TrainedRun
from ulcodec.train.data.crops import CropSet, in_layout
from ulcodec.train.data.loading import pictures_of_run
from ulcodec.train.data.pictures import PictureSet, pack
from ulcodec.train.data.training_set import training_set
from ulcodec.train.latents import Tensors, latents_of_run
from ulcodec.train.settings import Stage2Settings
from ulcodec.train.workers import Workers

LEAST_VALIDATION_CROPS = 8
STATISTICS_CROPS, STATISTICS_BATCH = 256, 8
"""Crops, and how many are encoded at a time, from which the mean and deviation of a run's latents are estimated."""


class LatentData(NamedTuple):
    """Latents to train a base model on. z [rows, C, x] are clean latents in the paper's units.

    `origin`: what the latents depend on, as JSON values. `patch`: extent of a latent position along each axis, in
    frames and pixels. `mean`, `std`: [C]. `draw`: this worker's rows of a batch, by
    the number of images so far and a generator of the whole batch. `held_out`: latents for a validation. `counts`:
    a line that counts the data.
    """

    origin: dict[str, Any]
    patch: tuple[int, ...]
    mean: Tensor
    std: Tensor
    draw: Callable[[int, torch.Generator], Tensor]
    held_out: Callable[[torch.Generator], Tensor]
    counts: str


def latents_of_codec(settings: Stage2Settings, workers: Workers, device: torch.device) -> LatentData:
    """Encode all pictures once, to `RUN/latents`."""
    codec = open_model(settings.model)

    def encode(left_out: LeftOut) -> tuple[Tensors, Tensors]:
        training, validation = pictures_of_run(settings, left_out)
        model, quality = codec.networks(device), settings.quality / 100
        return (
            encode_pictures(model, training, quality, mirrored=True).tensors(),
            encode_pictures(model, validation, quality, mirrored=False).tensors(),
        )

    origin = {"codec_sha256": codec.fingerprint.hex(), "quality": settings.quality}
    stored = latents_of_run(settings.out / "latents", origin, encode, workers)
    training, validation = (PictureSet.of_tensors(part).to(device) for part in stored)

    def draw(n_images: int, generator: torch.Generator) -> Tensor:
        return latent_windows(training, settings.batch_size, settings.crop_px, generator, workers)

    def held_out(generator: torch.Generator) -> Tensor:
        count = max(LEAST_VALIDATION_CROPS, len(validation))
        return latent_windows(validation, count, settings.crop_px, generator, Workers())

    counts = f"latents of {len(training)} training (mirrored too) and {len(validation)} validation pictures"
    return LatentData(origin, (PATCH_PX, PATCH_PX), *statistics(training.pixels), draw, held_out, counts)


def latents_of_trained_run(
    run: TrainedRun, settings: Stage2Settings, workers: Workers, device: torch.device
) -> LatentData:
    """Encode random crops when they are needed. The run's crops have the same extent."""
    model = run.networks(device)
    data = training_set(settings.data_settings(run.settings), device)

    @torch.no_grad()
    def encode(x: Tensor) -> Tensor:
        with autocast(device):
            return model.encode_clean(in_layout(x), x.new_full((len(x),), run.quality))

    def draw(n_images: int, generator: torch.Generator) -> Tensor:
        crops = data.at(n_images).random_crops(settings.batch_size, settings.crop_px, generator, workers.rows)
        return encode(crops)

    def held_out(generator: torch.Generator) -> Tensor:
        return crops_of(data.held_out, max(LEAST_VALIDATION_CROPS, len(data.held_out)), generator)

    def crops_of(crops: CropSet, count: int, generator: torch.Generator) -> Tensor:
        batches = [min(STATISTICS_BATCH, count - first) for first in range(0, count, STATISTICS_BATCH)]
        return torch.cat([encode(crops.random_crops(batch, settings.crop_px, generator)) for batch in batches])

    sample = crops_of(data.at(0), STATISTICS_CROPS, torch.Generator(device).manual_seed(settings.seed))
    mean, std = statistics(sample.movedim(1, -1).flatten(0, -2))
    return LatentData({"stage1_sha256": run.sha256}, run.patch, mean, std, draw, held_out, data.counts)


@torch.no_grad()
def encode_pictures(model: UnifiedLatentModel, pictures: PictureSet, quality: float, mirrored: bool) -> PictureSet:
    """Encode pictures, cut to multiples of 16 pixels, to clean latents z in float16; `mirrored`: mirror images too."""
    device = next(model.parameters()).device
    q = torch.tensor([quality], device=device)
    latents: list[np.ndarray] = []
    for index in range(len(pictures)):
        picture = pictures.picture(index).to(device)
        height, width = (side - side % PATCH_PX for side in picture.shape[:2])
        x = picture[:height, :width].permute(2, 0, 1)[None].float() / 255
        for view in (x, x.flip(3)) if mirrored else (x,):
            with autocast(device):
                z = model.encode_clean(view.contiguous(memory_format=torch.channels_last), q)
            latents.append(z[0].permute(1, 2, 0).half().cpu().numpy())
    return pack(latents)


def statistics(positions: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over latents at positions [N, C], [C] each."""
    parts = torch.split(positions, 65536)
    mean = torch.stack([part.double().sum(0) for part in parts]).sum(0) / len(positions)
    squares = torch.stack([((part.double() - mean) ** 2).sum(0) for part in parts]).sum(0)
    return mean.float(), (squares / len(positions)).sqrt().clamp(min=1e-4).float()


def latent_windows(
    latents: PictureSet, count: int, crop_px: int, generator: torch.Generator, workers: Workers
) -> Tensor:
    """Draw this worker's rows of `count` random windows: z float32 [rows, C, crop / 16, crop / 16]."""
    windows = latents.random_windows(count, crop_px // PATCH_PX, generator, workers.rows)
    return windows.permute(0, 3, 1, 2).float()
