"""Model directories: configuration, float weights (fp16), and the integers that define how files are coded."""

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ulcodec.coding.integer_prior import IntegerPrior
from ulcodec.coding.latents import LatentCoder, check_reveal_passes
from ulcodec.coding.quantise_prior import integer_tensors
from ulcodec.coding.tables import FrequencyTables, gaussian_tables
from ulcodec.errors import ModelError
from ulcodec.model.config import N_SCALES, ModelConfig
from ulcodec.model.prior import LOG_SCALE_STEP, SCALE_MIN
from ulcodec.model.refiner import Refiner
from ulcodec.model.refiner_config import RefinerConfig
from ulcodec.model.unified import EntropyModel, UnifiedLatentModel
from ulcodec.store.installed import model_directory
from ulcodec.store.networks import load_network
from ulcodec.store.stored_integers import (
    TABLE_PARTS,
    check_fingerprint,
    check_integers,
    check_video_fingerprint,
    described_model,
    described_refiner,
    described_video,
    fingerprint,
    frequency_tables,
    sequence_fingerprint,
)
from ulcodec.store.tensor_files import read_consistently, read_document, read_tensors, write_directory

DENOISER = "decoder.denoiser"
"""Prefix of the names of the denoiser's weights."""

Stored = TypeVar("Stored", bound="StoredEntropyModel")


@dataclass(frozen=True)
class StoredEntropyModel:
    """An entropy model in a model directory: weights of its float networks, and the integers that code files."""

    config: ModelConfig
    weights: dict[str, Tensor]
    coding: dict[str, Tensor]

    @cached_property
    def fingerprint(self) -> bytes:
        """SHA-256 of what decides which symbols a file holds."""
        return fingerprint(self.config, self.coding)

    def networks(self, device: torch.device) -> EntropyModel:
        """Make the float networks, ready to run."""
        return load_network(lambda: EntropyModel(self.config), self.weights, device)

    def coder(self, device: torch.device) -> LatentCoder:
        """Make the integer prior and the frequency tables."""
        return LatentCoder(IntegerPrior(self.config, self.coding, device), frequency_tables(self.coding))


@dataclass(frozen=True)
class StoredRefiner:
    """A refiner in a model directory: its shape and its weights."""

    config: RefinerConfig
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class StoredModel(StoredEntropyModel):
    """Contents of a model directory.

    `weights`: of the float networks of pictures. `document`: `config.json`. `video`: the entropy model of predicted
    frames, None if none was trained: that of pictures then codes them. `refiner`: None if none was trained.
    """

    name: str
    document: dict[str, Any]
    video: StoredEntropyModel | None = None
    refiner: StoredRefiner | None = None

    @property
    def denoiser(self) -> dict[str, Any] | None:
        """How the denoiser was trained; None if it was not."""
        return self.document.get("denoiser")

    def networks(self, device: torch.device) -> UnifiedLatentModel:
        """Make the float networks, ready to run."""
        return load_network(lambda: UnifiedLatentModel(self.config), self.weights, device)

    def refiner_network(self, device: torch.device) -> Refiner | None:
        """Make the refiner, ready to run; None if there is none."""
        stored, config = self.refiner, self.config
        if stored is None:
            return None
        return load_network(lambda: Refiner(config, stored.config), stored.weights, device)

    @property
    def sequence_fingerprint(self) -> bytes:
        """SHA-256 of what decides which symbols a sequence holds: that of the model, with that of its video part."""
        return sequence_fingerprint(self.fingerprint, None if self.video is None else self.video.fingerprint)


def open_model(model: str | Path) -> StoredModel:
    """Read a shipped model by its name, or any model by its directory.

    Raises ModelError if it is missing, incomplete or altered.
    """
    directory = model_directory(model)
    return read_consistently(directory, lambda: _read_model(directory))


def _read_model(directory: Path) -> StoredModel:
    """Read a model directory that no process writes to. Raises ModelError as `open_model`."""
    document = read_document(directory, "config")
    config, name = described_model(directory, document)
    if "deployment" in document:
        raise ModelError(f"{directory} holds ONNX graphs for {document['deployment']}: load it with onnxruntime")
    weights, coding = read_tensors(directory, "weights"), read_tensors(directory, "coding")
    stored = StoredModel(config, weights, coding, name, document)
    check_fingerprint(directory, document, stored.fingerprint)
    check_integers(directory, config, coding)
    if "video" in document:
        stored = replace(stored, video=_read_video(directory, document))
    if "refiner" in document:
        refiner = StoredRefiner(described_refiner(document), read_tensors(directory, "refiner"))
        stored = replace(stored, refiner=refiner)
    return stored


def _read_video(directory: Path, document: dict[str, Any]) -> StoredEntropyModel:
    """Read the entropy model of predicted frames. Raises ModelError as `open_model`."""
    config = described_video(directory, document)
    video = StoredEntropyModel(
        config, read_tensors(directory, "video_weights"), read_tensors(directory, "video_coding")
    )
    check_video_fingerprint(directory, document, video.fingerprint)
    check_integers(directory, config, video.coding)
    return video


def save_model(directory: Path, name: str, model: UnifiedLatentModel, provenance: dict[str, Any]) -> str:
    """Quantise a trained model and write it as a model directory; return its SHA-256 in hexadecimal digits.

    See `quantised_model`.
    """
    return write_model(directory, quantised_model(name, model, provenance))


def quantised_model(name: str, model: UnifiedLatentModel, provenance: dict[str, Any]) -> StoredModel:
    """Quantise a trained model: fp16 weights, integers, and the tables of Gaussian symbols.

    `provenance` (JSON values: how it was trained) becomes part of `config.json`. Raises ModelError if a file cannot
    hold what the model codes.
    """
    check_reveal_passes(model.config)
    coding = integer_tensors(model) | table_tensors(initial_tables())
    document = {"name": name, "model": model.config.to_json(), "provenance": provenance}
    return StoredModel(model.config, fp16_weights(model), coding, name, document)


def quantised_entropy_model(model: EntropyModel) -> StoredEntropyModel:
    """Quantise a trained entropy model like `quantised_model`."""
    check_reveal_passes(model.config)
    coding = integer_tensors(model) | table_tensors(initial_tables())
    return StoredEntropyModel(model.config, fp16_weights(model), coding)


def with_coding(stored: Stored, coding: dict[str, Tensor]) -> Stored:
    """Replace some of a model's integers, and with them its fingerprint."""
    return replace(stored, coding=stored.coding | coding)


def with_weights(stored: Stored, model: EntropyModel) -> Stored:
    """Replace a model's weights by those of its networks, in fp16."""
    return replace(stored, weights=fp16_weights(model))


def fp16_weights(model: EntropyModel) -> dict[str, Tensor]:
    """Return the weights of networks as a model directory holds them, on the CPU."""
    return {key: value.to("cpu", torch.float16) for key, value in model.state_dict().items()}


def write_model(directory: Path, stored: StoredModel) -> str:
    """Write a model directory; return the model's SHA-256 in hexadecimal digits."""
    config = stored.document | {"coding_sha256": stored.fingerprint.hex()}
    groups = {"weights": stored.weights, "coding": stored.coding}
    if stored.video is not None:
        sha256 = {"coding_sha256": stored.video.fingerprint.hex(), "sequence_sha256": stored.sequence_fingerprint.hex()}
        config["video"] = {**config.get("video", {}), "model": stored.video.config.to_json(), **sha256}
        groups |= {"video_weights": stored.video.weights, "video_coding": stored.video.coding}
    if stored.refiner is not None:
        config["refiner"] = {**config.get("refiner", {}), **asdict(stored.refiner.config)}
        groups |= {"refiner": stored.refiner.weights}
    write_directory(directory, groups, {"config": config})
    return stored.fingerprint.hex()


def table_tensors(tables: FrequencyTables) -> dict[str, Tensor]:
    """Return frequency tables as the tensors of a model directory."""
    return {f"tables.{part}": torch.from_numpy(getattr(tables, part)) for part in TABLE_PARTS}


def initial_tables() -> FrequencyTables:
    """Return the tables of a model that is not calibrated: Gaussians with the prior's scales."""
    return gaussian_tables(prior_scales())


def prior_scales() -> NDArray[np.float64]:
    """Return the 64 log-spaced standard deviations that the prior chooses from, in symbols: [N_SCALES]."""
    scales: NDArray[np.float64] = SCALE_MIN * np.exp(LOG_SCALE_STEP * np.arange(N_SCALES))
    return scales
