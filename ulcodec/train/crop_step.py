"""Steps of networks that are trained around a frozen codec, on crops of pictures."""

from collections.abc import Callable

import torch
from torch import Tensor

from ulcodec.devices import autocast
from ulcodec.diffusion.batch_noise import draw_rows
from ulcodec.train.data.pictures import PictureSet
from ulcodec.train.graphs import SeededLoss
from ulcodec.train.log import Metrics
from ulcodec.train.settings import DenoiserSettings, RefinerSettings
from ulcodec.train.workers import Workers

CropLoss = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Metrics]]
"""Takes crops x [B, 3, H, W] float32 in [0, 1] and qualities [B] in [0, 1]; returns the scalar loss and detached
metrics."""


class CropStep(SeededLoss):
    """Loss of a training step on random crops, at random qualities to the power `quality_power`."""

    def __init__(
        self,
        loss: CropLoss,
        pictures: PictureSet,
        settings: DenoiserSettings | RefinerSettings,
        workers: Workers,
        quality_power: float = 1.0,
    ):
        self.loss, self.pictures, self.settings, self.workers = loss, pictures, settings, workers
        self.quality_power, self.device = quality_power, pictures.pixels.device
        super().__init__(settings.seed, workers.generator(self.device))

    def draw(self) -> tuple[Tensor, Metrics]:
        settings = self.settings
        x = self.pictures.random_crops(settings.batch_size, settings.crop_px, self.generator, self.workers.rows)
        x = x.contiguous(memory_format=torch.channels_last)
        quality = draw_rows(torch.rand, (len(x),), self.generator) ** self.quality_power
        with autocast(self.device):
            return self.loss(x, quality, self.generator)
