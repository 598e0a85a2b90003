"""Export a training run: from its newest checkpoint to a model directory, in one call that writes once.

Stages: read the checkpoint, quantise its EMA weights, calibrate the integers to files, write the directory, measure.
Until the write, nothing exists on the disk that could pass for a model.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ulcodec.codec.evaluation import integer_cost_percent, middle
from ulcodec.codec.loading import codec_of
from ulcodec.devices import choose_device
from ulcodec.errors import ModelError, TrainingError
from ulcodec.export.calibration import calibrated
from ulcodec.export.residuals import MEASURED_GROUPS, groups_of_run, residual_costs, with_calibrated_video
from ulcodec.io.locations import Source, as_source
from ulcodec.io.sources import read_pictures
from ulcodec.model.config import ModelConfig, PaperConfig
from ulcodec.model.presets import PRESETS
from ulcodec.model.unified import EntropyModel, UnifiedLatentModel
from ulcodec.progress import share, tracked
from ulcodec.store.installed import model_directory
from ulcodec.store.model_directory import (
    DENOISER,
    StoredModel,
    StoredRefiner,
    open_model,
    quantised_entropy_model,
    quantised_model,
    write_model,
)
from ulcodec.store.networks import load_network, load_weights
from ulcodec.store.tensor_files import STAGING_NAME, is_written, read_consistently, read_document, read_tensors
from ulcodec.train.settings import PriorSettings, RefinerSettings, VideoSettings

CALIBRATION_PICTURES, CALIBRATION_CROP_PX = 48, 512
PRIOR_PARTS = ("hyper_decoder.", "prior.")
"""Prefixes of the weights that the training of a prior changes."""

MEASURED_PICTURES = 8
MEASURED_QUALITIES = (10, 50, 90)
CALIBRATION_SHARE = 0.94
"""Rough share of time of the calibration; the rest is measuring files."""


class Checkpoint(NamedTuple):
    """What an export reads of a run: its configuration, its progress, and its EMA weights."""

    config: dict[str, Any]
    progress: dict[str, Any]
    ema: dict[str, Tensor]


class Exported(NamedTuple):
    """An exported model.

    `sha256`: of its integers, in hexadecimal digits; `n_pictures`: pictures that it was calibrated to, or `unit`;
    `missing_sources`: sources that do not exist, so that it was not calibrated; `cost_percent`: payload above the float
    prior's bound by quality, measured on `n_measured` of the pictures; `sequence_sha256`: of the integers of sequences.
    """

    sha256: str
    n_pictures: int
    missing_sources: list[str]
    n_measured: int
    cost_percent: dict[int, float]
    sequence_sha256: str
    unit: str = "pictures"


def export(
    run_dir: Path, out_dir: Path, *, name: str | None = None, sources: Sequence[Source] | None = None
) -> Exported:
    """Export the newest checkpoint of a run to a model directory.

    `name`: name of the model, by default its configuration's. `sources`: pictures to calibrate to, by default the
    pictures of the run; none to skip the calibration. Predicted frames are calibrated to the latents of their run. The
    model replaces another model in `out_dir`; other files stay. Raises TrainingError if `run_dir` holds no checkpoint
    of a codec, of its prior, video part, denoiser or refiner, for pictures to calibrate video to, or as `check_output`.
    """
    check_output(run_dir, out_dir)
    checkpoint = read_checkpoint(run_dir)
    stored = model_of(checkpoint, run_dir, name)
    if "denoiser" in checkpoint.config or "refiner" in checkpoint.config:
        if sources:
            raise TrainingError("this run leaves the codec's integers as they are: leave out the data")
        return Exported(write_model(out_dir, stored), 0, [], 0, {}, stored.sequence_fingerprint.hex())
    if "video" in checkpoint.config:
        return export_video(stored, run_dir, out_dir, sources)
    pictures, missing = calibration_pictures(checkpoint, sources)
    if pictures:
        with share(CALIBRATION_SHARE, "fitting means and tables"):
            stored = calibrated(stored, pictures, choose_device("auto"))
    sha256 = write_model(out_dir, stored)
    measured = pictures[:MEASURED_PICTURES]
    costs, sequence_sha256 = measured_costs(stored, measured), stored.sequence_fingerprint.hex()
    return Exported(sha256, len(pictures), missing, len(measured), costs, sequence_sha256)


def export_video(stored: StoredModel, run_dir: Path, out_dir: Path, sources: Sequence[Source] | None) -> Exported:
    """Calibrate and write a codec with a new entropy model of predicted frames, see `export`."""
    if sources:
        raise TrainingError("a run of video is calibrated to its own latents: leave out the data")
    groups = groups_of_run(run_dir) if sources is None else []
    missing = [str(run_dir / "latents")] if sources is None and not groups else []
    if groups:
        with share(CALIBRATION_SHARE, "fitting means and tables"):
            stored = with_calibrated_video(stored, groups)
    sha256, measured = write_model(out_dir, stored), groups[:MEASURED_GROUPS]
    costs = residual_costs(stored, measured) if measured else {}
    n_latents, n_measured = (sum(map(len, part)) for part in (groups, measured))
    return Exported(
        sha256, n_latents, missing, n_measured, costs, stored.sequence_fingerprint.hex(), "predicted frames"
    )


def check_output(run_dir: Path, out_dir: Path) -> None:
    """Raise TrainingError for a directory that holds something else than a model, or an input of the export."""
    inputs = [run_dir, run_dir / "checkpoint", run_dir / "constant", run_dir / "latents"]
    if is_written(run_dir / "checkpoint"):
        config = read_document(run_dir / "checkpoint", "config")
        for settings in (config.get(stage, {}) for stage in ("stage1", "prior", "video", "denoiser", "refiner")):
            for name in filter(None, (settings.get("model"), settings.get("init"))):
                with suppress(ModelError):
                    inputs.append(model_directory(name))
    if out_dir.exists() and any(path.exists() and path.samefile(out_dir) for path in inputs):
        raise TrainingError(f"{out_dir} is an input of this export; choose another directory")
    if out_dir.exists() and not out_dir.is_dir():
        raise TrainingError(f"{out_dir} is not a directory")
    has_files = out_dir.is_dir() and any(not STAGING_NAME.fullmatch(path.name) for path in out_dir.iterdir())
    if has_files and not is_model(out_dir):
        raise TrainingError(f"{out_dir} is not empty and no model directory; choose another one")


def is_model(directory: Path) -> bool:
    """Whether a directory holds a model, by its configuration."""
    try:
        return "coding_sha256" in read_document(directory, "config")
    except ModelError:
        return False


def read_checkpoint(run_dir: Path) -> Checkpoint:
    """Read the newest checkpoint of a run. Raises TrainingError if there is none."""
    path = run_dir / "checkpoint"
    if not is_written(path):
        raise TrainingError(f"{run_dir}: no checkpoint to export")
    return read_consistently(
        path,
        lambda: Checkpoint(read_document(path, "config"), read_document(path, "progress"), read_tensors(path, "ema")),
    )


def model_of_run(run_dir: Path) -> StoredModel:
    """Make a model of the newest checkpoint of a run, not calibrated, without writing it. Raises as `export`."""
    return model_of(read_checkpoint(run_dir), run_dir, None)


def model_of(checkpoint: Checkpoint, run_dir: Path, name: str | None) -> StoredModel:
    """Make a model of a checkpoint, not calibrated."""
    if "denoiser" in checkpoint.config:
        return with_denoiser(checkpoint, name)
    if "refiner" in checkpoint.config:
        return with_refiner(checkpoint, name)
    if "prior" in checkpoint.config:
        return with_prior(checkpoint, name)
    if "video" in checkpoint.config:
        return with_video(checkpoint, name)
    if "stage1" not in checkpoint.config:
        raise TrainingError(f"{run_dir} is a run of stage 2, which makes no codec: draw from it with ulcodec sample")
    name_of_config = checkpoint.config["model"].get("name")
    if isinstance(PRESETS.get(name_of_config), PaperConfig):
        raise TrainingError(
            f"{run_dir} trains {name_of_config}, which makes no codec: draw from it with ulcodec sample"
        )
    return trained_model(checkpoint, name)


def trained_model(checkpoint: Checkpoint, name: str | None) -> StoredModel:
    """Quantise the codec of a checkpoint of stage 1."""
    model = UnifiedLatentModel(ModelConfig.from_json(checkpoint.config["model"]))
    load_weights(model, checkpoint.ema)
    load_weights(model, {key: value.to(torch.float16) for key, value in model.state_dict().items()})
    training = _without_folders(checkpoint.config["stage1"])
    provenance = {"training": training, "progress": checkpoint.progress}
    return quantised_model(name or model.config.name, model, provenance)


def with_denoiser(checkpoint: Checkpoint, name: str | None) -> StoredModel:
    """Join a trained denoiser with its codec, whose fingerprint and files stay as they are."""
    settings = checkpoint.config["denoiser"]
    stored = codec_of_run(checkpoint, "denoiser")
    denoiser = {f"{DENOISER}.{key}": value.to(torch.float16) for key, value in checkpoint.ema.items()}
    training = {**_without_folders(settings), "progress": checkpoint.progress}
    document = stored.document | {"name": name or stored.name, "denoiser": training}
    return replace(stored, weights=stored.weights | denoiser, document=document, name=document["name"])


def with_refiner(checkpoint: Checkpoint, name: str | None) -> StoredModel:
    """Join a trained refiner with its codec, whose fingerprint and files stay as they are."""
    settings = checkpoint.config["refiner"]
    stored = codec_of_run(checkpoint, "refiner")
    weights = {key: value.to(torch.float16) for key, value in checkpoint.ema.items()}
    refiner = StoredRefiner(RefinerSettings.from_json(settings).refiner_config(), weights)
    training = {"training": _without_folders(settings), "progress": checkpoint.progress}
    document = stored.document | {"name": name or stored.name, "refiner": training}
    return replace(stored, refiner=refiner, document=document, name=document["name"])


def with_prior(checkpoint: Checkpoint, name: str | None) -> StoredModel:
    """Join a trained prior with the other parts of its codec."""
    settings = checkpoint.config["prior"]
    stored = codec_of_run(checkpoint, "prior")
    trained = {key: value.to(torch.float16) for key, value in checkpoint.ema.items()}
    config = PriorSettings.from_json(settings).model_config(stored.config)
    codec = {name: weight for name, weight in stored.weights.items() if not name.startswith(PRIOR_PARTS)}
    model = replace(stored, config=config, weights=codec | trained).networks(torch.device("cpu"))
    runs = [
        *stored.document["provenance"].get("prior", []),
        {**_without_folders(settings), "progress": checkpoint.progress},
    ]
    joined = quantised_model(name or stored.name, model, stored.document["provenance"] | {"prior": runs})
    return replace(joined, document=stored.document | joined.document, video=stored.video, refiner=stored.refiner)


def with_video(checkpoint: Checkpoint, name: str | None) -> StoredModel:
    """Join a trained entropy model of predicted frames with its codec, whose part of pictures stays as it is.

    It replaces an earlier one.
    """
    settings = checkpoint.config["video"]
    stored = codec_of_run(checkpoint, "video")
    config = VideoSettings.from_json(settings).model_config(stored.config)
    weights = {key: value.to(torch.float16) for key, value in checkpoint.ema.items()}
    model = load_network(lambda: EntropyModel(config), weights, torch.device("cpu"))
    training = {"training": _without_folders(settings), "progress": checkpoint.progress}
    document = stored.document | {"name": name or stored.name, "video": training}
    return replace(stored, document=document, name=document["name"], video=quantised_entropy_model(model))


def codec_of_run(checkpoint: Checkpoint, stage: str) -> StoredModel:
    """Read the codec that a run of a later stage trained for. Raises TrainingError if it is another one now."""
    directory = checkpoint.config[stage]["model"]
    stored = open_model(directory)
    if stored.fingerprint.hex() != checkpoint.config["model"]["codec_sha256"]:
        raise TrainingError(f"the {stage} was trained for another model than {directory} is now")
    return stored


def calibration_pictures(
    checkpoint: Checkpoint, sources: Sequence[Source] | None
) -> tuple[list[NDArray[np.uint8]], list[str]]:
    """Read the pictures to calibrate to, uint8 [H, W, 3]; and name the sources that do not exist."""
    if sources is None:
        stage = "prior" if "prior" in checkpoint.config else "stage1"
        sources = [as_source(text) for text in checkpoint.config[stage]["data"]]
    missing = [str(source) for source in sources if isinstance(source, Path) and not source.exists()]
    pictures = [] if missing else read_pictures(sources, CALIBRATION_PICTURES)
    return [middle(pixels, CALIBRATION_CROP_PX) for pixels in pictures], missing


def measured_costs(stored: StoredModel, pictures: Sequence[NDArray[np.uint8]]) -> dict[int, float]:
    """Measure the payload of files above the float prior's bound, in percent, by quality; nothing without pictures."""
    if not pictures:
        return {}
    codec = codec_of(stored, choose_device("auto"))
    qualities = tracked(MEASURED_QUALITIES, "measuring files")
    return {quality: integer_cost_percent(codec, pictures, quality) for quality in qualities}


def _without_folders(settings: dict[str, Any]) -> dict[str, Any]:
    """Shorten paths in settings to their last part: a model is shared, the paths of its machine are not."""
    names = {key: Path(settings[key]).name for key in ("out", "init", "model") if settings.get(key)}
    return {**settings, **names, "data": [Path(path).name for path in settings["data"]]}
