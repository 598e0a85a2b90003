"""Miniature runs of stage 1 for tests of training, export and evaluation."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ulcodec.store.tensor_files import read_document, read_tensors
from ulcodec.train.log import Metrics
from ulcodec.train.objective import OBJECTIVES
from ulcodec.train.settings import Stage1Settings
from ulcodec.train.stage1 import train_stage1

N_IMAGES = 160
BATCH_SIZE = 8
SETTINGS = {
    "config": "tiny",
    "n_images": N_IMAGES,
    "batch_size": BATCH_SIZE,
    "crop_px": 64,
    "learning_rate": 0.1,
    "validation_share": 0.2,
}
"""Twenty steps of the tiny model, most of them in the warm-up. The learning rate depends only on the image count."""


def stage1_settings(photographs: Path, out: Path) -> Stage1Settings:
    return Stage1Settings(data=(photographs,), out=out, **SETTINGS)


def call_in_step(monkeypatch: pytest.MonkeyPatch, objective: str, step: int, action: Callable[[], None]) -> None:
    """Make later runs call `action` inside a step, counted from 0."""
    original_loss, n_steps = OBJECTIVES[objective], 0

    def loss(*arguments: object, **options: object) -> tuple[Tensor, Metrics]:
        nonlocal n_steps
        if torch.is_grad_enabled():
            if n_steps == step:
                action()
            n_steps += 1
        return original_loss(*arguments, **options)

    monkeypatch.setitem(OBJECTIVES, objective, loss)


def send_interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def stop_half_way(settings: Stage1Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start a run, and interrupt it with SIGINT after half of its images."""
    with monkeypatch.context() as patch:
        call_in_step(patch, settings.objective, N_IMAGES // BATCH_SIZE // 2 - 1, send_interrupt)
        with pytest.raises(KeyboardInterrupt):
            train_stage1(settings)
    assert read_document(settings.out / "checkpoint", "progress")["n_images"] == N_IMAGES // 2


def assert_same_state(run: Path, other: Path) -> None:
    """Check that weights, EMA and optimiser moments of two checkpoints agree bit for bit."""
    for group in ("model", "ema", "optimizer"):
        tensors, other_tensors = (read_tensors(directory / "checkpoint", group) for directory in (run, other))
        assert tensors.keys() == other_tensors.keys()
        assert [name for name in tensors if not torch.equal(tensors[name], other_tensors[name])] == []
