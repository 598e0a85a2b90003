"""Train the refiner around a frozen codec: to predict how the gradient of bits and squared error moves latents."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ulcodec.devices import autocast
from ulcodec.io.locations import Source
from ulcodec.io.sources import LeftOut
from ulcodec.model.distortion import CURVATURE_BITS, lagrangians
from ulcodec.model.refiner import Refiner
from ulcodec.model.refiner_config import LARGEST_STEP, STILL_SCALE, RefinerConfig
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.store.model_directory import StoredModel, open_model
from ulcodec.store.networks import placed
from ulcodec.train.crop_step import CropStep
from ulcodec.train.data.loading import pictures_of_run
from ulcodec.train.data.pictures import PictureSet
from ulcodec.train.graphs import compile_parts
from ulcodec.train.log import Metrics
from ulcodec.train.loop import Loop
from ulcodec.train.objective import encode_pictures, symbol_bits
from ulcodec.train.runs import as_begun, resumed, run_config
from ulcodec.train.settings import RefinerSettings
from ulcodec.train.warm_start import load_refiner
from ulcodec.train.workers import begin, without_denormals

VALIDATION_QUALITIES = (0.1, 0.3, 0.5, 0.7, 0.9)


def refiner_loss(refiner: Refiner, model: UnifiedLatentModel, x: Tensor, quality: Tensor) -> tuple[Tensor, Metrics]:
    """Compute the squared error of predicted steps: a Gauss-Newton step of the latent as it was rounded.

    x [B, 3, H, W] float32 in [0, 1], quality [B] in [0, 1]. `explained`: share of the variance of the steps that the
    prediction explains.
    """
    coded = coded_with_gradient(model, x, quality)
    uncertain = coded.log_scale > math.log(STILL_SCALE)
    rounding_error = coded.restored - coded.y
    target = (rounding_error - coded.gradient / (2 * CURVATURE_BITS)).clamp(-LARGEST_STEP, LARGEST_STEP)
    step = refiner(coded.restored, rounding_error * uncertain, x - coded.decoded, quality)
    error, power = (uncertain * (target - step).square()).sum(), (uncertain * target.square()).sum()
    return error / uncertain.sum().clamp(min=1), {"explained": (1 - error / power.clamp(min=1e-9)).detach()}


class CodedWithGradient(NamedTuple):
    """Pictures as files hold them: the latent y, what a file restores, the predicted scale, the decoded pictures.

    `gradient`: of bits and weighted squared error at the restored latent, in bits per bin. All are [B, C, h, w] but
    `decoded` [B, 3, H, W], clipped to [0, 1].
    """

    y: Tensor
    restored: Tensor
    log_scale: Tensor
    decoded: Tensor
    gradient: Tensor


def coded_with_gradient(model: UnifiedLatentModel, x: Tensor, quality: Tensor) -> CodedWithGradient:
    """Encode and decode pictures x [B, 3, H, W] in [0, 1], and differentiate what they cost.

    As in refinement along gradients, an element's own bits have no gradient: the choice of symbols accounts for them.
    """
    with torch.enable_grad():
        y, restored, prediction = encode_pictures(model, x, quality)
        decoded = model.decoder.trunk(restored, quality)[1].clamp(0, 1)
        error = lagrangians(model.config, quality)[:, None, None] * 255**2 * (x - decoded).square().mean(1)
        (gradient,) = torch.autograd.grad(error.sum() + symbol_bits(restored.detach(), prediction).sum(), y)
    parts = (y, restored, prediction.log_scale, decoded, gradient)
    return CodedWithGradient(*(part.detach() for part in parts))


@torch.no_grad()
def validation_scores(
    model: UnifiedLatentModel, refiner: Refiner, pictures: PictureSet, settings: RefinerSettings
) -> dict[str, float]:
    """Score one fixed crop of every held-out picture at five qualities."""
    device = pictures.pixels.device
    generator, n_crops = torch.Generator(device), max(8, len(pictures))
    x = pictures.random_crops(n_crops, settings.crop_px, generator.manual_seed(1))
    x, scores = x.contiguous(memory_format=torch.channels_last), dict[str, float]()
    for q in VALIDATION_QUALITIES:
        measured = []
        for part in torch.split(x, settings.batch_size):
            with autocast(device):
                loss, metrics = refiner_loss(refiner, model, part, part.new_full((len(part),), q))
            measured.append(len(part) / n_crops * torch.stack((loss, metrics["explained"])))
        scores[f"loss@{q:g}"], scores[f"explained@{q:g}"] = torch.stack(measured).sum(0).tolist()
    return scores


def starting_refiner(stored: StoredModel, config: RefinerConfig, init: str | None, device: torch.device) -> Refiner:
    """Make the refiner to train: that of the model `init`, or the codec's own if it has this shape, or a new one.

    Raises TrainingError if that of `init` does not fit.
    """
    own = stored.refiner_network(device) if init is None else None
    if own is not None and own.config == config:
        return own.requires_grad_(True)
    refiner = Refiner(stored.config, config)
    if init is not None:
        load_refiner(refiner, init)
    with torch.no_grad():
        refiner.log_gain.values.copy_(stored.weights["decoder.trunk.log_gain.values"])
    return placed(refiner, device)


@without_denormals()
def train_refiner(settings: RefinerSettings, *, new_length: bool = False) -> Path:
    """Run or resume the training of a codec's refiner; return the run directory.

    `ulcodec train export` joins it with its codec to a model directory. Raises TrainingError for settings that cannot
    run, unreadable data, or a loss that is not finite or explodes.
    """
    settings.check()
    settings, init = as_begun(settings, "refiner")
    workers, device = begin(settings.device, settings.batch_size, settings.threads, settings.seed)
    stored = open_model(settings.model)
    model, refiner = stored.networks(device), starting_refiner(stored, settings.refiner_config(), init, device)
    identity = {"codec_sha256": stored.fingerprint.hex()} | asdict(settings.refiner_config())
    config = {"model": identity, "refiner": settings.to_json()}
    loop = Loop(refiner, settings.out, settings.loop_settings(), config, workers)
    loop.resume(new_length=new_length)
    left_out = LeftOut()
    training, validation = (part.to(device) for part in pictures_of_run(settings, left_out))
    loop.announce(left_out.after(f"{len(training)} training and {len(validation)} validation pictures"))

    def validate(trained: nn.Module) -> dict[str, float]:
        assert isinstance(trained, Refiner)
        return validation_scores(model, trained, validation, settings)

    def loss(x: Tensor, quality: Tensor, _: torch.Generator) -> tuple[Tensor, Metrics]:
        return refiner_loss(refiner, model, x, quality)

    if settings.compile and device.type == "cuda":
        compile_parts(model)
    loop.run(CropStep(loss, training, settings, workers), validate)
    return settings.out


def resume_refiner(
    run_dir: Path, *, minutes: float | None = None, n_images: int | None = None, data: tuple[Source, ...] = ()
) -> Path:
    """Continue a run, see `resume_stage1`."""
    settings = RefinerSettings.from_json(run_config(run_dir)["refiner"])
    settings, new_length = resumed(settings, run_dir, minutes=minutes, n_images=n_images, data=data)
    return train_refiner(settings, new_length=new_length)
