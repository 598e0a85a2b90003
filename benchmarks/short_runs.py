"""Short training runs on the same pictures, for comparisons."""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ulcodec.model.config import ModelConfig
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.train.data.pictures import PictureSet
from ulcodec.train.loop import Loop
from ulcodec.train.settings import Stage1Settings
from ulcodec.train.stage1 import Stage1Step
from ulcodec.train.workers import without_denormals


@without_denormals()
def trained(
    config: ModelConfig,
    pictures: PictureSet,
    legs: Sequence[Stage1Settings],
    change: Callable[[UnifiedLatentModel], None] | None = None,
) -> tuple[UnifiedLatentModel, float]:
    """Train a model from fresh weights; return it with its EMA weights, and the seconds of the run.

    `legs`: settings of the run's parts, each with where the run is at its end. `change` is applied to the fresh model.
    """
    torch.manual_seed(legs[0].seed)
    model = UnifiedLatentModel(config)
    if change is not None:
        change(model)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with TemporaryDirectory() as folder:
        for settings in legs:
            loop = Loop(model, Path(folder), settings.loop_settings(), settings.resolved())
            loop.resume()
            loop.run(Stage1Step(model, lambda n_images: pictures, settings), lambda scored: {})
    loop.state.ema_weights().swap()
    return model.eval().requires_grad_(False), loop.state.seconds
