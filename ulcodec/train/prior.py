"""Train the prior alone, with its hyper-decoder, on the latents of a frozen codec that are encoded once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ulcodec.devices import autocast
from ulcodec.errors import ModelError, TrainingError
from ulcodec.io.locations import Source
from ulcodec.io.sources import LeftOut
from ulcodec.model.config import HYPER_PATCH_PX, PATCH_PX, ModelConfig
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.store.model_directory import StoredModel, open_model
from ulcodec.train.data.augmentation import reduced, reduction_factors
from ulcodec.train.data.loading import pictures_of_run
from ulcodec.train.data.pictures import PictureSet, empty_set
from ulcodec.train.entropy import train_on_latents
from ulcodec.train.latents import LatentSet, Tensors, latents_of_run
from ulcodec.train.log import Metrics
from ulcodec.train.loop import Loop
from ulcodec.train.objective import prior_loss, taught_loss
from ulcodec.train.runs import resumed, run_config
from ulcodec.train.settings import PriorSettings
from ulcodec.train.warm_start import grown_weights
from ulcodec.train.workers import begin, without_denormals

N_ORIENTATIONS = 8
ROUNDING_PX = 1e-2
"""Added to sides that were divided, so that they do not fall below a whole number."""


@torch.no_grad()
def encode_views(
    model: UnifiedLatentModel,
    pictures: PictureSet,
    n_views: int,
    seed: int,
    reduction: float = 1.0,
    least_px: int = HYPER_PATCH_PX,
) -> Tensors:
    """Encode every picture `n_views` times, each time mirrored and turned at random, and at another quality.

    The qualities are spread evenly over [0, 1]. Half of the views are reduced, by random factors up to `reduction`, to
    sides of at least `least_px`. Returns the tensors of a `LatentSet`.
    """
    device, random = next(model.parameters()).device, np.random.default_rng(seed)
    count = n_views * len(pictures)
    qualities = torch.from_numpy((np.arange(count) + random.random(count)) / count).float()
    numbers, orientations = random.permutation(count) // n_views, random.integers(N_ORIENTATIONS, size=count)
    sides = torch.stack((pictures.heights, pictures.widths), dim=1)[numbers]
    largest = (sides.amin(1) / least_px).clamp(1, reduction)
    factors = reduction_factors(torch.from_numpy(random.random(count)).float(), largest)
    sizes = (sides / factors[:, None] + ROUNDING_PX).long().numpy() // HYPER_PATCH_PX
    turned = np.where(is_turned(orientations)[:, None], sizes[:, ::-1], sizes) * (HYPER_PATCH_PX // PATCH_PX)
    latents = empty_set(turned, model.config.latent_channels, torch.float16)
    for view, (number, orientation, quality) in enumerate(zip(numbers, orientations, qualities, strict=True)):
        pixels = pictures.picture(int(number)).to(device).permute(2, 0, 1)[None].float()
        height, width = (int(side) * HYPER_PATCH_PX for side in sizes[view])
        factor = factors[view].to(device)
        chosen = reduced(pixels, factor, height, width) if factor > 1 else pixels[..., :height, :width]
        x = oriented(chosen / 255, int(orientation))
        with autocast(device):
            y, _ = model.encoder(x.contiguous(memory_format=torch.channels_last), quality[None].to(device))
        latents.picture(view).copy_(y[0].permute(1, 2, 0))
    return LatentSet(latents, qualities).tensors()


def is_turned(orientation: np.ndarray) -> np.ndarray:
    """Whether orientations exchange height and width."""
    turned: np.ndarray = orientation // 2 % 2 == 1
    return turned


def oriented(x: Tensor, orientation: int) -> Tensor:
    """Turn and mirror [B, C, H, W] to one of the eight orientations of a picture."""
    turned = x.rot90(orientation // 2, (2, 3))
    return turned.flip(3) if orientation % 2 else turned


def starting_model(stored: StoredModel, config: ModelConfig, device: torch.device) -> UnifiedLatentModel:
    """Make the networks of a codec, with a prior of another configuration that starts from its own.

    Raises TrainingError if the codec has more blocks in a pass.
    """
    if config == stored.config:
        return stored.networks(device)
    try:
        weights = grown_weights(UnifiedLatentModel(config), stored.config, stored.weights)
    except ModelError as error:
        raise TrainingError("the codec's prior has more blocks than the new one, which cannot start from it") from error
    return replace(stored, config=config, weights=weights).networks(device)


@without_denormals()
def train_prior(settings: PriorSettings, *, new_length: bool = False) -> Path:
    """Run or resume the training of a codec's prior; return the run directory.

    The first run encodes all pictures to `RUN/latents`. `ulcodec train export` makes a model of the trained prior and
    the codec's encoder and decoder. Raises TrainingError for settings that cannot run, unreadable data, latents of
    another codec, or a loss that is not finite or explodes.
    """
    settings.check()
    workers, device = begin(settings.device, settings.batch_size, settings.threads, settings.seed)
    stored = open_model(settings.model)
    model = starting_model(stored, settings.model_config(stored.config), device)
    teacher = stored.networks(device) if settings.teacher_share else None
    trained = nn.ModuleDict({"hyper_decoder": model.hyper_decoder, "prior": model.prior}).requires_grad_(True)
    identity = {"codec_sha256": stored.fingerprint.hex()}
    network = {} if settings.prior_blocks is None else {"prior_blocks": settings.prior_blocks}
    config = {"model": identity | network, "prior": settings.to_json()}
    loop = Loop(trained, settings.out, settings.loop_settings(), config, workers)
    loop.resume(new_length=new_length)

    def encode(left_out: LeftOut) -> tuple[Tensors, Tensors]:
        training, validation = pictures_of_run(settings, left_out)
        return (
            encode_views(model, training, settings.views, settings.seed, settings.reduction or 1.0, settings.crop_px),
            encode_views(model, validation, settings.views, settings.seed + 1),
        )

    def rate(y: Tensor, quality: Tensor, generator: torch.Generator) -> tuple[Tensor, Metrics]:
        return prior_loss(model, y, quality, settings.weights, generator)

    def loss(y: Tensor, quality: Tensor, generator: torch.Generator) -> tuple[Tensor, Metrics]:
        if teacher is None:
            return rate(y, quality, generator)
        return taught_loss(model, teacher, settings.teacher_share, y, quality, settings.weights, generator)

    origin = {**identity, "views": settings.views, "seed": settings.seed}
    if settings.reduction is not None:
        origin["reduction"] = settings.reduction
    latents = latents_of_run(settings.out / "latents", origin, encode, workers)
    train_on_latents(loop, loss, latents, settings, "views", rate)
    return settings.out


def resume_prior(
    run_dir: Path, *, minutes: float | None = None, n_images: int | None = None, data: tuple[Source, ...] = ()
) -> Path:
    """Continue a run, see `resume_stage1`."""
    settings = PriorSettings.from_json(run_config(run_dir)["prior"])
    settings, new_length = resumed(settings, run_dir, minutes=minutes, n_images=n_images, data=data)
    return train_prior(settings, new_length=new_length)
