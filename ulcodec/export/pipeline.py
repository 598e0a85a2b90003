"""From a training run to a model directory that encodes and decodes."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ulcodec.errors import ModelError, TrainingError
from ulcodec.model.config import ModelConfig
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.store.installed import model_directory
from ulcodec.store.model_directory import DENOISER, open_model, save_model, write_model
from ulcodec.store.networks import load_weights
from ulcodec.store.tensor_files import STAGING_NAME, consistent, is_written, read_document, read_tensors


def export_model(run_dir: Path, out_dir: Path, name: str | None = None) -> str:
    """Export the EMA weights of a run's newest checkpoint; returns the model's SHA-256 in hexadecimal digits.

    The model's files take the place of those of another model in `out_dir`; others stay there. Raises TrainingError if
    `run_dir` holds no checkpoint, or as `check_output`.
    """
    checkpoint = run_dir / "checkpoint"
    if not is_written(checkpoint):
        raise TrainingError(f"{run_dir}: no checkpoint to export")
    check_output(run_dir, out_dir)
    config, progress, ema = consistent(
        checkpoint,
        lambda: (
            read_document(checkpoint, "config"),
            read_document(checkpoint, "progress"),
            read_tensors(checkpoint, "ema"),
        ),
    )
    if "denoiser" in config:
        return export_denoiser(config, progress, ema, out_dir)
    if "stage1" not in config:
        raise TrainingError(f"{run_dir} is a run of stage 2, which makes no codec: draw from it with ulcodec sample")
    model = UnifiedLatentModel(ModelConfig.from_json(config["model"]))
    load_weights(model, ema)
    rounded = {key: value.to(torch.float16) for key, value in model.state_dict().items()}
    load_weights(model, rounded)
    provenance = {"training": without_folders(config["stage1"]), "progress": progress}
    return save_model(out_dir, name or model.config.name, model, provenance)


def check_output(run_dir: Path, out_dir: Path) -> None:
    """Raise TrainingError for a directory that holds other things than a model, or what the export reads."""
    inputs = [run_dir, run_dir / "checkpoint", run_dir / "constant", run_dir / "latents"]
    if is_written(run_dir / "checkpoint"):
        config = read_document(run_dir / "checkpoint", "config")
        for settings in (config.get("stage1", {}), config.get("denoiser", {})):
            for name in filter(None, (settings.get("model"), settings.get("init"))):
                with suppress(ModelError):
                    inputs.append(model_directory(name))
    if out_dir.exists() and any(path.exists() and path.samefile(out_dir) for path in inputs):
        raise TrainingError(f"{out_dir} is an input of this export; choose another directory")
    if out_dir.exists() and not out_dir.is_dir():
        raise TrainingError(f"{out_dir} is not a directory")
    foreign = out_dir.is_dir() and any(not STAGING_NAME.fullmatch(path.name) for path in out_dir.iterdir())
    if foreign and not is_model(out_dir):
        raise TrainingError(f"{out_dir} is not empty and no model directory; choose another one")


def is_model(directory: Path) -> bool:
    """Whether a directory says that it holds a model."""
    try:
        return "coding_sha256" in read_document(directory, "config")
    except ModelError:
        return False


def export_denoiser(config: dict[str, Any], progress: dict[str, Any], ema: dict[str, Tensor], out_dir: Path) -> str:
    """The codec that a denoiser was trained for, with it: the same fingerprint, and files stay as they are."""
    stored = open_model(config["denoiser"]["model"])
    if stored.fingerprint.hex() != config["model"]["codec_sha256"]:
        raise TrainingError(f"the denoiser was trained for another model than {config['denoiser']['model']} is now")
    weights = stored.weights | {f"{DENOISER}.{key}": value.to(torch.float16) for key, value in ema.items()}
    training = {**without_folders(config["denoiser"]), "progress": progress}
    return write_model(out_dir, weights, stored.coding, stored.document | {"denoiser": training})


def without_folders(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings whose paths keep their last part only: a model travels, the machine that trained it does not."""
    names = {key: Path(settings[key]).name for key in ("out", "init", "model") if settings.get(key)}
    return {**settings, **names, "data": [Path(path).name for path in settings["data"]]}
