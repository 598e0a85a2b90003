"""Stage 2: train a base model that draws latents, on the latents of frozen networks.

These are a codec, which encodes all pictures once, or the encoder of a run of stage 1 with the objective `ul`, which
encodes the crops of each step.
"""

from collections.abc import Callable
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ulcodec.devices import autocast
from ulcodec.diffusion.batch_noise import normal_noise
from ulcodec.diffusion.bound import stratified_times, terminal_kl_nats
from ulcodec.diffusion.per_picture import per_picture, sum_per_picture
from ulcodec.diffusion.schedule import NATS_TO_BITS, alpha, decoder_weight, latent_log_snr, sigma
from ulcodec.io.locations import Source
from ulcodec.io.sources import LeftOut
from ulcodec.model.base_model import BaseModel, base_model_config
from ulcodec.model.config import PATCH_PX
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.store.model_directory import open_model
from ulcodec.store.trained_run import TrainedRun, is_run, open_run
from ulcodec.train.data.crops import CropSet, in_layout
from ulcodec.train.data.loading import pictures_of_run
from ulcodec.train.data.pictures import PictureSet, pack
from ulcodec.train.data.training_set import training_set
from ulcodec.train.latents import Tensors, latents_of_run
from ulcodec.train.log import Metrics, mean_scores
from ulcodec.train.loop import Loop
from ulcodec.train.runs import resumed, run_config
from ulcodec.train.settings import Stage2Settings
from ulcodec.train.workers import Workers, begin, without_denormals

VALIDATION_PASSES = 8
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


def base_loss(
    base: nn.Module, z: Tensor, bias: float, patch_px: int, generator: torch.Generator
) -> tuple[Tensor, Metrics]:
    """Compute the sigmoid-weighted bound on the latents' description length, in nats per latent element.

    `E_t[-lambda'/2 exp(b) sigmoid(lambda - b) |z - z_hat(z_t)|^2]` (arXiv 2602.17270, 3.3). With the weight of stage 1,
    `exp(lambda)`, it is the metric `continuous_bpp`, in bits per pixel. z [B, C, x] clean; `patch_px`: pixels of a
    latent position, of all its frames.
    """
    log_snr, slope = latent_log_snr(stratified_times(len(z), generator))
    level = per_picture(log_snr, z)
    z_t = alpha(level) * z + sigma(level) * normal_noise(z, generator)
    squared_error = sum_per_picture((z - base(z_t, log_snr)) ** 2)
    weighted = slope / 2 * decoder_weight(log_snr, bias=bias, loss_factor=1.0) * squared_error
    bound = slope / 2 * log_snr.exp() * squared_error + terminal_kl_nats(z)
    n_pixels = z[0, 0].numel() * patch_px
    metrics = {"continuous_bpp": bound.detach().mean() * NATS_TO_BITS / n_pixels}
    return weighted.mean() / z[0].numel(), metrics


class Stage2Step:
    """Loss of a training step, as a function of the images seen so far, which seed all random numbers."""

    def __init__(self, base: BaseModel, data: LatentData, settings: Stage2Settings, workers: Workers):
        self.data, self.settings = data, settings
        self.device = base.mean.device
        self.generator = workers.generator(self.device)
        compiled = settings.compile and self.device.type == "cuda" and not settings.shard
        self.network: nn.Module = torch.compile(base) if compiled else base  # type: ignore[assignment]

    def __call__(self, n_images: int) -> tuple[Tensor, Metrics]:
        settings = self.settings
        seed = settings.seed * 1_000_003 + n_images
        self.generator.manual_seed(seed)
        torch.manual_seed(seed)  # dropout draws from the global generators
        z = self.data.draw(n_images, self.generator)
        with autocast(self.device):
            return base_loss(self.network, z, settings.bias, prod(self.data.patch), self.generator)


def latent_windows(
    latents: PictureSet, count: int, crop_px: int, generator: torch.Generator, workers: Workers
) -> Tensor:
    """Draw this worker's rows of `count` random windows: z float32 [rows, C, crop / 16, crop / 16]."""
    windows = latents.random_windows(count, crop_px // PATCH_PX, generator, workers.rows)
    return windows.permute(0, 3, 1, 2).float()


def validation_scores(base: nn.Module, data: LatentData, settings: Stage2Settings) -> dict[str, float]:
    """Score held-out latents at fixed noise levels, in float32: loss and bound."""
    generator = torch.Generator(data.mean.device).manual_seed(1)

    def score() -> tuple[Tensor, Metrics]:
        return base_loss(base, data.held_out(generator), settings.bias, prod(data.patch), generator)

    base.eval()
    with torch.no_grad():
        scores = mean_scores(score, VALIDATION_PASSES)
    base.train()
    return scores


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


@without_denormals()
def train_stage2(settings: Stage2Settings, *, new_length: bool = False) -> Path:
    """Run or resume stage 2; return the run directory, from which `ulcodec sample` draws pictures or clips.

    Raises TrainingError for settings that cannot run, unreadable data, latents of other networks, or a loss that is not
    finite or explodes.
    """
    settings.check()
    run = open_run(Path(settings.model)) if is_run(Path(settings.model)) else None
    step = base_model_config(settings.config, latent_channels=1).step
    settings = settings.for_run(None if run is None else run.settings, step)
    workers, device = begin(settings.device, settings.batch_size, settings.threads, settings.seed)
    if run is None:
        data = latents_of_codec(settings, workers, device)
    else:
        data = latents_of_trained_run(run, settings, workers, device)
    config = base_model_config(settings.config, len(data.mean), len(data.patch))
    torch.manual_seed(settings.seed)  # encoding the latents may have drawn random numbers in the first worker
    base = BaseModel(config).to(device)
    base.set_statistics(data.mean, data.std)
    identity = {"base": asdict(config), **data.origin}
    sharded = base.blocks() if settings.shard else []
    config_of_run = {"model": identity, "stage2": settings.to_json()}
    loop = Loop(base, settings.out, settings.loop_settings(), config_of_run, workers, sharded)
    loop.resume(new_length=new_length)
    loop.announce(data.counts)

    def validate(trained: nn.Module) -> dict[str, float]:
        return validation_scores(trained, data, settings)

    loop.run(Stage2Step(base, data, settings, workers), validate)
    return settings.out


def resume_stage2(
    run_dir: Path, *, minutes: float | None = None, n_images: int | None = None, data: tuple[Source, ...] = ()
) -> Path:
    """Continue a run, see `resume_stage1`."""
    settings = Stage2Settings.from_json(run_config(run_dir)["stage2"])
    settings, new_length = resumed(settings, run_dir, minutes=minutes, n_images=n_images, data=data)
    return train_stage2(settings, new_length=new_length)
