"""Sets of clips: random crops, reading and resampling of videos, and streaming of shards."""

from pathlib import Path

import numpy as np
import pytest
import torch
from moving_clips import HEIGHT, NAMES, WIDTH, moving_frames, write_clip_shard, write_clips, write_video
from PIL import Image

from ulcodec.errors import TrainingError
from ulcodec.io.resampling import resampled, resampled_sides
from ulcodec.io.sources import LeftOut, videos_of
from ulcodec.train.data.clip_reader import ClipReader
from ulcodec.train.data.clip_set import ClipSet, join_clips, pack_clips
from ulcodec.train.data.clips import StretchSettings
from ulcodec.train.data.loading import load
from ulcodec.train.data.readers import PictureReader
from ulcodec.train.data.stream import ShardStream

SIZES = [(5, 16, 20), (9, 18, 16), (4, 16, 16)]
N_FRAMES, CROP_PX = 4, 16


def numbered(index: int, n_frames: int, height: int, width: int) -> np.ndarray:
    """Make a clip whose samples are (16 clip + frame, row, column)."""
    clip = np.empty((n_frames, height, width, 3), np.uint8)
    clip[..., 0] = 16 * index + np.arange(n_frames)[:, None, None]
    clip[..., 1], clip[..., 2] = np.arange(height)[:, None], np.arange(width)
    return clip


@pytest.fixture(scope="module")
def clips() -> ClipSet:
    return pack_clips([numbered(index, *size) for index, size in enumerate(SIZES)], N_FRAMES)


def test_crops_are_windows_of_frames_that_follow_each_other(clips: ClipSet) -> None:
    """All places of all clips are drawn, in both orientations."""
    crops = clips.random_crops(3000, CROP_PX, torch.Generator().manual_seed(0))
    assert crops.shape == (3000, 3, N_FRAMES, CROP_PX, CROP_PX)
    times, rows, columns = (255 * crops).round().long().unbind(1)
    first_frames, tops = times[:, 0, 0, 0], rows[:, 0, 0, 0]
    mirrored = columns[:, 0, 0, 0] > columns[:, 0, 0, -1]
    lefts = torch.where(mirrored, columns[:, 0, 0, -1], columns[:, 0, 0, 0])
    steps = torch.arange(CROP_PX)
    ascending = lefts[:, None] + steps
    expected_columns = torch.where(mirrored[:, None], ascending.flip(1), ascending)
    assert torch.equal(times, (first_frames[:, None] + steps[:N_FRAMES])[:, :, None, None].expand_as(times))
    assert torch.equal(rows, (tops[:, None] + steps)[:, None, :, None].expand_as(rows))
    assert torch.equal(columns, expected_columns[:, None, None].expand_as(columns))
    places = set(zip(first_frames.tolist(), tops.tolist(), lefts.tolist(), mirrored.tolist(), strict=True))
    assert places == {
        (16 * index + frame, top, left, flip)
        for index, (n_frames, height, width) in enumerate(SIZES)
        for frame in range(n_frames - N_FRAMES + 1)
        for top in range(height - CROP_PX + 1)
        for left in range(width - CROP_PX + 1)
        for flip in (False, True)
    }


def test_workers_draw_rows_of_the_batch_of_one_process(clips: ClipSet) -> None:
    whole = clips.random_crops(6, CROP_PX, torch.Generator().manual_seed(1))
    parts = [
        clips.random_crops(
            6, CROP_PX, torch.Generator().manual_seed(1), lambda rows, first=first: rows[first : first + 3]
        )
        for first in (0, 3)
    ]
    assert torch.equal(torch.cat(parts), whole)


def test_joined_sets_hold_the_clips_of_all(clips: ClipSet) -> None:
    parts = [pack_clips([numbered(index, *size)], N_FRAMES) for index, size in enumerate(SIZES)]
    joined = join_clips(parts)
    draws = [part.random_crops(50, CROP_PX, torch.Generator().manual_seed(2)) for part in (joined, clips)]
    assert torch.equal(*draws)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


def test_videos_are_resampled_and_whole_scenes_held_out(folder: Path) -> None:
    reader = ClipReader(StretchSettings(32, n_frames=8, step_px=8, resize_px=40), seed=0)
    training, held_out = load(reader, [folder], validation_share=0.5)
    assert (len(training), len(held_out)) == (2, 4), "three scenes, of 1, 2 and 3 clips; the first and third held out"
    height, width = resampled_sides(HEIGHT, WIDTH, 40)
    assert (height, width) == (40, 76)
    for clips in (training, held_out):
        assert set(clips.heights.tolist()) == {40}
        assert set(clips.widths.tolist()) == {72}, "a multiple of 8"
        assert set(clips.lengths.tolist()) == {12}


def test_no_more_clips_are_read_than_asked_for(folder: Path) -> None:
    reader = ClipReader(StretchSettings(32, n_frames=4, step_px=8), seed=0)
    files = sorted(folder.rglob("*.*"))
    assert len(list(reader.examples(videos_of([folder], LeftOut()), LeftOut(), 2))) == 2
    assert len(reader.clips_of((str(files[0]), files[0]), 0)[0]) == 0


def test_names_of_videos_may_be_any_bytes(folder: Path) -> None:
    """File systems of Linux do not require UTF-8; Python then has lone surrogates in the name."""
    [file, *_] = sorted(folder.rglob("*.*"))
    [clip, *_], left_out = ClipReader(StretchSettings(32, n_frames=8), seed=0).clips_of(("\udcff.mp4", file))
    assert (len(clip.frames), left_out) == (12, LeftOut())


def test_resampling_is_smooth() -> None:
    """Stripes of single pixels become their mean: no aliasing."""
    stripes = np.zeros((60, 90, 3), np.uint8)
    stripes[:, ::2] = 200
    small = resampled(stripes, resampled_sides(60, 90, 20))
    assert small.shape == (20, 30, 3)
    assert np.abs(small[:, 2:-2].astype(int) - 100).max() <= 12


def test_unusable_videos_are_counted(tmp_path: Path) -> None:
    write_video(tmp_path / "good.mkv", moving_frames(0, n_frames=8))
    write_video(tmp_path / "short.mkv", moving_frames(1, n_frames=7))
    write_video(tmp_path / "small.mkv", moving_frames(2, size=(30, 136)))
    (tmp_path / "damaged.mp4").write_bytes(b"text" * 300)
    reader = ClipReader(StretchSettings(32, n_frames=8, step_px=8), seed=0)
    left_out = LeftOut()
    message = (
        "found 1 clips of 8 frames with sides of at least 32 px; need two or more, of different scenes; left out: "
    )
    with pytest.raises(TrainingError, match=message + "1 too short, 1 too small, 1 unreadable"):
        load(reader, [tmp_path], validation_share=0.5, left_out=left_out)


def test_shards_of_videos_are_streamed(folder: Path, tmp_path: Path) -> None:
    shards = [
        write_clip_shard(tmp_path / "1.tar", [folder / name for name in NAMES[:3]]),
        write_clip_shard(tmp_path / "2.tar", [folder / name for name in NAMES[3:]] + [folder / NAMES[0]]),
    ]
    reader = ClipReader(StretchSettings(32, n_frames=8, step_px=8), seed=0)
    stream = ShardStream(
        shards, reader, n_held=1, crops_per_shard=10, validation_share=0.5, seed=0, device=torch.device("cpu")
    )
    assert len(stream.validation()) == 1, "the first scene of the first shard"
    assert sorted(len(stream.at(n_images)) for n_images in (0, 10)) == [1, 2]
    first = stream.at(0).random_crops(4, 32, torch.Generator().manual_seed(0))
    again = ShardStream(
        shards, reader, n_held=1, crops_per_shard=10, validation_share=0.5, seed=0, device=torch.device("cpu")
    )
    assert torch.equal(again.at(0).random_crops(4, 32, torch.Generator().manual_seed(0)), first)


def test_pictures_are_resampled(tmp_path: Path) -> None:
    for number, size in enumerate([(90, 60), (50, 80), (39, 200)]):
        Image.new("RGB", size, (number, 0, 0)).save(tmp_path / f"{number}.png")
    training, held_out = load(PictureReader(32, resize_px=40), [tmp_path], validation_share=0.5)
    assert list(zip(held_out.heights.tolist(), held_out.widths.tolist(), strict=True)) == [(40, 60), (205, 40)]
    assert list(zip(training.heights.tolist(), training.widths.tolist(), strict=True)) == [(64, 40)]
