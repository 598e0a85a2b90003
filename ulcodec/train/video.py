"""Train the entropy model of predicted frames, on latents that a frozen codec encodes once."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ulcodec.io.locations import Source
from ulcodec.io.sources import LeftOut
from ulcodec.model.config import ModelConfig
from ulcodec.model.unified import EntropyModel, UnifiedLatentModel
from ulcodec.store.model_directory import open_model
from ulcodec.train.entropy import train_on_latents
from ulcodec.train.latents import Tensors, latents_of_run
from ulcodec.train.log import Metrics
from ulcodec.train.loop import Loop
from ulcodec.train.objective import residual_loss
from ulcodec.train.residuals import encode_clips
from ulcodec.train.runs import as_begun, resumed, run_config
from ulcodec.train.settings import VideoSettings
from ulcodec.train.warm_start import load_video_part
from ulcodec.train.workers import begin, without_denormals


def sizes_of(config: ModelConfig) -> dict[str, Any]:
    """Return the fields in which the entropy model may differ from that of pictures, as JSON values."""
    return {
        "prior_width": config.prior_width,
        "prior_blocks": list(config.prior_blocks),
        "hyper_channels": config.hyper_channels,
    }


def starting_model(codec: UnifiedLatentModel, config: ModelConfig, init: str | None) -> EntropyModel:
    """Make an entropy model: the video part of the model `init`, or a new one with the channels' gains of a codec.

    Raises TrainingError if that of `init` does not fit.
    """
    model = EntropyModel(config)
    if init is None:
        model.prior.log_gain.load_state_dict(codec.prior.log_gain.state_dict())
    else:
        load_video_part(model, init)
    device = next(codec.parameters()).device
    placed: EntropyModel = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return placed


@without_denormals()
def train_video(settings: VideoSettings, *, new_length: bool = False) -> Path:
    """Run or resume the training of the entropy model of predicted frames; return the run directory.

    The first run encodes predicted frames of all clips to `RUN/latents`. `ulcodec train export` joins the entropy model
    with its codec to a model directory. Raises TrainingError for settings that cannot run, unreadable data, latents of
    another codec, or a loss that is not finite or explodes.
    """
    settings.check()
    settings, init = as_begun(settings, "video")
    workers, device = begin(settings.device, settings.batch_size, settings.threads, settings.seed)
    stored = open_model(settings.model)
    codec = stored.networks(device)
    model = starting_model(codec, settings.model_config(codec.config), init)
    identity = {"codec_sha256": stored.fingerprint.hex()}
    config = {"model": identity | sizes_of(model.config), "video": settings.to_json()}
    loop = Loop(model, settings.out, settings.loop_settings(), config, workers)
    loop.resume(new_length=new_length)

    def encode(left_out: LeftOut) -> tuple[Tensors, Tensors]:
        return encode_clips(codec, settings, left_out)

    def loss(y: Tensor, quality: Tensor, generator: torch.Generator) -> tuple[Tensor, Metrics]:
        return residual_loss(model, codec.encoder.log_gain, y, quality, settings.weights, generator)

    origin = {**identity, "views": settings.views, "seed": settings.seed}
    latents = latents_of_run(settings.out / "latents", origin, encode, workers)
    train_on_latents(loop, loss, latents, settings, "frames")
    return settings.out


def resume_video(
    run_dir: Path, *, minutes: float | None = None, n_images: int | None = None, data: tuple[Source, ...] = ()
) -> Path:
    """Continue a run, see `resume_stage1`."""
    settings = VideoSettings.from_json(run_config(run_dir)["video"])
    settings, new_length = resumed(settings, run_dir, minutes=minutes, n_images=n_images, data=data)
    return train_video(settings, new_length=new_length)
