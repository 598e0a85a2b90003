"""Stage 2: train a base model that draws latents, on the latents of frozen networks."""

from dataclasses import asdict
from math import prod
from pathlib import Path

import torch
from torch import Tensor, nn

from ulcodec.devices import autocast
from ulcodec.diffusion.batch_noise import normal_noise
from ulcodec.diffusion.bound import stratified_times, terminal_kl_nats
from ulcodec.diffusion.per_picture import per_picture, sum_per_picture
from ulcodec.diffusion.schedule import NATS_TO_BITS, alpha, decoder_weight, latent_log_snr, sigma
from ulcodec.io.locations import Source
from ulcodec.model.base_model import BaseModel, base_model_config
from ulcodec.store.trained_run import is_run, open_run
from ulcodec.train.latent_data import LatentData, latents_of_codec, latents_of_trained_run
from ulcodec.train.log import Metrics, mean_scores
from ulcodec.train.loop import Loop
from ulcodec.train.runs import resumed, run_config
from ulcodec.train.settings import Stage2Settings
from ulcodec.train.workers import Workers, begin, without_denormals

VALIDATION_PASSES = 8


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
