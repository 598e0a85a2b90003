"""Fixtures for all tests: a tiny model with seeded weights, and small pictures."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from random_networks import random_refiner
from stage1_runs import stage1_settings

import ulcodec
from ulcodec import devices
from ulcodec.codec.image import Codec
from ulcodec.model.config import TINY, ModelConfig, spread_reveal
from ulcodec.model.unified import EntropyModel, UnifiedLatentModel
from ulcodec.store.model_directory import (
    quantised_entropy_model,
    quantised_model,
    save_model,
    write_model,
)
from ulcodec.train.stage1 import train_stage1

torch.set_num_threads(1)


@pytest.fixture
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch compute in float32, as onnxruntime and browsers do."""
    monkeypatch.setattr(devices, "bfloat16_pays", lambda device: False)


def random_model(config: ModelConfig) -> UnifiedLatentModel:
    """A model with random weights in all layers; the zero layers of an untrained model would hide errors.

    Weights are rounded to float16, as by `ulcodec train export`.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = UnifiedLatentModel(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if not parameter.any():
                    parameter.normal_(std=0.05 if name.startswith(("prior", "hyper")) else 0.01)
                parameter.copy_(parameter.half())
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def tiny_model() -> UnifiedLatentModel:
    """A TINY model with random weights. Tests share the model and must not change it."""
    return random_model(TINY)


@pytest.fixture(scope="session")
def shared_prior_model() -> UnifiedLatentModel:
    """Like `tiny_model`, with one prior network for all reveal passes."""
    return random_model(replace(TINY, shared_prior=True, prior_blocks=(2,)))


@pytest.fixture(scope="session")
def tiny_model_dir(tiny_model: UnifiedLatentModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save `tiny_model` as a model directory."""
    directory = tmp_path_factory.mktemp("models") / "tiny"
    save_model(directory, "tiny", tiny_model, {"training": "none: seeded weights"})
    return directory


@pytest.fixture(scope="session")
def tiny_codec(tiny_model_dir: Path) -> Codec:
    return ulcodec.load(tiny_model_dir, device="cpu")


def random_entropy_model(config: ModelConfig) -> EntropyModel:
    """Make an entropy model with random weights in all layers."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = EntropyModel(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.05)
                parameter.copy_(parameter.half())
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def refined_codec(tiny_model: UnifiedLatentModel, tmp_path_factory: pytest.TempPathFactory) -> Codec:
    """The codec of `tiny_model`, with a random refiner."""
    directory = tmp_path_factory.mktemp("refined") / "tiny"
    write_model(directory, replace(quantised_model("tiny", tiny_model, {}), refiner=random_refiner(TINY)))
    return ulcodec.load(directory, device="cpu")


@pytest.fixture(scope="session")
def graph_model_dir(shared_prior_model: UnifiedLatentModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a model with a shared prior, a video part with a network for each pass, a refiner, and the graphs of all.

    Skips the test if a package is missing that the export needs.
    """
    pytest.importorskip("onnxscript", reason="needs onnxscript")
    from ulcodec.export.graphs import export_graphs

    directory = tmp_path_factory.mktemp("graphs") / "model"
    config = replace(TINY, hyper_channels=16, reveal=spread_reveal("11122223"), prior_blocks=(0, 1, 1))
    video = quantised_entropy_model(random_entropy_model(config))
    model = quantised_model("tiny", shared_prior_model, {})
    stored = replace(model, video=video, refiner=random_refiner(model.config))
    write_model(directory, stored)
    export_graphs(stored, directory)
    return directory


@pytest.fixture(scope="session")
def picture() -> np.ndarray:
    """Draw shapes with soft and hard edges on a gradient, with noise: uint8 [80, 96, 3], read-only."""
    row, column = np.mgrid[0:80, 0:96].astype(np.float64)
    pixels = np.stack((40 + 1.6 * column, 200 - 1.5 * row, 90 + 0.8 * (row + column)), axis=2)
    pixels[(row - 30) ** 2 + (column - 60) ** 2 < 18**2] = (220, 60, 50)
    pixels[50:72, 10:40] = (30, 60, 120)
    pixels += 25 * np.sin(column / 3)[:, :, None] * (row > 40)[:, :, None]
    pixels += np.random.default_rng(0).normal(0, 3, pixels.shape)
    pixels = pixels.round().clip(0, 255).astype(np.uint8)
    pixels.flags.writeable = False
    return pixels


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a folder of ten small synthetic pictures, uint8 [72, 80, 3]."""
    directory = tmp_path_factory.mktemp("pictures")
    row, column = np.mgrid[0:72, 0:80].astype(np.float64)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        waves = [
            128 + 60 * np.sin(row / rng.uniform(4, 30) + column / rng.uniform(4, 30)) + rng.normal(0, 1, row.shape)
            for _ in range(3)
        ]
        pixels = np.stack(waves, axis=2).round().clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(directory / f"{seed}.png")
    return directory


@pytest.fixture(scope="session")
def finished_run(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature run of stage 1 that was never interrupted, read-only."""
    return train_stage1(stage1_settings(photographs, tmp_path_factory.mktemp("unbroken") / "run"))
