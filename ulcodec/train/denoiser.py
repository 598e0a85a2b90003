"""Train the denoiser alone, around the pictures that a frozen codec decodes."""

from pathlib import Path

import torch
from torch import Tensor, nn

from ulcodec.devices import autocast
from ulcodec.diffusion.batch_noise import normal_noise
from ulcodec.diffusion.bound import stratified_times
from ulcodec.diffusion.per_picture import per_picture
from ulcodec.diffusion.schedule import alpha, decoder_weight, residual_log_snr, sigma
from ulcodec.io.locations import Source
from ulcodec.io.sources import LeftOut
from ulcodec.model.decoder import Denoiser
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.store.model_directory import open_model
from ulcodec.train.crop_step import CropStep
from ulcodec.train.data.loading import pictures_of_run
from ulcodec.train.data.pictures import PictureSet
from ulcodec.train.graphs import compile_parts
from ulcodec.train.log import Metrics
from ulcodec.train.loop import Loop
from ulcodec.train.objective import decode_pictures
from ulcodec.train.revival import revive
from ulcodec.train.runs import as_begun, resumed, run_config
from ulcodec.train.settings import DenoiserSettings
from ulcodec.train.warm_start import load_denoiser
from ulcodec.train.workers import begin, without_denormals

VALIDATION_QUALITIES = (0.0, 0.2, 0.5)

QUALITY_POWER = 2.0
"""Of random qualities in [0, 1]: half of the crops are below quality 25, where most detail is missing."""


def denoiser_loss(
    denoiser: Denoiser, x: Tensor, features: Tensor, mean: Tensor, bias: float, generator: torch.Generator
) -> tuple[Tensor, Metrics]:
    """Compute the denoiser's loss per element: diffusion of the residual, and likelihood of its spread.

    `E_t[-lambda' / 2 exp(b) sigmoid(lambda - b) |r - r_hat(r_t)|^2]` is the paper's decoder loss (arXiv 2602.17270,
    3.2) for the residual `r = T(x - mean) / std` (see `Denoiser`). All parts of a picture weigh the same; the
    coefficients of a cell weigh in proportion to their spread. `std` maximises the likelihood of the residual as a
    Gaussian, and gets no other gradient. x, mean [B, 3, H, W] in [0, 1].
    """
    conditions = denoiser.conditions(features, 2 * mean - 1)
    residual, log_std = denoiser.coefficients(2 * (x - mean)), conditions.log_std
    spread = (log_std + residual**2 / 2 * torch.exp(-2 * log_std)).mean()
    std = log_std.detach().exp()
    r = residual / std
    log_snr, slope = residual_log_snr(stratified_times(len(x), generator))
    level = per_picture(log_snr, r)
    r_t = alpha(level) * r + sigma(level) * normal_noise(r, generator)
    weight = std / std.mean(1, keepdim=True)
    error = (weight * (r - denoiser(r_t, level, conditions)).square()).flatten(1).mean(1)
    diffusion = (slope / 2 * decoder_weight(log_snr, bias=bias, loss_factor=1.0) * error).mean()
    return diffusion + spread, {"diffusion": diffusion.detach(), "spread_nats": spread.detach()}


def validation_scores(
    model: UnifiedLatentModel, denoiser: Denoiser, pictures: PictureSet, settings: DenoiserSettings
) -> dict[str, float]:
    """Score one fixed crop of every held-out picture, at fixed noise levels and three qualities."""
    device = pictures.pixels.device
    generator = torch.Generator(device)
    n_crops = max(8, len(pictures))
    scores: dict[str, float] = {}
    with torch.no_grad(), autocast(device):
        for q in VALIDATION_QUALITIES:
            x = pictures.random_crops(n_crops, settings.crop_px, generator.manual_seed(1))
            quality = torch.full((n_crops,), q, device=device)
            features, mean = decode_pictures(model, x, quality)
            loss, metrics = denoiser_loss(denoiser, x, features, mean, settings.bias, generator)
            for name, value in {"loss": loss, **metrics}.items():
                scores[f"{name}@{q:g}"] = float(value)
    return scores


@without_denormals()
def train_denoiser(settings: DenoiserSettings, *, new_length: bool = False) -> Path:
    """Run or resume the training of a denoiser; return the run directory.

    `ulcodec train export` joins it with its codec to a model directory. Raises TrainingError for settings that cannot
    run, unreadable data, or a loss that is not finite or explodes.
    """
    settings.check()
    settings, init = as_begun(settings, "denoiser")
    workers, device = begin(settings.device, settings.batch_size, settings.threads, settings.seed)
    stored = open_model(settings.model)
    model = stored.networks(device)
    denoiser = model.decoder.denoiser.requires_grad_(True)
    if init is not None:
        load_denoiser(denoiser, init)
    identity = {"codec_sha256": stored.fingerprint.hex()}
    config = {"model": identity, "denoiser": settings.to_json()}
    loop = Loop(denoiser, settings.out, settings.loop_settings(), config, workers)
    loop.resume(new_length=new_length)
    left_out = LeftOut()
    training, validation = (part.to(device) for part in pictures_of_run(settings, left_out))
    counts = left_out.after(f"{len(training)} training and {len(validation)} validation pictures")

    def loss(x: Tensor, quality: Tensor, generator: torch.Generator) -> tuple[Tensor, Metrics]:
        features, mean = decode_pictures(model, x, quality)
        return denoiser_loss(denoiser, x, features, mean, settings.bias, generator)

    step = CropStep(loss, training, settings, workers, QUALITY_POWER)
    if loop.state.n_images == 0:
        counts += "; " + revive(loop, step)
    if settings.compile and device.type == "cuda":
        compile_parts(model)
    loop.announce(counts)

    def validate(trained: nn.Module) -> dict[str, float]:
        assert isinstance(trained, Denoiser)
        return validation_scores(model, trained, validation, settings)

    loop.run(step, validate)
    return settings.out


def resume_denoiser(
    run_dir: Path, *, minutes: float | None = None, n_images: int | None = None, data: tuple[Source, ...] = ()
) -> Path:
    """Continue a run, see `resume_stage1`."""
    settings = DenoiserSettings.from_json(run_config(run_dir)["denoiser"])
    settings, new_length = resumed(settings, run_dir, minutes=minutes, n_images=n_images, data=data)
    return train_denoiser(settings, new_length=new_length)
