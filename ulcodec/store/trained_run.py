"""Networks of a run of stage 1 with the objective `ul`, by the EMA weights of its newest checkpoint."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ulcodec.errors import ModelError
from ulcodec.model.build import build_model
from ulcodec.model.config import PATCH_PX, ModelConfig, PaperConfig, is_count, modernised
from ulcodec.model.paper import PaperModel
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.store.networks import load_network
from ulcodec.store.tensor_files import is_written, read_consistently, read_document, read_tensors

MAX_EXTENT = 2**14


@dataclass(frozen=True)
class TrainedRun:
    """A trained encoder with its prior and diffusion decoder.

    `settings`: those of the run, as JSON values. `quality`: that of the training, in [0, 1]. `extents`: those of the
    training crops. `sha256`: of configuration and weights, in hexadecimal digits.
    """

    config: ModelConfig | PaperConfig
    settings: dict[str, Any]
    quality: float
    extents: tuple[int, ...]
    weights: dict[str, Tensor]
    sha256: str

    @property
    def patch(self) -> tuple[int, ...]:
        """Extent of a latent position along each axis, in frames and pixels."""
        return self.config.patch if isinstance(self.config, PaperConfig) else (PATCH_PX, PATCH_PX)

    def networks(self, device: torch.device) -> UnifiedLatentModel | PaperModel:
        """Make the networks, ready to run on a device. Raises ModelError if the weights do not fit them."""
        return load_network(lambda: build_model(self.config), self.weights, device)


def is_run(path: Path) -> bool:
    """Whether a directory is that of a training run."""
    return is_written(path / "checkpoint")


def open_run(run_dir: Path) -> TrainedRun:
    """Read a run of stage 1 with the objective `ul`. Raises ModelError for any other run."""
    checkpoint = run_dir / "checkpoint"
    config, ema = read_consistently(
        checkpoint, lambda: (read_document(checkpoint, "config"), read_tensors(checkpoint, "ema"))
    )
    settings = part_of(config, "stage1")
    if settings.get("objective") != "ul":
        raise ModelError(f"{run_dir} is not a run of stage 1 with the objective ul")
    model = modernised(part_of(config, "model"))
    parsed = PaperConfig.from_json(model) if "strides" in model else ModelConfig.from_json(model)
    n_axes = parsed.n_axes if isinstance(parsed, PaperConfig) else 2
    quality: Any = part_of(settings, "weights").get("ul_quality")
    if type(quality) not in (int, float) or not 0 <= quality <= 1:
        raise ModelError(f"{run_dir}: the quality must be a number from 0 to 1, got {quality}")
    return TrainedRun(parsed, settings, float(quality), usual_extents(settings, n_axes), ema, digest(model, ema))


def part_of(values: dict[str, Any], name: str) -> dict[str, Any]:
    """Return an object in a JSON object, empty if there is none. Raises ModelError for any other value."""
    part = values.get(name, {})
    if not isinstance(part, dict):
        raise ModelError(f"{name} must be a JSON object, got {type(part).__name__}")
    return part


def usual_extents(settings: dict[str, Any], n_axes: int) -> tuple[int, ...]:
    """Return frames, if there are any, height and width of the training crops. Raises ModelError."""
    crop_px: Any = settings.get("crop_px")
    n_frames: Any = settings.get("n_frames", 1)
    if not all(is_count(extent, MAX_EXTENT) and extent for extent in (crop_px, n_frames)):
        raise ModelError(f"crops must have from 1 to {MAX_EXTENT} pixels and frames, got {crop_px} and {n_frames}")
    return (n_frames, crop_px, crop_px)[-n_axes:]


def digest(config: dict[str, Any], weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of a configuration and weights, in hexadecimal digits."""
    whole = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in sorted(weights):
        whole.update(f"{name} {tuple(weights[name].shape)}".encode())
        whole.update(weights[name].contiguous().numpy().data)
    return whole.hexdigest()
