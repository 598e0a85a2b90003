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
from ulcodec.model.config import PATCH_PX, ModelConfig, PaperConfig, modernised
from ulcodec.model.paper import PaperModel
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.store.networks import load_network
from ulcodec.store.tensor_files import is_written, read_consistently, read_document, read_tensors


@dataclass(frozen=True)
class TrainedRun:
    """A trained encoder with its prior and diffusion decoder.

    `settings`: those of the run, as JSON values. `sha256`: of configuration and weights, in hexadecimal digits.
    """

    config: ModelConfig | PaperConfig
    settings: dict[str, Any]
    weights: dict[str, Tensor]
    sha256: str

    @property
    def patch(self) -> tuple[int, ...]:
        """Extent of a latent position along each axis, in frames and pixels."""
        return self.config.patch if isinstance(self.config, PaperConfig) else (PATCH_PX, PATCH_PX)

    @property
    def quality(self) -> float:
        """The quality that the networks were trained with, in [0, 1]."""
        return float(self.settings["weights"]["ul_quality"])

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
    settings = config.get("stage1", {})
    if settings.get("objective") != "ul":
        raise ModelError(f"{run_dir} is not a run of stage 1 with the objective ul")
    model = modernised(config["model"])
    parsed = PaperConfig.from_json(model) if "strides" in model else ModelConfig.from_json(model)
    return TrainedRun(parsed, settings, ema, digest(model, ema))


def digest(config: dict[str, Any], weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of a configuration and weights, in hexadecimal digits."""
    whole = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in sorted(weights):
        whole.update(f"{name} {tuple(weights[name].shape)}".encode())
        whole.update(weights[name].contiguous().numpy().data)
    return whole.hexdigest()
