"""Parameter groups: factors on the learning rate by the names of parameters."""

from dataclasses import replace

import pytest
import torch
from stage1_runs import BATCH_SIZE

from ulcodec.model.build import build_model
from ulcodec.model.presets import preset
from ulcodec.store.tensor_files import read_tensors
from ulcodec.train.objective import OBJECTIVES
from ulcodec.train.settings import SLOW_PARAMETERS, Stage1Settings
from ulcodec.train.stage1 import train_stage1


def test_slow_parameters_move_by_their_factor(settings: Stage1Settings) -> None:
    """The first step of Adam moves every weight that has a gradient by the learning rate."""
    endings = set()
    for objective in OBJECTIVES:
        run = replace(settings, n_images=BATCH_SIZE, objective=objective, out=settings.out / objective)
        train_stage1(run)
        torch.manual_seed(run.seed)
        start = build_model(preset(run.config)).state_dict()
        end = read_tensors(run.out / "checkpoint", "model")
        distances = {name: float((end[name] - weight).abs().max()) for name, weight in start.items()}
        full_distance = max(distances.values())
        assert full_distance > 0
        for name, distance in distances.items():
            ending, factor = next((slow for slow in SLOW_PARAMETERS if name.endswith(slow[0])), ("", 1.0))
            if distance:
                assert distance / full_distance == pytest.approx(factor, rel=0.05), name
                endings.add(ending)
    assert endings == {"", *(ending for ending, _ in SLOW_PARAMETERS)}
