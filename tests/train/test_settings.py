"""Settings of stage 1: invalid ones fail before anything is written, and resolved ones are JSON."""

import json
from dataclasses import replace

import pytest
from stage1_runs import N_IMAGES

from ulcodec.errors import DeviceError, ModelError, TrainingError
from ulcodec.train.settings import Stage1Settings
from ulcodec.train.stage1 import train_stage1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "sgd"}, "unknown optimiser 'sgd'; known: adamw, soap"),
        ({"objective": "gan"}, "unknown objective 'gan'; known: codec, ul"),
        ({"config": "paper_tiny"}, "writes no files: train it with the objective ul"),
        ({"n_images": None}, "give the run a length"),
        ({"crop_px": 80}, "multiple of 64 pixels, got 80"),
        ({"reduction": 1.0}, "the reduction must be a number above 1 and at most 8, got 1.0"),
        ({"reduction": 8, "batch_size": 2**14}, "16384 crops of 512 x 512 are more than 2147483648 pixels"),
        ({"turns": True, "config": "tiny-video", "objective": "ul"}, "reduced and turned crops are for pictures only"),
        ({"device": "no-such-device"}, "cannot use device 'no-such-device'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_invalid_settings_are_refused(settings: Stage1Settings, changes: dict[str, object], message: str) -> None:
    with pytest.raises((TrainingError, DeviceError), match=message):
        train_stage1(replace(settings, **changes))
    assert not settings.out.exists()


def test_unknown_configuration_is_refused(settings: Stage1Settings) -> None:
    with pytest.raises(ModelError, match="unknown configuration 'huge'"):
        train_stage1(replace(settings, config="huge"))


def test_resolved_settings_are_json(settings: Stage1Settings) -> None:
    resolved = settings.resolved()
    assert json.loads(json.dumps(resolved)) == resolved
    assert resolved["model"]["name"] == "tiny"
    assert resolved["stage1"]["n_images"] == N_IMAGES
