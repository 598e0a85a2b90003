"""The integers of a model directory, which define how files are coded, without torch."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ulcodec.coding.fixed_point import N_QUALITIES
from ulcodec.coding.tables import FrequencyTables
from ulcodec.errors import ModelError
from ulcodec.model.config import N_SCALES, ModelConfig
from ulcodec.model.refiner_config import RefinerConfig
from ulcodec.store.installed import model_directory
from ulcodec.store.tensor_files import read_arrays, read_consistently, read_document

INTEGER_TYPES = (np.int8, np.int32, np.int64)

TABLE_PARTS = ("frequencies", "lengths", "minima")


@dataclass(frozen=True)
class StoredIntegers:
    """The integers of one entropy model, by their names."""

    config: ModelConfig
    coding: Mapping[str, NDArray[Any]]

    @cached_property
    def fingerprint(self) -> bytes:
        return fingerprint(self.config, self.coding)

    @property
    def tables(self) -> FrequencyTables:
        return frequency_tables(self.coding)


@dataclass(frozen=True)
class ModelIntegers:
    """The integers of a model directory: of pictures, and of predicted frames if they have their own.

    `refiner`: its shape, None if the model has none.
    """

    name: str
    directory: Path
    document: dict[str, Any]
    pictures: StoredIntegers
    video: StoredIntegers | None
    refiner: RefinerConfig | None

    @property
    def sequence_fingerprint(self) -> bytes:
        return sequence_fingerprint(self.pictures.fingerprint, None if self.video is None else self.video.fingerprint)


def open_integers(model: str | Path) -> ModelIntegers:
    """Read the integers of a shipped model by its name, or of any model by its directory.

    Raises ModelError if it is missing, incomplete or altered.
    """
    directory = model_directory(model)
    return read_consistently(directory, lambda: _read_integers(directory))


def _read_integers(directory: Path) -> ModelIntegers:
    document = read_document(directory, "config")
    config, name = described_model(directory, document)
    pictures = StoredIntegers(config, read_arrays(directory, "coding"))
    check_fingerprint(directory, document, pictures.fingerprint)
    check_integers(directory, config, pictures.coding)
    video = None
    if "video" in document:
        video = StoredIntegers(described_video(directory, document), read_arrays(directory, "video_coding"))
        check_video_fingerprint(directory, document, video.fingerprint)
        check_integers(directory, video.config, video.coding)
    refiner = described_refiner(document) if "refiner" in document else None
    return ModelIntegers(name, directory, document, pictures, video, refiner)


# What `config.json` says, and its checks


def described_model(directory: Path, document: Mapping[str, Any]) -> tuple[ModelConfig, str]:
    """Return configuration and name of a model. Raises ModelError if they are missing."""
    try:
        config, name, _ = ModelConfig.from_json(document["model"]), str(document["name"]), document["coding_sha256"]
    except KeyError as error:
        raise ModelError(f"{directory / 'config.json'}: missing {error}; export the model again") from error
    return config, name


def described_video(directory: Path, document: Mapping[str, Any]) -> ModelConfig:
    """Return the configuration of the entropy model of predicted frames. Raises ModelError if it is missing."""
    try:
        config, _ = ModelConfig.from_json(document["video"]["model"]), document["video"]["coding_sha256"]
    except (KeyError, TypeError) as error:
        raise ModelError(f"{directory / 'config.json'}: incomplete entry on video; export the model again") from error
    return config


def described_refiner(document: Mapping[str, Any]) -> RefinerConfig:
    """Return the shape of a model's refiner. Raises ModelError if it is incomplete."""
    return RefinerConfig.from_json(document["refiner"])


def check_fingerprint(directory: Path, document: Mapping[str, Any], fingerprint: bytes) -> None:
    """Raise ModelError unless a model's integers have the SHA-256 that its document says."""
    if fingerprint.hex() != document["coding_sha256"]:
        raise ModelError(
            f"{directory}: the coding integers do not match their fingerprint; install or export the model again"
        )


def check_video_fingerprint(directory: Path, document: Mapping[str, Any], fingerprint: bytes) -> None:
    """Check like `check_fingerprint`, for the entropy model of predicted frames."""
    if fingerprint.hex() != document["video"]["coding_sha256"]:
        raise ModelError(f"{directory}: the video's integers do not match their fingerprint; install the model again")


# Functions of integers, as arrays or as tensors on the CPU


def check_integers(directory: Path, config: ModelConfig, coding: Mapping[str, Any]) -> None:
    """Raise ModelError for values that are no integers, and for tables of other sizes than coding reads.

    A fingerprint does not show this: whoever writes a model directory also writes its fingerprint.
    """
    arrays = {name: np.asarray(coding[name]) for name in coding}
    if wrong := [name for name, array in arrays.items() if array.dtype not in INTEGER_TYPES]:
        raise ModelError(f"{directory}: {wrong[0]} holds {arrays[wrong[0]].dtype}; export the model again")
    try:
        n_tables = len(frequency_tables(arrays).lengths)
    except KeyError as error:
        raise ModelError(f"{directory}: the coding weights lack {error}; export the model again") from error
    if n_tables < N_SCALES:
        raise ModelError(f"{directory}: {n_tables} frequency tables, expected {N_SCALES}; export the model again")
    hyper, latent = (N_QUALITIES, config.hyper_channels), (N_QUALITIES, config.latent_channels)
    for name, shape in {
        "hyper_mean": hyper, "hyper_index": hyper, "hyper_gain": hyper,
        "estimate": latent, "mean_gain": latent, "scale_offset": latent,
    }.items():  # fmt: skip
        table = arrays.get(f"table.{name}")
        if table is None:
            raise ModelError(f"{directory}: the coding weights lack the table {name}; export the model again")
        if table.shape != shape:
            raise ModelError(f"{directory}: the table {name} is {table.shape}, not {shape}; export the model again")
    index = arrays["table.hyper_index"]
    if index.min() < 0 or index.max() >= n_tables:
        raise ModelError(f"{directory}: the table hyper_index names tables that do not exist; export the model again")


def fingerprint(config: ModelConfig, coding: Mapping[str, Any]) -> bytes:
    """Return the SHA-256 of all that decides which symbols a file holds: the integers and the reveal schedule."""
    digest = hashlib.sha256("|".join(config.reveal).encode())
    for name in sorted(coding):
        try:
            array = np.ascontiguousarray(coding[name])
        except TypeError as error:  # a type of numbers that NumPy does not have
            raise ModelError(f"the coding weights hold a {name} of the wrong type: {error}") from error
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.digest()


def sequence_fingerprint(pictures: bytes, video: bytes | None) -> bytes:
    """Return the SHA-256 of what decides which symbols a sequence holds, from those of pictures and of video."""
    return pictures if video is None else hashlib.sha256(pictures + video).digest()


def frequency_tables(coding: Mapping[str, Any]) -> FrequencyTables:
    """Return the frequency tables among a model's integers."""
    frequencies, lengths, minima = (np.asarray(coding[f"tables.{part}"], np.int32) for part in TABLE_PARTS)
    return FrequencyTables(frequencies, lengths, minima)
