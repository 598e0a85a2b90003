"""From a training run to a model directory that encodes and decodes."""

from errno import EEXIST
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ulcodec.errors import ModelError, TrainingError
from ulcodec.model.checkpoint import load_weights, read_document, read_tensors, recover_directory
from ulcodec.model.config import ModelConfig
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.store import DENOISER, open_model, save_model, write_model


def export_model(run_dir: Path, out_dir: Path, name: str | None = None) -> str:
    """Export the EMA weights of a run's newest checkpoint; returns the model's SHA-256 in hexadecimal digits.

    Raises TrainingError if `run_dir` holds no checkpoint.
    """
    checkpoint = run_dir / "checkpoint"
    recover_directory(checkpoint)
    if not checkpoint.exists():
        raise TrainingError(f"{run_dir}: no checkpoint to export")
    config, progress = read_document(checkpoint, "config"), read_document(checkpoint, "progress")
    if "denoiser" in config:
        return export_denoiser(config, progress, read_tensors(checkpoint, "ema"), out_dir)
    if "stage1" not in config:
        raise TrainingError(f"{run_dir} is a run of stage 2, which makes no codec: draw from it with ulcodec sample")
    model = UnifiedLatentModel(ModelConfig.from_json(config["model"]))
    load_weights(model, read_tensors(checkpoint, "ema"))
    rounded = {key: value.to(torch.float16) for key, value in model.state_dict().items()}
    load_weights(model, rounded)
    provenance = {"training": without_folders(config["stage1"]), "progress": progress}
    return save_model(out_dir, name or model.config.name, model, provenance)


def check_output(run_dir: Path, out_dir: Path, *, force: bool) -> None:
    """Raise OSError where an export would hide in, or spoil, something that is not a model directory of its own."""
    if not out_dir.exists() or (out_dir.is_dir() and not any(out_dir.iterdir())):
        return
    target, run = out_dir.resolve(), run_dir.resolve()
    if target in (run, *run.parents) or run in target.parents:
        raise FileExistsError(
            EEXIST, "the run itself, a folder in it or around it is no place for its model", str(out_dir)
        )
    try:
        document = read_document(out_dir, "config")
    except ModelError:
        document = {}
    if "coding_sha256" not in document:
        raise FileExistsError(EEXIST, "exists and is not a model directory", str(out_dir))
    if not force:
        raise FileExistsError(EEXIST, "exists already; --force overwrites it", str(out_dir))


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
