"""Training of the denoiser alone, around the pictures that a frozen codec decodes."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ulcodec.data import PictureSet, load_pictures
from ulcodec.devices import autocast
from ulcodec.errors import ModelError, TrainingError
from ulcodec.model.checkpoint import load_weights
from ulcodec.model.decoder import Denoiser
from ulcodec.model.likelihood import coding_walk
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.schedule import alpha, decoder_weight, residual_log_snr, sigma
from ulcodec.sources import LeftOut, Source, as_source
from ulcodec.store import DENOISER, open_model
from ulcodec.train.graphs import compile_parts
from ulcodec.train.limits import check_bias, check_common
from ulcodec.train.loop import Loop, LoopSettings, Metrics, rewind, run_config
from ulcodec.train.objective import normal_noise, per_picture, round_around, stratified_times
from ulcodec.train.revival import revive
from ulcodec.train.workers import Workers, begin, draw_rows, without_denormals

VALIDATION_QUALITIES = (0.0, 0.2, 0.5)


@dataclass(frozen=True)
class DenoiserSettings:
    """What `ulcodec train denoiser` takes. Give `minutes` or `n_images` (or both: whichever comes first ends the run).

    `model`: name or directory of the codec. `init`: the same of a model whose denoiser the run starts from, such as the
    one trained around the codec before; the codec's own unless told. Its dead units are drawn anew
    (`ulcodec.train.revival`). `bias`: b of the sigmoid weighting, in log-SNR of the residual.
    """

    data: tuple[Source, ...]
    out: Path
    model: str = "small"
    init: str | None = None
    minutes: float | None = None
    n_images: int | None = None
    batch_size: int = 8
    crop_px: int = 256
    learning_rate: float = 6e-4
    optimizer: str = "adamw"
    bias: float = 2.0
    seed: int = 0
    device: str = "auto"
    threads: int = 0
    validation_share: float = 0.02
    limit_pictures: int | None = None
    compile: bool = True

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "data": [str(path) for path in self.data], "out": str(self.out)}

    @staticmethod
    def from_json(values: dict[str, Any]) -> "DenoiserSettings":
        return DenoiserSettings(**{**values, "data": tuple(map(as_source, values["data"])), "out": Path(values["out"])})

    def loop_settings(self) -> LoopSettings:
        return LoopSettings(
            minutes=self.minutes,
            n_images=self.n_images,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            optimizer=self.optimizer,
            clip_norm=1.0,
            graphs=self.compile,
        )

    def check(self) -> None:
        """Raises TrainingError for settings that cannot run."""
        self.loop_settings().check()
        check_common(
            batch_size=self.batch_size,
            crop_px=self.crop_px,
            crop_step=64,
            seed=self.seed,
            threads=self.threads,
            limit_pictures=self.limit_pictures,
            share=self.validation_share,
        )
        check_bias(self.bias)


@torch.no_grad()
def decode_pictures(model: UnifiedLatentModel, x: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
    """Features and posterior mean of pictures x [B, 3, H, W] in [0, 1], as from files: see `Trunk`."""
    y, z = model.encoder(x, quality)
    hyper = round_around(model.hyper_encoder(z, quality), model.hyper_decoder.predict(quality).mean)
    hyper_features = model.hyper_decoder(hyper, quality, (y.shape[2], y.shape[3]))
    restored, _ = coding_walk(model, y, quality, hyper_features)
    decoded: tuple[Tensor, Tensor] = model.decoder.trunk(restored, quality)
    return decoded


def denoiser_loss(
    denoiser: Denoiser, x: Tensor, features: Tensor, mean: Tensor, bias: float, generator: torch.Generator
) -> tuple[Tensor, Metrics]:
    """`E_t[-lambda' / 2 exp(b) sigmoid(lambda - b) |r - r_hat(r_t)|^2]` and the spread's likelihood, an element.

    The paper's decoder loss (arXiv 2602.17270, 3.2) for the residual `r = T(x - mean) / std` (see `Denoiser`), so that
    every part of a picture counts alike, and coefficients of a cell as their spread says; `std` maximises the
    likelihood of the residual as a Gaussian, and takes no other gradient. x, mean [B, 3, H, W] in [0, 1].
    """
    known = denoiser.conditions(features, 2 * mean - 1)
    residual, log_std = denoiser.coefficients(2 * (x - mean)), known.log_std
    spread = (log_std + residual**2 / 2 * torch.exp(-2 * log_std)).mean()
    std = log_std.detach().exp()
    r = residual / std
    log_snr, slope = residual_log_snr(stratified_times(len(x), generator))
    level = per_picture(log_snr)
    r_t = alpha(level) * r + sigma(level) * normal_noise(r, generator)
    share = std / std.mean(1, keepdim=True)
    error = (share * (r - denoiser(r_t, level, known)).square()).flatten(1).mean(1)
    diffusion = (slope / 2 * decoder_weight(log_snr, bias=bias, loss_factor=1.0) * error).mean()
    return diffusion + spread, {"diffusion": diffusion.detach(), "spread_nats": spread.detach()}


class DenoiserStep:
    """One training step as a function of the images seen so far, which seed everything random in it."""

    is_static = True

    def __init__(
        self,
        model: UnifiedLatentModel,
        denoiser: Denoiser,
        pictures: PictureSet,
        settings: DenoiserSettings,
        workers: Workers,
    ):
        self.model, self.denoiser, self.pictures = model, denoiser, pictures
        self.settings, self.workers = settings, workers
        self.device = pictures.pixels.device
        self.generator = workers.generator(self.device)
        if settings.compile and self.device.type == "cuda":
            compile_parts(model)

    def __call__(self, n_images: int) -> tuple[Tensor, Metrics]:
        self.seed(n_images)
        return self.draw()

    def seed(self, n_images: int) -> None:
        self.generator.manual_seed(self.settings.seed * 1_000_003 + n_images)

    def draw(self) -> tuple[Tensor, Metrics]:
        settings = self.settings
        x = self.pictures.random_crops(settings.batch_size, settings.crop_px, self.generator, self.workers.rows)
        x = x.contiguous(memory_format=torch.channels_last)
        # The square: half of the crops below quality 25, where there is most to draw.
        quality = draw_rows(torch.rand, (len(x),), self.generator) ** 2
        with autocast(self.device):
            features, mean = decode_pictures(self.model, x, quality)
            return denoiser_loss(self.denoiser, x, features, mean, settings.bias, self.generator)


def validation_scores(
    model: UnifiedLatentModel, denoiser: Denoiser, pictures: PictureSet, settings: DenoiserSettings
) -> dict[str, float]:
    """Loss over one fixed crop of every held-out picture at fixed noise levels and three qualities."""
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


def load_denoiser(denoiser: Denoiser, name: str) -> None:
    """Take the weights of another model's denoiser. Raises TrainingError if they do not fit."""
    prefix = f"{DENOISER}."
    weights = open_model(name).weights
    found = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    try:
        load_weights(denoiser, found)
    except ModelError as error:
        raise TrainingError(f"{name}: its denoiser is of another configuration") from error


@without_denormals()
def train_denoiser(settings: DenoiserSettings) -> Path:
    """Run or resume. Returns the run directory; `ulcodec train export` joins it with its codec to a model directory.

    Raises TrainingError for settings that cannot run, unreadable data, or a loss that is not finite or explodes.
    """
    settings.check()
    workers, device = begin(settings.device, settings.batch_size, settings.threads, settings.seed)
    stored = open_model(settings.model)
    model = stored.networks(device)
    denoiser = model.decoder.denoiser.requires_grad_(True)
    if settings.init is not None:
        load_denoiser(denoiser, settings.init)
    identity = {"codec_sha256": stored.fingerprint.hex()}
    config = {"model": identity, "denoiser": settings.to_json()}
    loop = Loop(denoiser, settings.out, settings.loop_settings(), config, workers)
    left_out = LeftOut()
    training, validation = (
        part.to(device)
        for part in load_pictures(
            settings.data,
            min_side_px=settings.crop_px,
            validation_share=settings.validation_share,
            limit=settings.limit_pictures,
            left_out=left_out,
        )
    )
    counts = left_out.after(f"{len(training)} training and {len(validation)} validation pictures")
    if loop.n_images == 0:
        looking = DenoiserStep(model, denoiser, training, replace(settings, compile=False), workers)
        counts += "; " + revive(loop, looking)
    if workers.first:
        print(f"{counts}; {device}, {workers.count} of them; resuming at {loop.n_images} images")

    def validate(trained: nn.Module) -> dict[str, float]:
        assert isinstance(trained, Denoiser)
        return validation_scores(model, trained, validation, settings)

    loop.run(DenoiserStep(model, denoiser, training, settings, workers), validate)
    return settings.out


def resume_denoiser(
    run_dir: Path, *, minutes: float | None = None, n_images: int | None = None, data: tuple[Source, ...] = ()
) -> Path:
    """As `resume_stage1`."""
    longer = minutes is not None or n_images is not None
    settings = DenoiserSettings.from_json(run_config(run_dir)["denoiser"])
    settings = replace(settings, out=run_dir, init=None, data=data or settings.data)
    if longer:
        settings = replace(settings, minutes=minutes, n_images=n_images)
        settings.check()
        rewind(run_dir, settings.loop_settings(), settings.device)
    return train_denoiser(settings)
