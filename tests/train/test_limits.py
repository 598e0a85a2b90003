"""Settings out of range are refused before a run reads data or writes a file."""

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ulcodec.errors import TrainingError
from ulcodec.store.tensor_files import read_document
from ulcodec.train.limits import check_bias, check_number, check_whole
from ulcodec.train.settings import DenoiserSettings, Stage1Settings, Stage2Settings
from ulcodec.train.stage1 import train_stage1
from ulcodec_cli.main import app

HUGE = 10**30
WHOLE = (0, -1, HUGE)
POSITIVE = (0, -1, "nan", "inf", "-inf", 1e30)
EVERY_STAGE = {
    "images": WHOLE,
    "minutes": POSITIVE,
    "batch-size": WHOLE,
    "crop": (*WHOLE, 65, 2**14 + 64),
    "threads": WHOLE,
    "learning-rate": POSITIVE,
    "seed": (-1, HUGE),
}
OPTIONS = {
    "stage1": {
        **EVERY_STAGE,
        "warmup": WHOLE,
        "decay-share": (*POSITIVE, 1.01),
        "shards-in-memory": WHOLE,
        "crops-per-shard": WHOLE,
    },
    "stage2": {
        **EVERY_STAGE,
        "bias": ("nan", "inf", "-inf", 1e30),
        "limit": (*WHOLE, 1),
        "quality": (-1, 101, HUGE),
        "shards-in-memory": WHOLE,
        "crops-per-shard": WHOLE,
    },
    "denoiser": {**EVERY_STAGE, "bias": ("nan", "inf", "-inf", 1e30), "limit": (*WHOLE, 1)},
    "refiner": {**EVERY_STAGE, "width": (0, 1, HUGE), "blocks": (-1, HUGE), "limit": (*WHOLE, 1)},
}
CASES = [
    (stage, option, value)
    for stage, options in OPTIONS.items()
    for option, values in options.items()
    for value in values
]


def assert_one_line_error(arguments: list[str], out: Path | None = None) -> None:
    """Check that a command fails with one line of error, and does not make the folder `out`."""
    finished = CliRunner().invoke(app, arguments)
    assert finished.exit_code == 2, finished.output
    assert finished.stderr.startswith("ulcodec: error: ")
    assert finished.stderr.count("\n") == 1
    assert finished.stdout == ""
    assert out is None or not out.exists()


@pytest.mark.parametrize(("stage", "option", "value"), CASES)
def test_options_out_of_range_are_refused(stage: str, option: str, value: object, tmp_path: Path) -> None:
    """The training data do not exist, so the check must come before they are read."""
    out = tmp_path / "run"
    length = [] if option in ("images", "minutes") else ["--images", "8"]
    arguments = ["train", stage, "--data", str(tmp_path / "none"), "--out", str(out), *length]
    assert_one_line_error([*arguments, f"--{option}", str(value)], out)
    assert_one_line_error([*arguments, f"--{option}", str(value), "--dry-run"])


def test_batches_of_too_many_pixels_are_refused(tmp_path: Path) -> None:
    settings = Stage1Settings(data=(tmp_path,), out=tmp_path / "run", n_images=1)
    replace(settings, batch_size=2**15, crop_px=256).check()
    with pytest.raises(TrainingError, match="pixels a batch"):
        replace(settings, batch_size=2**16, crop_px=256).check()


@pytest.mark.parametrize("kind", [Stage1Settings, Stage2Settings, DenoiserSettings])
@pytest.mark.parametrize(
    "changes",
    [
        {"n_images": 2.5},
        {"n_images": True},
        {"n_images": 10**6000},
        {"batch_size": "8"},
        {"validation_share": float("nan")},
        {"validation_share": 0.6},
        {"limit_pictures": 1},
    ],
    ids=lambda changes: next(iter(changes)) if isinstance(changes, dict) else changes.__name__,
)
def test_settings_out_of_range_are_refused(
    kind: type[Stage1Settings] | type[Stage2Settings] | type[DenoiserSettings],
    changes: dict[str, object],
    tmp_path: Path,
) -> None:
    settings = kind(data=(tmp_path,), out=tmp_path / "run", n_images=1)
    settings.check()
    with pytest.raises(TrainingError) as caught:
        replace(settings, **changes).check()
    assert len(str(caught.value)) < 200


def test_ends_of_the_ranges_are_accepted() -> None:
    check_whole("count", 1, 1, 3)
    check_whole("count", 3, 1, 3)
    check_number("share", 1, above=0, most=1)
    for bias in (-30, 0.0, 30):
        check_bias(bias)
    for bias in (-30.1, 30.1, None):
        with pytest.raises(TrainingError, match="the bias must be a number from -30 to 30"):
            check_bias(bias)


def test_invalid_new_lengths_keep_the_checkpoint(photographs: Path, tmp_path: Path) -> None:
    """A finished run is not rewound to the state before its learning rate fell."""
    values = {"config": "tiny", "batch_size": 8, "crop_px": 64, "validation_share": 0.2, "threads": 1}
    run = train_stage1(Stage1Settings(data=(photographs,), out=tmp_path / "run", n_images=40, **values))
    before = read_document(run / "checkpoint", "progress")
    assert read_document(run / "constant", "progress")["n_images"] == 32
    options = [["--images", value] for value in ("0", "-5", "32", str(HUGE))]
    for option in (*options, *(["--minutes", value] for value in ("0", "-1", "nan", "inf", "1e-9"))):
        assert_one_line_error(["train", "resume", str(run), *option])
        assert read_document(run / "checkpoint", "progress") == before
