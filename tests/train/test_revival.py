"""Dead hidden units are detected and reinitialised, which does not change the output before training."""

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ulcodec.model.config import TINY
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.store.model_directory import save_model
from ulcodec.train.objective import codec_loss
from ulcodec.train.revival import dead_units, hidden_layers, reinitialise
from ulcodec.train.settings import ObjectiveSettings, Stage1Settings
from ulcodec.train.stage1 import train_stage1

N_KILLED = 5


@pytest.fixture
def dying_model(tiny_model: UnifiedLatentModel) -> UnifiedLatentModel:
    """`tiny_model` with the first units of every hidden layer dead."""
    model = copy.deepcopy(tiny_model).requires_grad_(True)
    with torch.no_grad():
        for source, _ in hidden_layers(model):
            assert source.bias is not None
            source.weight[:N_KILLED] = 0
            source.bias[:N_KILLED] = -1
    return model


def loss_of(model: UnifiedLatentModel) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4, 3, 64, 64, generator=generator)
    quality = torch.linspace(0, 1, len(x))
    return codec_loss(model, x, quality, ObjectiveSettings(), generator)[0]


def test_reinitialised_units_learn_and_keep_the_loss(dying_model: UnifiedLatentModel) -> None:
    losses = []
    dead = dead_units(dying_model, lambda: losses.append(loss_of(dying_model)))
    layers_that_ran = [units for units in dead if units.any()]
    n_networks = 4 + len(TINY.reveal_passes)
    assert len(layers_that_ran) == 2 * n_networks, "two hidden layers in a block of each; the denoiser does not run"
    assert all(units[:N_KILLED].all() for units in layers_that_ran)
    torch.manual_seed(0)
    reinitialise(dying_model, dead)
    still_dead = dead_units(dying_model, lambda: losses.append(loss_of(dying_model)))
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-6)
    assert sum(int(units.sum()) for units in still_dead) < sum(int(units.sum()) for units in dead) / 2
    loss_of(dying_model).backward()
    for (_, reader), units in zip(hidden_layers(dying_model), dead, strict=True):
        if units.any():
            assert reader.weight.grad is not None
            assert reader.weight.grad[:, units].any(), "the units learn"


def test_run_reports_the_number_of_reinitialised_units(
    dying_model: UnifiedLatentModel, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(tmp_path / "model", "tiny", dying_model, {"training": "none: seeded weights"})
    settings = Stage1Settings(
        data=(photographs,), out=tmp_path / "run", config="tiny", n_images=4, batch_size=4, crop_px=64, threads=1,
        device="cpu", init=str(tmp_path / "model"),
    )  # fmt: skip
    train_stage1(settings)
    message = "hidden units were dead and are reinitialised"
    out = capsys.readouterr().out
    assert message in out
    assert int(out.split(f" {message}")[0].split()[-3]) >= 10 * N_KILLED
    train_stage1(dataclasses.replace(settings, n_images=8))
    assert message not in capsys.readouterr().out, "a resumed run keeps its units"
