"""Reading of training clips: folders and shards, stretches of long videos, scenes, and the files that are skipped."""

from pathlib import Path

import numpy as np
import pytest
from moving_clips import HEIGHT, NAMES, WIDTH, moving_frames, write_clip_shard, write_clips, write_video

from ulcodec.errors import TrainingError
from ulcodec.io.sources import LeftOut
from ulcodec.train.data import clips
from ulcodec.train.data.clips import Clip, StretchSettings, clips_of_run, largest_sides, scene_of, stretches_of
from ulcodec.train.settings import VideoSettings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


def read(*sources: Path, crop_px: int = 64, limit: int | None = None) -> tuple[list[Clip], LeftOut]:
    settings = VideoSettings(data=sources, out=Path("run"), crop_px=crop_px, limit_pictures=limit)
    left_out = LeftOut()
    return list(clips_of_run(settings, left_out)), left_out


def test_folder_and_shards_give_the_same_clips(folder: Path, tmp_path: Path) -> None:
    files = [folder / name for name in NAMES]
    shards = [write_clip_shard(tmp_path / "1.tar", files[:4]), write_clip_shard(tmp_path / "2.tar", files[4:])]
    expected, left_out = read(folder)
    assert not left_out
    assert [clip.frames.shape for clip in expected] == [(12, 64, 128, 3)] * len(NAMES), "multiples of 64 pixels"
    for sources in (shards, [tmp_path], files):
        found, _ = read(*sources)
        assert all(np.array_equal(clip.frames, other.frames) for clip, other in zip(found, expected, strict=True))
        assert len({clip.scene for clip in found}) == 3
    assert len(read(folder, limit=2)[0]) == 2


@pytest.mark.parametrize(
    ("name", "scene"),
    [
        ("/data/davis_cows-1.mkv", "/data/davis_cows"),
        ("s3://bucket/video-00.tar:a/cows-2.mp4", "a/cows"),
        ("lake.mkv", "lake"),
        ("-1.mkv", "-1"),
    ],
)
def test_scene_is_the_name_up_to_its_last_hyphen(name: str, scene: str) -> None:
    assert scene_of(name) == scene


def test_skipped_clips_are_counted_by_reason(tmp_path: Path) -> None:
    write_video(tmp_path / "good.mkv", moving_frames(0))
    write_video(tmp_path / "small.mkv", moving_frames(0, size=(62, 136)))
    write_video(tmp_path / "short.mkv", moving_frames(0, n_frames=1))
    (tmp_path / "damaged.mp4").write_bytes(b"text" * 300)
    (tmp_path / "gone.webm").symlink_to(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("no video")
    found, left_out = read(tmp_path)
    assert len(found) == 1
    assert left_out == {"too small": 1, "too short": 1, "unreadable": 2}


@pytest.mark.parametrize("name", ["missing.mkv", "missing.tar", "missing"])
def test_missing_source_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(TrainingError, match=f"cannot read training data .*{name}"):
        read(tmp_path / name)


def test_long_video_gives_stretches_with_gaps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips, "STRETCH_FRAMES", 3)
    monkeypatch.setattr(clips, "STRETCH_INTERVAL", 5)
    video = write_video(tmp_path / "long.mkv", [np.full((64, 64, 3), 20 * number, np.uint8) for number in range(12)])
    stretches = list(stretches_of(video, StretchSettings(64), np.random.default_rng(0), LeftOut()))
    assert [len(frames) for frames in stretches] == [3, 3, 2]
    numbers = [round(frame.mean() / 20) for frames in stretches for frame in frames]
    assert numbers == [0, 1, 2, 5, 6, 7, 10, 11]


def test_large_frames_are_cropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert largest_sides(1080, 1920) == (384, 640)
    assert largest_sides(1920, 1080) == (640, 384)
    monkeypatch.setattr(clips, "LONG_SIDE_PX", 64)
    monkeypatch.setattr(clips, "SHORT_SIDE_PX", 32)
    video = write_video(tmp_path / "clip.mkv", moving_frames(1, n_frames=2))
    crops = [next(stretches_of(video, StretchSettings(64), np.random.default_rng(seed), LeftOut())) for seed in (0, 1)]
    assert all(crop.shape == (2, 64, 64, 3) for crop in crops)
    assert not np.array_equal(*crops)
    assert (HEIGHT, WIDTH) == (72, 136)
