"""Stage 1: train encoder, prior and decoder together."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ulcodec.devices import autocast
from ulcodec.io.locations import Source
from ulcodec.model.build import build_model
from ulcodec.model.presets import preset
from ulcodec.store.networks import placed
from ulcodec.train.data.crops import CropSet, in_layout
from ulcodec.train.data.training_set import training_set
from ulcodec.train.graphs import SeededLoss, compile_parts
from ulcodec.train.log import Metrics
from ulcodec.train.loop import Loop
from ulcodec.train.objective import OBJECTIVES, encoder_share_at
from ulcodec.train.revival import revive
from ulcodec.train.runs import as_begun, resumed, run_config
from ulcodec.train.settings import Stage1Settings
from ulcodec.train.warm_start import load_initial_weights
from ulcodec.train.workers import Workers, begin, without_denormals

VALIDATION_QUALITIES = (0.0, 0.25, 0.5, 0.75, 1.0)
VALIDATION_CLIPS = 32
"""Clips that are scored at once. Pictures, which are smaller, are scored all at once."""


class Stage1Step(SeededLoss):
    """Loss of a training step, as a function of the images seen so far.

    Their number chooses the pictures and seeds all random numbers, so that a resumed run draws what an unbroken one
    would.
    """

    def __init__(
        self,
        model: nn.Module,
        pictures_at: Callable[[int], CropSet],
        settings: Stage1Settings,
        workers: Workers | None = None,
    ):
        self.model, self.pictures_at, self.settings = model, pictures_at, settings
        self.workers = workers or Workers()
        self.device = next(model.parameters()).device
        super().__init__(settings.seed, self.workers.generator(self.device))
        self.is_static = not settings.shards_in_memory
        objective = OBJECTIVES[settings.objective]
        self.encoder_share = torch.ones((), device=self.device)
        is_compiled = settings.compile and self.device.type == "cuda"
        if settings.objective == "codec":
            self.loss = objective
            if is_compiled:
                compile_parts(model)
        else:
            compiled = torch.compile(objective) if is_compiled else objective
            self.loss = partial(compiled, encoder_share=self.encoder_share)

    def seed(self, n_images: int) -> None:
        super().seed(n_images)
        torch.manual_seed(self.generator.initial_seed())  # dropout draws from the global generators
        self.pictures = self.pictures_at(n_images)
        self.encoder_share.fill_(encoder_share_at(n_images, self.settings.latent_warmup_images))

    def draw(self) -> tuple[Tensor, Metrics]:
        settings = self.settings
        x = self.pictures.random_crops(settings.batch_size, settings.crop_px, self.generator, self.workers.rows)
        quality = self.workers.rows(self.qualities())
        with autocast(self.device):
            return self.loss(self.model, in_layout(x), quality, settings.weights, self.generator)

    def qualities(self) -> Tensor:
        """Draw qualities [B] in [0, 1], one in each of B equal strata, shuffled: every batch covers all rates."""
        batch = self.settings.batch_size
        if self.settings.objective == "ul":
            return torch.full((batch,), self.settings.weights.ul_quality, device=self.device)
        offsets = torch.rand(batch, generator=self.generator, device=self.device)
        order = torch.rand(batch, generator=self.generator, device=self.device).argsort()
        return (order + offsets) / batch


def validation_scores(model: nn.Module, pictures: CropSet, settings: Stage1Settings) -> dict[str, float]:
    """Score one fixed crop of every held-out picture or clip, in float32: loss, rate and PSNR.

    At five qualities, or at that of the objective `ul`.
    """
    generator = torch.Generator(pictures.device).manual_seed(1)
    n_crops = max(1, len(pictures))
    objective = OBJECTIVES[settings.objective]
    totals: dict[str, float] = {}
    qualities = VALIDATION_QUALITIES if settings.objective == "codec" else (settings.weights.ul_quality,)
    model.eval()
    with torch.no_grad():
        for quality in qualities:
            crops = pictures.random_crops(n_crops, settings.crop_px, generator.manual_seed(1))
            for x in torch.split(crops, VALIDATION_CLIPS if crops.ndim == 5 else n_crops):
                q = torch.full((len(x),), quality, device=x.device)
                loss, metrics = objective(model, x, q, settings.weights, generator)
                for name, value in {"loss": loss, **metrics}.items():
                    totals[name] = totals.get(name, 0.0) + float(value) * len(x) / n_crops / len(qualities)
                    if settings.objective == "codec" and name in ("chain_bpp", "psnr_db"):
                        totals[f"{name}@{quality:g}"] = float(value)
    model.train()
    return totals


@without_denormals()
def train_stage1(settings: Stage1Settings, *, new_length: bool = False) -> Path:
    """Run or resume stage 1; return the run directory, which `ulcodec train export` turns into a model directory.

    Raises TrainingError for settings that cannot run, unreadable data, or a loss that is not finite or explodes.
    """
    settings.check()
    settings, init = as_begun(settings, "stage1")
    workers, device = begin(settings.device, settings.batch_size, settings.threads, settings.seed)
    model: nn.Module = build_model(preset(settings.config))
    if init is not None:
        load_initial_weights(model, init, settings.resolved()["model"])
    model = placed(model, device)
    loop = Loop(model, settings.out, settings.loop_settings(), settings.resolved(), workers)
    loop.resume(new_length=new_length)
    pictures_at, held_out, counts = training_set(settings, device)
    if init is not None:
        counts += "; " + revive(loop, Stage1Step(model, pictures_at, replace(settings, compile=False), workers))
    loop.announce(counts)
    step = Stage1Step(model, pictures_at, settings, workers)

    def validate(trained: nn.Module) -> dict[str, float]:
        return validation_scores(trained, held_out, settings)

    loop.run(step, validate)
    return settings.out


def resume_stage1(
    run_dir: Path,
    *,
    minutes: float | None = None,
    n_images: int | None = None,
    data: tuple[Source, ...] = (),
) -> Path:
    """Continue a run with the settings in its checkpoint, to a new length if one is given, see `resumed`.

    Raises TrainingError if there is no checkpoint, or as `resumed` and `train_stage1`.
    """
    settings = Stage1Settings.from_resolved(run_config(run_dir)["stage1"])
    settings, new_length = resumed(settings, run_dir, minutes=minutes, n_images=n_images, data=data)
    return train_stage1(settings, new_length=new_length)
