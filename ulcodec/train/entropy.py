"""What the trainings of a prior and of a video's entropy model share: steps on latents that are encoded once."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ulcodec.devices import autocast
from ulcodec.model.config import PATCH_PX
from ulcodec.train.graphs import SeededLoss, compile_parts
from ulcodec.train.latents import LatentSet, Tensors
from ulcodec.train.log import Metrics, mean_scores
from ulcodec.train.loop import Loop
from ulcodec.train.revival import revive
from ulcodec.train.settings import EntropySettings
from ulcodec.train.workers import Workers

VALIDATION_WINDOWS = 4

LatentLoss = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Metrics]]
"""Takes latents y [B, C, h, w] float32 in bins and qualities [B]; returns the scalar loss and detached metrics."""


class LatentStep(SeededLoss):
    """Loss of a training step on random windows of latents."""

    def __init__(self, loss: LatentLoss, latents: LatentSet, settings: EntropySettings, workers: Workers):
        self.loss, self.latents, self.settings, self.workers = loss, latents, settings, workers
        self.device = latents.qualities.device
        super().__init__(settings.seed, workers.generator(self.device))

    def draw(self) -> tuple[Tensor, Metrics]:
        side = self.settings.crop_px // PATCH_PX
        y, quality = self.latents.draw(self.settings.batch_size, side, self.generator, self.workers)
        with autocast(self.device):
            return self.loss(y, quality, self.generator)


def validation_scores(loss: LatentLoss, latents: LatentSet, settings: EntropySettings) -> dict[str, float]:
    """Score fixed windows of the held-out latents: loss and rates."""
    device = latents.qualities.device
    generator = torch.Generator(device).manual_seed(1)

    def score() -> tuple[Tensor, Metrics]:
        drawn = latents.draw(len(latents.qualities), settings.crop_px // PATCH_PX, generator, Workers())
        return loss(*drawn, generator)

    with torch.no_grad(), autocast(device):
        return mean_scores(score, VALIDATION_WINDOWS)


def train_on_latents(
    loop: Loop,
    loss: LatentLoss,
    latents: tuple[Tensors, Tensors],
    settings: EntropySettings,
    unit: str,
    score: LatentLoss | None = None,
) -> None:
    """Run a loop on training and validation latents.

    `unit`: what a latent is of, in the plural. `score`: loss of the validation; by default that of the training.
    """
    device = loop.state.device
    training, validation = (LatentSet.of(tensors).to(device) for tensors in latents)
    counts = f"latents of {len(training.qualities)} training and {len(validation.qualities)} validation {unit}"
    step = LatentStep(loss, training, settings, loop.workers)
    if loop.state.n_images == 0:
        counts += "; " + revive(loop, step)
    if settings.compile and device.type == "cuda":
        compile_parts(loop.model)
    loop.announce(counts)

    def validate(_: nn.Module) -> dict[str, float]:
        return validation_scores(score or loss, validation, settings)

    loop.run(step, validate)
