"""Stage 2: train a base model that draws latents, on the latents of a frozen codec."""

from dataclasses import asdict
from pathlib import Path

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
from ulcodec.train.data.loading import pictures_of_run
from ulcodec.train.data.pictures import PictureSet, pack
from ulcodec.train.latents import Tensors, latents_of_run
from ulcodec.train.log import Metrics, mean_scores
from ulcodec.train.loop import Loop
from ulcodec.train.runs import resumed, run_config
from ulcodec.train.settings import Stage2Settings
from ulcodec.train.workers import Workers, begin, without_denormals

VALIDATION_PASSES = 8


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


def statistics(latents: PictureSet) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over all positions, [C] each."""
    parts = torch.split(latents.pixels, 65536)
    mean = torch.stack([part.double().sum(0) for part in parts]).sum(0) / len(latents.pixels)
    squares = torch.stack([((part.double() - mean) ** 2).sum(0) for part in parts]).sum(0)
    return mean.float(), (squares / len(latents.pixels)).sqrt().clamp(min=1e-4).float()


def base_loss(base: nn.Module, z: Tensor, bias: float, generator: torch.Generator) -> tuple[Tensor, Metrics]:
    """Compute the sigmoid-weighted bound on the latents' description length, in nats per latent element.

    `E_t[-lambda'/2 exp(b) sigmoid(lambda - b) |z - z_hat(z_t)|^2]` (arXiv 2602.17270, 3.3). With the weight of stage 1,
    `exp(lambda)`, it is the metric `continuous_bpp`, in bits per pixel. z [B, C, h, w] clean.
    """
    log_snr, slope = latent_log_snr(stratified_times(len(z), generator))
    level = per_picture(log_snr)
    z_t = alpha(level) * z + sigma(level) * normal_noise(z, generator)
    squared_error = sum_per_picture((z - base(z_t, log_snr)) ** 2)
    weighted = slope / 2 * decoder_weight(log_snr, bias=bias, loss_factor=1.0) * squared_error
    bound = slope / 2 * log_snr.exp() * squared_error + terminal_kl_nats(z)
    n_pixels = z.shape[-2] * z.shape[-1] * PATCH_PX**2
    metrics = {"continuous_bpp": bound.detach().mean() * NATS_TO_BITS / n_pixels}
    return weighted.mean() / z[0].numel(), metrics


class Stage2Step:
    """Loss of a training step, as a function of the images seen so far, which seed all random numbers."""

    def __init__(self, base: BaseModel, latents: PictureSet, settings: Stage2Settings, workers: Workers):
        self.base, self.latents, self.settings, self.workers = base, latents, settings, workers
        self.device = base.mean.device
        self.generator = workers.generator(self.device)
        compiled = settings.compile and self.device.type == "cuda" and not settings.shard
        self.network: nn.Module = torch.compile(base) if compiled else base  # type: ignore[assignment]

    def __call__(self, n_images: int) -> tuple[Tensor, Metrics]:
        settings = self.settings
        seed = settings.seed * 1_000_003 + n_images
        self.generator.manual_seed(seed)
        torch.manual_seed(seed)  # dropout draws from the global generators
        z = latent_windows(self.latents, settings.batch_size, settings.crop_px, self.generator, self.workers)
        with autocast(self.device):
            return base_loss(self.network, z, settings.bias, self.generator)


def latent_windows(
    latents: PictureSet, count: int, crop_px: int, generator: torch.Generator, workers: Workers
) -> Tensor:
    """Draw this worker's rows of `count` random windows: z float32 [rows, C, crop / 16, crop / 16]."""
    windows = latents.random_windows(count, crop_px // PATCH_PX, generator, workers.rows)
    return windows.permute(0, 3, 1, 2).float()


def validation_scores(base: nn.Module, latents: PictureSet, settings: Stage2Settings) -> dict[str, float]:
    """Score fixed windows of the held-out pictures at fixed noise levels, in float32: loss and bound."""
    generator = torch.Generator(latents.pixels.device).manual_seed(1)

    def score() -> tuple[Tensor, Metrics]:
        z = latent_windows(latents, max(8, len(latents)), settings.crop_px, generator, Workers())
        return base_loss(base, z, settings.bias, generator)

    base.eval()
    with torch.no_grad():
        scores = mean_scores(score, VALIDATION_PASSES)
    base.train()
    return scores


@without_denormals()
def train_stage2(settings: Stage2Settings, *, new_length: bool = False) -> Path:
    """Run or resume stage 2; return the run directory, from which `ulcodec sample` draws pictures.

    The first run encodes all pictures to `RUN/latents`. Raises TrainingError for settings that cannot run,
    unreadable data, latents of another codec, or a loss that is not finite or explodes.
    """
    settings.check()
    workers, device = begin(settings.device, settings.batch_size, settings.threads, settings.seed)
    codec = open_model(settings.model)
    config = base_model_config(settings.config, codec.config.latent_channels)

    def encode(left_out: LeftOut) -> tuple[Tensors, Tensors]:
        training, validation = pictures_of_run(settings, left_out)
        model, quality = codec.networks(device), settings.quality / 100
        return (
            encode_pictures(model, training, quality, mirrored=True).tensors(),
            encode_pictures(model, validation, quality, mirrored=False).tensors(),
        )

    origin = {"codec_sha256": codec.fingerprint.hex(), "quality": settings.quality}
    latents = latents_of_run(settings.out / "latents", origin, encode, workers)
    training, validation = (PictureSet.of_tensors(part).to(device) for part in latents)
    torch.manual_seed(settings.seed)  # encoding the latents may have drawn random numbers in the first worker
    base = BaseModel(config).to(device)
    base.set_statistics(*statistics(training))
    identity = {"base": asdict(config), **origin}
    sharded = list(base.transformer.blocks) if settings.shard else []
    config_of_run = {"model": identity, "stage2": settings.to_json()}
    loop = Loop(base, settings.out, settings.loop_settings(), config_of_run, workers, sharded)
    loop.resume(new_length=new_length)
    loop.announce(f"latents of {len(training)} training (mirrored too) and {len(validation)} validation pictures")

    def validate(trained: nn.Module) -> dict[str, float]:
        return validation_scores(trained, validation, settings)

    loop.run(Stage2Step(base, training, settings, workers), validate)
    return settings.out


def resume_stage2(
    run_dir: Path, *, minutes: float | None = None, n_images: int | None = None, data: tuple[Source, ...] = ()
) -> Path:
    """Continue a run, see `resume_stage1`."""
    settings = Stage2Settings.from_json(run_config(run_dir)["stage2"])
    settings, new_length = resumed(settings, run_dir, minutes=minutes, n_images=n_images, data=data)
    return train_stage2(settings, new_length=new_length)
