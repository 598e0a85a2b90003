"""Training of the entropy model of predicted frames, and the exported model with it."""

import csv
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from moving_clips import NAMES, moving_frames, write_clips, write_video
from stage1_runs import assert_same_state
from typer.testing import CliRunner

import ulcodec
from ulcodec.errors import TrainingError
from ulcodec.export.pipeline import export
from ulcodec.metrics import psnr_db
from ulcodec.model.config import SMALL, TINY, ModelConfig
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.store.model_directory import open_model, save_model
from ulcodec.store.tensor_files import read_document, read_tensors
from ulcodec.train import residuals
from ulcodec.train.data.clips import Clip
from ulcodec.train.denoiser import train_denoiser
from ulcodec.train.latents import LatentSet
from ulcodec.train.prior import train_prior
from ulcodec.train.residuals import View, draw_view, encode_scenes, residual_latent
from ulcodec.train.settings import DenoiserSettings, PriorSettings, VideoSettings
from ulcodec.train.video import train_video
from ulcodec_cli.main import app


@pytest.fixture(scope="module")
def settings(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> VideoSettings:
    folder = write_clips(tmp_path_factory.mktemp("clips"))
    (folder / "damaged.mkv").write_bytes(b"text" * 300)
    return VideoSettings(
        data=(folder,), out=tmp_path_factory.mktemp("video") / "run", model=str(tiny_model_dir), n_images=640,
        batch_size=16, crop_px=64, views=6, learning_rate=5e-3, warmup_images=64, validation_share=0.34, device="cpu",
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(settings: VideoSettings) -> Path:
    return train_video(settings)


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    export(run, run.parent / "model")
    return run.parent / "model"


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    return moving_frames(9, n_frames=10, size=(40, 50))


def bytes_by_name(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.glob("*.safetensors")}


def test_rate_of_held_out_residuals_falls(run: Path) -> None:
    with (run / "validation.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert len(rows) == 5
    assert rows[-1]["chain_bpp"] < 0.9 * rows[0]["chain_bpp"]
    assert rows[-1]["loss"] < 0.9 * rows[0]["loss"]


def test_unreadable_clips_are_left_out(settings: VideoSettings, tmp_path: Path) -> None:
    arguments = ["train", "video", "--data", str(settings.data[0]), "--model", settings.model, "--crop", "64"]
    finished = CliRunner().invoke(app, [*arguments, "--views", "1", "--images", "16", "--out", str(tmp_path / "run")])
    assert finished.exit_code == 0, finished.output
    assert "left out: 1 unreadable" in finished.stdout
    assert "latents of 5 training and 1 validation frames" in finished.stdout


def test_run_resumes_with_the_same_weights(run: Path, settings: VideoSettings, tmp_path: Path) -> None:
    halfway = replace(settings, out=tmp_path / "run", n_images=160)
    train_video(halfway)
    finished = CliRunner().invoke(app, ["train", "resume", str(halfway.out), "--images", str(settings.n_images)])
    assert finished.exit_code == 0, finished.output
    assert_same_state(run, halfway.out)


def test_all_parts_are_trained(run: Path, settings: VideoSettings, tiny_model: UnifiedLatentModel) -> None:
    weights = read_tensors(run / "checkpoint", "ema")
    assert {name.split(".")[0] for name in weights} == {"hyper_encoder", "hyper_decoder", "prior"}
    fresh = train_video(replace(settings, out=run.parent / "fresh", n_images=16, learning_rate=1e-9))
    started = read_tensors(fresh / "checkpoint", "ema")
    assert torch.allclose(started["prior.log_gain.values"], tiny_model.prior.log_gain.values, atol=1e-5)
    changed = {name.split(".")[0] for name, weight in weights.items() if not torch.allclose(weight, started[name])}
    assert changed == {"hyper_encoder", "hyper_decoder", "prior"}


def test_run_starts_from_another_video_part(run: Path, exported: Path, settings: VideoSettings, tmp_path: Path) -> None:
    first = shutil.copytree(exported, tmp_path / "first")
    start = replace(settings, out=tmp_path / "run", n_images=16, views=1, learning_rate=1e-9, init=str(first))
    train_video(start)
    weights, ema = read_tensors(start.out / "checkpoint", "model"), read_tensors(run / "checkpoint", "ema")
    equal = [torch.isclose(weights[name], ema[name].half().float(), atol=1e-5).flatten() for name in weights]
    assert torch.cat(equal).float().mean() > 0.8, "only units that were dead differ"
    shutil.rmtree(first)
    finished = CliRunner().invoke(app, ["train", "resume", str(start.out), "--images", "32"])
    assert finished.exit_code == 0, finished.output


def test_video_part_that_does_not_fit_is_refused(settings: VideoSettings, exported: Path, tmp_path: Path) -> None:
    start = replace(settings, out=tmp_path / "run")
    with pytest.raises(TrainingError, match=r"its video part does not fit: prior_width 32, not 24$"):
        train_video(replace(start, prior_width=24, init=str(exported)))
    with pytest.raises(TrainingError, match="has no video part to start from"):
        train_video(replace(start, init=settings.model))
    assert not start.out.exists()


def test_export_joins_pictures_and_video(exported: Path, tiny_model_dir: Path, frames: list[np.ndarray]) -> None:
    before, after = bytes_by_name(tiny_model_dir), bytes_by_name(exported)
    assert {name: after[name] for name in before} == before, "the part of pictures is the same"
    document = read_document(exported, "config")
    assert {name: value for name, value in document.items() if name != "video"} == read_document(
        tiny_model_dir, "config"
    )
    assert document["video"]["progress"]["n_images"] == 640
    assert document["video"]["training"]["out"] == "run", "no folders"
    old, new = (ulcodec.load(directory, device="cpu") for directory in (tiny_model_dir, exported))
    assert new.fingerprint == old.fingerprint
    old_file, data = (b"".join(codec.encode_video(frames, quality=60, gop=8, frame_rate=25)) for codec in (old, new))
    assert len(data) < len(old_file)
    decoded = [frame.pixels for frame in new.decode_video(data)]
    old_decoded = [frame.pixels for frame in old.decode_video(old_file)]
    assert len(decoded) == len(frames)
    for pixels, other, original in zip(decoded, old_decoded, frames, strict=True):
        assert psnr_db(pixels, original) > psnr_db(other, original) - 1.5


def test_export_fits_tables_and_measures(run: Path, exported: Path, tmp_path: Path) -> None:
    finished = CliRunner().invoke(app, ["train", "export", str(run), "-o", str(tmp_path / "model")])
    assert finished.exit_code == 0, finished.output
    model_line, tables_line, cost_line = finished.stdout.splitlines()
    stored = open_model(exported)
    assert model_line.endswith(
        f"fingerprint {stored.fingerprint.hex()[:8]}, with predicted frames {stored.sequence_fingerprint.hex()[:8]}"
    )
    assert tables_line == "means and tables fitted to files of 30 predicted frames"
    assert cost_line.count("% at quality") == 3
    export(run, tmp_path / "plain", sources=())
    assert open_model(tmp_path / "plain").sequence_fingerprint != stored.sequence_fingerprint
    with pytest.raises(TrainingError, match="leave out the data"):
        export(run, tmp_path / "model", sources=[tmp_path])


def test_later_prior_and_denoiser_keep_the_video_part(exported: Path, photographs: Path, tmp_path: Path) -> None:
    """Encoder and decoder stay as they are, and the video part depends on them only."""
    shared: dict[str, Any] = {
        "data": (photographs,), "model": str(exported), "n_images": 16, "crop_px": 64, "batch_size": 4,
    }  # fmt: skip
    before, video = open_model(exported), bytes_by_name(exported)
    runs = (
        train_prior(PriorSettings(out=tmp_path / "prior", **shared)),
        train_denoiser(DenoiserSettings(out=tmp_path / "denoiser", **shared)),
    )
    for run in runs:
        export(run, tmp_path / "model", sources=())
        after = open_model(tmp_path / "model")
        assert (after.sequence_fingerprint == before.sequence_fingerprint) == (run.name == "denoiser")
        written = bytes_by_name(tmp_path / "model")
        assert all(written[name] == data for name, data in video.items() if name.startswith("video_"))


def test_model_of_a_later_stage_1_has_no_video_part(finished_run: Path, exported: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    for file in exported.iterdir():
        model.mkdir(exist_ok=True)
        (model / file.name).write_bytes(file.read_bytes())
    export(finished_run, model, sources=())
    assert open_model(model).video is None
    assert not list(model.glob("video_*"))


def test_export_for_another_codec_is_refused(settings: VideoSettings, run: Path, tmp_path: Path) -> None:
    directory = tmp_path / "codec"
    save_model(directory, "other", UnifiedLatentModel(TINY), {})
    other = train_video(replace(settings, model=str(directory), out=tmp_path / "run", views=1, n_images=16))
    save_model(directory, "other", UnifiedLatentModel(TINY), {})
    with pytest.raises(TrainingError, match="the video was trained for another model"):
        export(other, tmp_path / "model")
    with pytest.raises(TrainingError, match="holds another model"):
        train_video(replace(settings, model=str(directory), n_images=700))
    with pytest.raises(TrainingError, match="choose another run directory"):
        train_video(replace(settings, views=2, n_images=700))


def test_scenes_are_held_out_as_wholes(
    tiny_model: UnifiedLatentModel, settings: VideoSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = {scene: number for number, scene in enumerate("abcde")}
    monkeypatch.setattr(
        residuals, "residual_latent", lambda model, frames, view: torch.full((4, 4, 1), float(frames[0, 0, 0, 0]))
    )
    clips = [Clip(scene, np.full((3, 64, 64, 3), numbers[scene], np.uint8)) for scene in "abacadabeb"]
    training, validation = encode_scenes(tiny_model, clips, replace(settings, views=2, validation_share=1 / 3))
    counts = [Counter(int(latent[0, 0, 0]) for latent in part.latents) for part in (training, validation)]
    assert counts == [{1: 6, 2: 2, 4: 2}, {0: 8, 3: 2}]


def test_clips_of_one_scene_are_refused(settings: VideoSettings, tmp_path: Path) -> None:
    for name in ("a-1.mkv", "a-2.mkv"):
        write_video(tmp_path / name, moving_frames(0, n_frames=3))
    with pytest.raises(TrainingError, match="found clips of 1 scenes with sides of at least 64 px; need two or more"):
        train_video(replace(settings, data=(tmp_path,), out=tmp_path / "run"))


def test_latents_cover_the_qualities(run: Path, settings: VideoSettings) -> None:
    training, validation = (LatentSet.of(read_tensors(run / "latents", part)) for part in ("training", "validation"))
    assert len(training.qualities) + len(validation.qualities) == settings.views * len(NAMES)
    for part in (training, validation):
        qualities = 100 * part.qualities
        assert torch.equal(qualities, qualities.sort().values)
        assert qualities.diff().max() < 3 * 100 / len(qualities)
        assert torch.allclose(qualities, qualities.round(), atol=1e-4)
        assert part.latents.pixels.dtype == torch.float16
    assert (set(training.latents.heights.tolist()), set(training.latents.widths.tolist())) == ({4}, {8})


def test_views_lie_within_the_clip() -> None:
    random = np.random.default_rng(0)
    for n_frames in (2, 3, 5, 33):
        views = [draw_view(n_frames, 30, random) for _ in range(300)]
        assert {len(view.references) for view in views} == ({1} if n_frames == 2 else {1, 2})
        for view in views:
            assert all(0 <= number < n_frames for number in (view.frame, *view.references))
            assert len({abs(view.frame - number) for number in view.references}) == 1
            assert view.frame > view.references[0]
            assert 30 <= view.reference_quality <= 80
    assert 0.6 < sum(len(view.references) == 2 for view in views) / len(views) < 0.7


def test_residual_of_a_frame_that_does_not_change_is_small(tiny_model: UnifiedLatentModel) -> None:
    frame = moving_frames(0, n_frames=1, size=(64, 64))[0]
    other = moving_frames(5, n_frames=1, size=(64, 64))[0]
    view = View(1, (0,), 60, 100)
    same, different = (residual_latent(tiny_model, np.stack([first, frame]), view).float() for first in (frame, other))
    assert same.shape == (4, 4, TINY.latent_channels)
    assert same.abs().mean() < 0.5 * different.abs().mean()


@pytest.mark.parametrize(
    ("codec", "options", "sizes"),
    [
        (SMALL, {}, (192, (2, 3, 4, 5), 16)),
        (TINY, {}, (32, (1, 1, 1, 1), 8)),
        (TINY, {"prior_width": 48, "prior_blocks": "0,1,2,3", "hyper_channels": 4}, (48, (0, 1, 2, 3), 4)),
    ],
    ids=["small", "tiny", "options"],
)
def test_sizes_of_the_entropy_model(codec: ModelConfig, options: dict[str, Any], sizes: tuple[Any, ...]) -> None:
    config = VideoSettings(data=(), out=Path("run"), **options).model_config(codec)
    assert (config.prior_width, config.prior_blocks, config.hyper_channels) == sizes
    assert not config.shared_prior
    assert config.latent_channels == codec.latent_channels


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--views", "0", "the number of views must be a whole number from 1 to 64, got 0"),
        ("--crop", "80", "the crop must be a multiple of 64 pixels, got 80"),
        ("--prior-width", "20", "the width of the prior must be a multiple of 8, got 20"),
        ("--prior-width", "0", "the width of the prior must be a whole number from 8 to 1024, got 0"),
        ("--hyper-channels", "0", "the channels of the hyper-latent must be a whole number from 1 to 1024, got 0"),
        ("--prior-blocks", "1,2,3", "the codec has 4 reveal passes, got blocks for 3"),
        ("--prior-blocks", "1,2,3,x", "the prior's blocks must be numbers, as 4,6,8,10, got 1,2,3,x"),
        ("--optimizer", "sgd", "unknown optimiser 'sgd'"),
    ],
)
def test_settings_out_of_range_are_refused(
    settings: VideoSettings, tmp_path: Path, option: str, value: str, message: str
) -> None:
    arguments = ["--data", str(tmp_path), "--model", settings.model, "--images", "16", "--out", str(tmp_path / "run")]
    finished = CliRunner().invoke(app, ["train", "video", *arguments, option, value])
    assert finished.exit_code != 0
    assert message in f"{finished.output}{finished.exception}"
    assert not (tmp_path / "run").exists()


def test_export_without_latents_is_not_calibrated(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "checkpoint", tmp_path / "run" / "checkpoint")
    finished = CliRunner().invoke(app, ["train", "export", str(tmp_path / "run"), "-o", str(tmp_path / "model")])
    assert finished.exit_code == 0, finished.output
    assert finished.stdout.splitlines()[1:] == [
        f"means and tables not fitted to files: no predicted frames at {tmp_path / 'run' / 'latents'}"
    ]
