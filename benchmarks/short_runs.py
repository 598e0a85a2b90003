"""Short training runs on the same pictures or clips, for comparisons."""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from ulcodec.model.build import build_model
from ulcodec.model.config import ModelConfig, PaperConfig
from ulcodec.store.networks import placed
from ulcodec.train.data.crops import CropSet
from ulcodec.train.data.training_set import augmented
from ulcodec.train.loop import Loop
from ulcodec.train.settings import Stage1Settings
from ulcodec.train.stage1 import Stage1Step
from ulcodec.train.workers import without_denormals


@without_denormals()
def trained(
    config: ModelConfig | PaperConfig,
    pictures: CropSet,
    legs: Sequence[Stage1Settings],
    change: Callable[[Any], None] | None = None,
) -> tuple[Any, float]:
    """Train a model from fresh weights; return it with its EMA weights, and the seconds of the run.

    `legs`: settings of the run's parts, each with where the run is at its end. `change` is applied to the fresh model.
    """
    torch.manual_seed(legs[0].seed)
    model: nn.Module = build_model(config)
    if change is not None:
        change(model)
    model = placed(model, torch.device("cpu"))

    def step(settings: Stage1Settings) -> Stage1Step:
        crops = augmented(pictures, settings)
        return Stage1Step(model, lambda n_images: crops, settings)

    with TemporaryDirectory() as folder:
        for settings in legs:
            loop = Loop(model, Path(folder), settings.loop_settings(), settings.resolved())
            loop.resume()
            loop.run(step(settings), lambda scored: {})
    loop.state.ema_weights().swap()
    return model.eval().requires_grad_(False), loop.state.seconds
