"""Sets of pictures and clips: which are read, how they are fitted, and which part of a video counts."""

import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ulcodec.errors import BenchmarkError, TrainingError
from ulcodec.io.sources import LeftOut
from ulcodec.metrics.feature_networks import FeatureNetwork
from ulcodec.metrics.sample_sets import clip_statistics, fit, picture_statistics, random_window, read_clips

N_FRAMES = 9


@pytest.fixture
def seen() -> list[list[int]]:
    """Shapes of the batches that `network` has seen."""
    return []


@pytest.fixture
def network(seen: list[list[int]]) -> FeatureNetwork:
    """The mean colours, of all frames."""

    def compute(x: torch.Tensor) -> torch.Tensor:
        seen.append(list(x.shape))
        return x.float().flatten(2).mean(2)

    return FeatureNetwork("mean colours", compute, torch.device("cpu"))


def write_pictures(folder: Path, count: int, size: tuple[int, int] = (30, 20)) -> Path:
    """Write pictures of the grey values 0, 10, 20 ..."""
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", size, (10 * number,) * 3).save(folder / f"{number}.png")
    return folder


def write_animation(path: Path, levels: list[int]) -> Path:
    """Write an animation of plain frames with these grey values, which differ."""
    frames = [Image.new("L", (24, 20), level) for level in levels]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=40, loop=0)
    return path


def test_statistics_are_those_of_all_pictures(tmp_path: Path, network: FeatureNetwork, seen: list[list[int]]) -> None:
    """From a folder and a tar shard, in batches by size; unreadable and transparent pictures are counted."""
    folder = write_pictures(tmp_path / "a", 3)
    (folder / "broken.png").write_bytes(b"\x89PNG")
    Image.new("RGBA", (5, 5), (1, 2, 3, 4)).save(folder / "clear.png")
    other = write_pictures(tmp_path / "b", 2, (8, 9))
    with tarfile.open(tmp_path / "shard.tar", "w") as shard:
        for file in sorted(other.iterdir()):
            shard.add(file, file.name)
    left_out = LeftOut()
    statistics = picture_statistics([folder, tmp_path / "shard.tar"], network, left_out=left_out)
    assert seen == [[3, 3, 20, 30], [2, 3, 9, 8]]
    assert statistics.n == 5
    assert statistics.mean == pytest.approx([np.mean([0, 10, 20, 0, 10])] * 3)
    assert left_out == {"unreadable": 1, "transparent": 1}
    assert picture_statistics([folder], network, limit=2).mean == pytest.approx([5] * 3)


def test_pictures_are_fitted_to_squares(tmp_path: Path, network: FeatureNetwork, seen: list[list[int]]) -> None:
    picture_statistics([write_pictures(tmp_path / "a", 2)], network, size_px=7)
    assert seen == [[2, 3, 7, 7]]


def test_fitting_keeps_the_centre_and_removes_frequencies_that_alias() -> None:
    columns = np.arange(80)
    stripes = np.repeat((255 * (columns % 2))[None, :, None], 60, 0).repeat(3, 2).astype(np.uint8)
    reduced = fit(stripes, 15)
    assert reduced.shape == (15, 15, 3)
    assert np.abs(reduced[:, 2:-2].astype(int) - 128).max() < 12  # every fourth column would be 0 or 255
    ramp = np.repeat((3 * columns)[None, :, None], 60, 0).repeat(3, 2).astype(np.uint8)
    assert fit(ramp, 60)[:, :, 0].mean() == pytest.approx(ramp[:, 10:70].mean(), abs=0.6)
    assert np.array_equal(fit(ramp[:, :60], 60), ramp[:, :60])
    assert fit(ramp, None) is ramp


def test_every_place_of_a_clip_is_as_likely() -> None:
    """Nine places of four items in twelve: a chi-squared test with 8 degrees of freedom."""
    rng = np.random.default_rng(0)
    starts = Counter()
    for _ in range(2700):
        window = random_window(range(12), 4, rng)
        assert window == list(range(window[0], window[0] + 4))
        starts[window[0]] += 1
    assert sorted(starts) == list(range(9))
    assert sum((count - 300) ** 2 / 300 for count in starts.values()) < 26  # exceeded once in a thousand


def test_windows_of_all_items_or_too_few() -> None:
    assert random_window(range(4), 4, np.random.default_rng(0)) == [0, 1, 2, 3]
    assert random_window(range(3), 4, np.random.default_rng(0)) is None
    assert random_window([], 1, np.random.default_rng(0)) is None


def test_clips_are_consecutive_frames_of_the_same_places_in_both_sets(tmp_path: Path) -> None:
    """Two sets of as long videos, such as originals and decoded ones: one clip of each video, at the same place."""
    starts = []
    for folder, offset in ((tmp_path / "a", 0), (tmp_path / "b", 100)):
        folder.mkdir()
        for number in range(6):
            write_animation(folder / f"{number}.gif", list(range(offset, offset + 40)))
        clips = list(read_clips([folder], N_FRAMES, LeftOut()))
        levels = [[int(frame[0, 0, 0]) - offset for frame in clip] for clip in clips]
        assert all(clip == list(range(clip[0], clip[0] + N_FRAMES)) for clip in levels)
        starts.append([clip[0] for clip in levels])
    assert starts[0] == starts[1]
    assert len(set(starts[0])) > 2


def test_videos_without_a_clip_are_counted(tmp_path: Path, network: FeatureNetwork, seen: list[list[int]]) -> None:
    for number in range(3):
        write_animation(tmp_path / f"{number}.gif", list(range(10 * number, 10 * number + N_FRAMES)))
    write_animation(tmp_path / "short.gif", list(range(N_FRAMES - 1)))
    Image.new("RGB", (20, 20)).save(tmp_path / "still.webp")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    left_out = LeftOut()
    statistics = clip_statistics([tmp_path], network, n_frames=N_FRAMES, size_px=12, left_out=left_out)
    assert seen == [[3, 3, N_FRAMES, 12, 12]]
    assert statistics.mean == pytest.approx([10 + (N_FRAMES - 1) / 2] * 3)
    assert left_out["too short"] + left_out["unreadable"] == sum(left_out.values()) == 3
    assert left_out["too short"] >= 1


@pytest.mark.parametrize("count", [0, 1])
def test_sets_of_fewer_than_two_are_refused(tmp_path: Path, network: FeatureNetwork, count: int) -> None:
    folder = write_pictures(tmp_path / "a", count)
    with pytest.raises(BenchmarkError, match=f"FID needs two or more pictures in each set, got {count}$"):
        picture_statistics([folder], network)
    for number in range(count):
        write_animation(folder / f"{number}.gif", list(range(N_FRAMES)))
    write_animation(folder / "short.gif", [1, 2])
    with pytest.raises(BenchmarkError, match=f"of 9 frames in each set, got {count}; left out: 1 too short$"):
        clip_statistics([folder], network, n_frames=N_FRAMES)
    with pytest.raises(TrainingError):
        picture_statistics([tmp_path / "none"], network)
