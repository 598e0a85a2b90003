"""Stage 1 and stage 2 on latents of the objective `ul`, for clips and pictures, and the samples of their runs."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from moving_clips import write_clip_shard, write_clips, write_video
from PIL import Image
from stage1_runs import assert_same_state
from torch import Tensor
from typer.testing import CliRunner

from ulcodec.codec.generate import load_sampler
from ulcodec.errors import ModelError, TrainingError
from ulcodec.io.clip_files import save_clip
from ulcodec.store.tensor_files import read_document, read_tensors
from ulcodec.store.trained_run import open_run
from ulcodec.train.data.clip_set import pack_clips
from ulcodec.train.objective import OBJECTIVES
from ulcodec.train.settings import ObjectiveSettings, Stage1Settings, Stage2Settings
from ulcodec.train.stage1 import resume_stage1, train_stage1, validation_scores
from ulcodec.train.stage2 import resume_stage2, train_stage2
from ulcodec_cli.main import app

N_FRAMES, CROP_PX = 8, 16


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips") / "videos")


@pytest.fixture(scope="module")
def settings(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Stage1Settings:
    return Stage1Settings(
        data=(clips,), out=tmp_path_factory.mktemp("stage1") / "run", config="tiny-video", objective="ul",
        n_images=320, batch_size=8, crop_px=CROP_PX, n_frames=N_FRAMES, resize_px=32, learning_rate=0.03, device="cpu",
        validation_share=0.3, weights=ObjectiveSettings(loss_factor=30, bias=1),
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(settings: Stage1Settings) -> Path:
    return train_stage1(settings)


@pytest.fixture(scope="module")
def stage2_settings(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Stage2Settings:
    """A run on clips that are dark or bright, one of each held out. Their latents are far from a Gaussian."""
    flat = tmp_path_factory.mktemp("flat")
    for number in range(8):
        write_video(flat / f"{number}.mkv", N_FRAMES * [np.full((64, 64, 3), 20 + 200 * (number % 2), np.uint8)])
    return Stage2Settings(
        data=(flat,), out=tmp_path_factory.mktemp("stage2") / "run", model=str(run), config="tiny", n_images=320,
        batch_size=8, learning_rate=2e-2, n_validations=2, validation_share=0.34, device="cpu",
    )  # fmt: skip


@pytest.fixture(scope="module")
def base_run(stage2_settings: Stage2Settings) -> Path:
    return train_stage2(stage2_settings)


def losses_of(run: Path) -> list[float]:
    with open(run / "validation.csv", newline="") as handle:
        return [float(row["loss"]) for row in csv.DictReader(handle)]


def test_stage_1_learns_clips(settings: Stage1Settings, run: Path, tmp_path: Path) -> None:
    """The held-out loss is below that of one step, which is next to none."""
    started = train_stage1(replace(settings, out=tmp_path / "run", n_images=8, learning_rate=1e-9))
    assert losses_of(run)[-1] < 0.95 * losses_of(started)[-1]
    assert read_document(run / "checkpoint", "config")["model"]["name"] == "tiny-video"


def test_resumed_run_on_clips_is_the_unbroken_one(settings: Stage1Settings, run: Path, tmp_path: Path) -> None:
    half = replace(settings, out=tmp_path / "run", n_images=160)
    train_stage1(half)
    resume_stage1(half.out, n_images=settings.n_images)
    assert_same_state(half.out, run)


def test_streamed_shards_of_clips_train(settings: Stage1Settings, clips: Path, tmp_path: Path) -> None:
    files = sorted(clips.iterdir())
    shards = tuple(write_clip_shard(tmp_path / f"{part}.tar", files[part::2]) for part in (0, 1))
    streamed = replace(settings, data=shards, out=tmp_path / "run", n_images=32, shards_in_memory=1, crops_per_shard=16)
    assert len(losses_of(train_stage1(streamed))) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "codec"}, "writes no files: train it with the objective ul"),
        ({"n_frames": 6}, "the number of frames must be a multiple of 4, got 6"),
        ({"n_frames": 0}, "the number of frames must be a whole number from 4 to 1024"),
        ({"crop_px": 20}, "the crop must be a multiple of 8 pixels, got 20"),
        ({"resize_px": 8}, "the short side must be a whole number from 16"),
        ({"weights": ObjectiveSettings(loss_factor=0.0)}, "the loss factor must be a number above 0"),
        ({"weights": ObjectiveSettings(bias=float("nan"))}, "the bias must be a number"),
        ({"batch_size": 2**15, "n_frames": 1024}, "32768 crops of 1024 x 16 x 16 are more than"),
        ({"n_frames": 16}, "clips of 16 frames"),
        ({"crop_px": 80, "resize_px": None}, "clips of 8 frames with sides of at least 80 px"),
    ],
)
def test_settings_that_cannot_run_are_refused(
    settings: Stage1Settings, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        train_stage1(replace(settings, out=tmp_path / "run", **changes))


def test_held_out_clips_are_scored_in_parts(
    settings: Stage1Settings, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean is over clips: it is the same in parts of equal content."""
    model = open_run(run).networks(torch.device("cpu"))
    shapes, held_out = [], pack_clips([np.zeros((N_FRAMES, CROP_PX, CROP_PX, 3), np.uint8)] * 3, N_FRAMES)

    def objective(model: Any, x: Tensor, *_: Any) -> tuple[Tensor, dict[str, Tensor]]:
        shapes.append(len(x))
        return torch.tensor(6.0 / len(x)), {}

    monkeypatch.setattr("ulcodec.train.stage1.VALIDATION_CLIPS", 2)
    monkeypatch.setitem(OBJECTIVES, "ul", objective)
    assert validation_scores(model, held_out, settings)["loss"] == pytest.approx((2 * 3 + 6) / 3)
    assert shapes == [2, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bias", "1"], "--bias is for objective ul only"),
        (["--loss-factor", "2"], "--loss-factor is for objective ul only"),
        (["--latent-warmup", "8"], "--latent-warmup is for objective ul only"),
        (["--frames", "8", "--objective", "ul"], "--frames is for configurations of clips only"),
    ],
)
def test_options_that_would_be_ignored_are_refused(clips: Path, arguments: list[str], message: str) -> None:
    base = ["train", "stage1", "--data", str(clips), "--out", "run", "--images", "8", "--config", "tiny", "--dry-run"]
    refused = CliRunner().invoke(app, [*base, *arguments])
    assert (refused.exit_code, message in refused.stderr) == (2, True)


def test_options_of_the_objective(clips: Path) -> None:
    arguments = ["train", "stage1", "--data", str(clips), "--out", "run", "--images", "8", "--config", "tiny-video"]
    arguments += ["--objective", "ul", "--loss-factor", "1.9", "--bias", "-1", "--frames", "8", "--resize", "256"]
    finished = CliRunner().invoke(app, [*arguments, "--dry-run"])
    assert finished.exit_code == 0, finished.stderr
    assert '"loss_factor": 1.9,\n      "bias": -1.0' in finished.stdout
    assert '"n_frames": 8,\n    "resize_px": 256' in finished.stdout
    refused = CliRunner().invoke(app, [*arguments, "--loss-factor", "0"])
    assert (refused.exit_code, len(refused.stderr.splitlines())) == (2, 1)


def test_base_model_learns_latents_of_clips(base_run: Path) -> None:
    first, last = losses_of(base_run)
    assert last < 0.98 * first


def test_resumed_stage_2_is_the_unbroken_one(stage2_settings: Stage2Settings, base_run: Path, tmp_path: Path) -> None:
    half = replace(stage2_settings, out=tmp_path / "run", n_images=160)
    train_stage2(half)
    resume_stage2(half.out, n_images=320)
    expected = read_tensors(base_run / "checkpoint", "ema")
    for name, weight in read_tensors(half.out / "checkpoint", "ema").items():
        assert torch.equal(weight, expected[name]), name


def test_base_model_of_two_levels_learns_latents_of_pictures(photographs: Path, tmp_path: Path) -> None:
    """Of the paper's model and of the codec's model, both trained with the objective `ul`."""
    for config in ("paper_tiny", "tiny"):
        stage1 = train_stage1(
            Stage1Settings(
                data=(photographs,), out=tmp_path / config, config=config, objective="ul", n_images=16, batch_size=8,
                crop_px=64, validation_share=0.2, device="cpu",
            )
        )  # fmt: skip
        settings = Stage2Settings(
            data=(photographs,), out=tmp_path / f"{config}-base", model=str(stage1), config="tiny", n_images=16,
            batch_size=8, validation_share=0.2, device="cpu",
        )  # fmt: skip
        [picture] = load_sampler(train_stage2(settings), device=torch.device("cpu")).sample(
            1, width=70, n_steps=2, decoder_steps=2
        )
        assert picture.shape == (64, 80, 3), "the crop of the run, and 70 pixels rounded up"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_px": 24, "config": "paper"}, "the crop must be a multiple of 16 pixels, got 24"),
        ({"crop_px": 20}, "the crop must be a multiple of 8 pixels, got 20"),
        ({"shards_in_memory": 1, "limit_pictures": 3}, "cannot be limited"),
    ],
)
def test_stage_2_settings_that_do_not_fit_the_run_are_refused(
    stage2_settings: Stage2Settings, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        train_stage2(replace(stage2_settings, out=tmp_path / "run", **changes))


def test_runs_that_do_not_fit_are_refused(
    settings: Stage1Settings, run: Path, base_run: Path, finished_run: Path, tmp_path: Path
) -> None:
    device = torch.device("cpu")
    other = train_stage1(replace(settings, out=tmp_path / "run", n_images=8))
    with pytest.raises(ModelError, match=f"draws latents of model {open_run(run).sha256[:8]}, not of"):
        load_sampler(base_run, model=other, device=device)
    with pytest.raises(ModelError, match="the guide was trained on other latents"):
        next(load_sampler(run, device=device).sample(1, guide=load_sampler(other, device=device)))
    with pytest.raises(ModelError, match="it draws nothing"):
        load_sampler(finished_run, device=device)
    with pytest.raises(ModelError, match="not a run of stage 1 with the objective ul"):
        train_stage2(Stage2Settings(data=settings.data, out=tmp_path / "base", model=str(finished_run), n_images=8))
    with pytest.raises(TrainingError, match="another model configuration: stage1_sha256"):
        train_stage2(Stage2Settings(data=settings.data, out=base_run, model=str(other), config="tiny", n_images=640))


def with_value(run: Path, keys: str, value: Any, out: Path) -> Path:
    """Copy a run, and change a value of the configuration in its checkpoint."""
    file = shutil.copytree(run, out, dirs_exist_ok=True) / "checkpoint" / "config.json"
    config = json.loads(file.read_text())
    *parents, name = keys.split(".")
    values = config
    for parent in parents:
        values = values[parent]
    values[name] = value
    file.write_text(json.dumps(config))
    return out


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        ("stage1", None),
        ("stage1", {"objective": "ul"}),
        ("stage1.n_frames", "8"),
        ("stage1.crop_px", 10**9),
        ("stage1.weights", {}),
        ("stage1.weights.ul_quality", "high"),
        ("model", None),
        ("model.strides", 3),
        ("model.strides", [[2, 2]] * 3),
        ("model.strides", [[2**40, 2, 2]] * 4),
        ("model.strides", [[1, 2, 2], [2, 2], [2, 2, 2], [1, 1, 1]]),
        ("model.head_size", 0),
        ("model.encoder_widths", 7),
        ("model.decoder_widths", [1, 2, 3]),
        ("model.prior_blocks", 10**9),
        ("model.latent_channels", -1),
        ("model.decoder_dropout", 5),
    ],
)
def test_damaged_configurations_of_stage_1_are_refused(run: Path, tmp_path: Path, keys: str, value: Any) -> None:
    with pytest.raises(ModelError):
        load_sampler(with_value(run, keys, value, tmp_path / "run"), device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        ("stage2", None),
        ("stage2", {}),
        ("stage2.model", 5),
        ("model", None),
        ("model.base", None),
        ("model.base", {}),
        ("model.base.n_axes", 7),
        ("model.base.n_blocks", 10**9),
        ("model.base.fine_blocks", 2),
        ("model.stage1_sha256", 5),
    ],
)
def test_damaged_configurations_of_stage_2_are_refused(base_run: Path, tmp_path: Path, keys: str, value: Any) -> None:
    with pytest.raises(ModelError):
        load_sampler(with_value(base_run, keys, value, tmp_path / "run"), device=torch.device("cpu"))


@pytest.mark.parametrize(("keys", "value"), [("stage1.data", 5), ("stage1.weights.other", 1)])
def test_damaged_settings_of_stage_1_are_refused_by_stage_2(
    stage2_settings: Stage2Settings, run: Path, tmp_path: Path, keys: str, value: Any
) -> None:
    damaged = with_value(run, keys, value, tmp_path / "stage1")
    with pytest.raises(TrainingError, match="incomplete settings of stage 1"):
        train_stage2(replace(stage2_settings, out=tmp_path / "run", model=str(damaged)))


@pytest.mark.parametrize(
    ("keys", "value"),
    [("stage2", None), ("stage2.data", 3), ("stage2.model", 5), ("stage2.config", ["tiny"]), ("stage2.other", 1)],
)
def test_damaged_settings_of_stage_2_are_refused(base_run: Path, tmp_path: Path, keys: str, value: Any) -> None:
    with pytest.raises((ModelError, TrainingError)):
        resume_stage2(with_value(base_run, keys, value, tmp_path / "run"))


def test_extents_fit_the_guide_too(run: Path) -> None:
    sampler = load_sampler(run, device=torch.device("cpu"))
    [clip] = sampler.sample(1, width=24, n_steps=1, decoder_steps=2, guide=replace(sampler, step=2))
    assert clip.shape == (N_FRAMES, 16, 32, 3), "sides are multiples of 2x2 latent positions"


def test_runs_of_the_paper_model_make_no_codec(run: Path, photographs: Path, tmp_path: Path) -> None:
    for arguments in (
        ["train", "export", str(run), "-o", str(tmp_path / "model")],
        ["eval", str(photographs), "--model", str(run)],
    ):
        refused = CliRunner().invoke(app, arguments)
        assert refused.exit_code == 2
        assert "trains tiny-video, which makes no codec: draw from it" in refused.stderr


def sampled(run: Path, out: Path, *options: str) -> list[str]:
    """Draw two clips in few steps; return the names of the files."""
    arguments = ["sample", str(run), "-o", str(out), "-n", "2", "--steps", "3", "--decoder-steps", "3"]
    finished = CliRunner().invoke(app, [*arguments, "--device", "cpu", *options])
    assert finished.exit_code == 0, finished.stderr
    return [Path(line).name for line in finished.stdout.splitlines()]


@pytest.mark.parametrize("stage", [1, 2])
def test_clips_are_drawn(run: Path, base_run: Path, tmp_path: Path, stage: int) -> None:
    drawn = run if stage == 1 else base_run
    assert sampled(drawn, tmp_path) == ["0000.mp4", "0001.mp4"]
    with av.open(str(tmp_path / "0001.mp4")) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        assert video.streams.video[0].average_rate == 25
    assert np.stack(frames).shape == (N_FRAMES, CROP_PX, CROP_PX, 3)
    extents = ["--frames", "10", "--height", "17", "--width", "24", "--frame-rate", "10"]
    assert sampled(drawn, tmp_path, "--video", "gif", *extents) == ["0000.gif", "0001.gif"]
    with Image.open(tmp_path / "0000.gif") as animation:
        assert (animation.size, animation.n_frames, animation.info["duration"]) == ((24, 24), 12, 100)
    assert sampled(drawn, tmp_path, "--video", "sheet") == ["sheet.png"]
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (2 * (CROP_PX + 2) - 2, N_FRAMES * (CROP_PX + 2) - 2, 3)
    [first, second] = load_sampler(drawn, device=torch.device("cpu")).sample(
        2, n_steps=3, decoder_steps=3, guidance=1.5
    )
    assert np.array_equal(sheet[:CROP_PX, :CROP_PX], first[0])
    assert np.array_equal(sheet[-CROP_PX:, -CROP_PX:], second[-1])
    assert not np.array_equal(first, second)


def test_clips_are_reconstructed(run: Path, base_run: Path, clips: Path, tmp_path: Path) -> None:
    options = ["--reconstruct", str(clips), "--video", "sheet"]
    assert sampled(run, tmp_path, *options) == ["sheet.png"]
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (4 * (CROP_PX + 2) - 2, N_FRAMES * (CROP_PX + 2) - 2, 3)
    files = sampled(
        base_run, tmp_path, "--reconstruct", str(clips), "--video", "gif", "--height", "24", "--frames", "4"
    )
    assert files == ["0000.gif", "0000.gif", "0001.gif", "0001.gif"]
    for folder in ("originals", "reconstructions"):
        with Image.open(tmp_path / folder / "0001.gif") as animation:
            assert (animation.size, animation.n_frames) == ((24, 24), 4)


def test_failed_reconstruction_leaves_no_folders(run: Path, tmp_path: Path) -> None:
    arguments = ["sample", str(run), "--reconstruct", str(tmp_path), "-o", str(tmp_path / "out"), "--device", "cpu"]
    assert CliRunner().invoke(app, arguments).exit_code == 2
    assert not (tmp_path / "out").exists()


def test_fast_animations_have_a_duration_that_viewers_accept(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    save_clip(frames, tmp_path / "fast.gif", 240)
    with Image.open(tmp_path / "fast.gif") as animation:
        assert animation.info["duration"] == 20


def test_reconstruction_follows_the_original(run: Path) -> None:
    """The decoder gets the latent of each crop, with its noise: another latent, another reconstruction."""
    sampler = load_sampler(run, device=torch.device("cpu"))
    x = torch.rand(2, 3, N_FRAMES, CROP_PX, CROP_PX, generator=torch.Generator().manual_seed(0))
    x[1] = x[0]
    first, second = sampler.reconstruct(x, decoder_steps=3)
    assert not np.array_equal(first, second), "other noise"
    [again, _] = sampler.reconstruct(x, decoder_steps=3)
    assert np.array_equal(first, again)
    [other, _] = sampler.reconstruct(1 - x, decoder_steps=3)
    assert not np.array_equal(first, other)


def test_sample_command_reports_what_it_cannot_do(run: Path, base_run: Path, tmp_path: Path) -> None:
    sampled(base_run, tmp_path, "--video", "sheet", "--guide", str(base_run))
    for arguments, message in (
        ([str(base_run), "--video", "sheet"], "exists already; --force overwrites it"),
        ([str(base_run), "--guide", str(run), "--force", "--model", str(base_run)], "is not a run of stage 1"),
        ([str(tmp_path)], "config"),
        ([str(base_run), "--model", str(tmp_path / "gone"), "--force"], "the run of stage 1 is not at"),
        ([str(tmp_path / "gone")], "no such directory"),
        ([str(run), "--reconstruct", str(tmp_path)], "found no clips of 8 frames"),
        ([str(run), "--reconstruct", str(tmp_path), "--frames", "6"], "must be a multiple of 4, got 6"),
    ):
        refused = CliRunner().invoke(app, ["sample", *arguments, "-o", str(tmp_path), "--device", "cpu"])
        assert refused.exit_code == 2
        assert message in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1
