"""Clips for benchmarks: which files they are, and the form in which codecs get them."""

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clip_files import moving_frames, write_clip
from PIL import Image

from ulcodec.bench.clips import CONVERTED, CROPPED, find_clips, frames_of, joined, prepare_clip, split
from ulcodec.errors import BenchmarkError, ImageError
from ulcodec.metrics import psnr_db


def test_videos_are_found_among_files_and_in_folders(picture: np.ndarray, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    frames = moving_frames(picture, 2, 64, 64)
    first, second, alone = (
        write_clip(path, frames) for path in (folder / "a.mkv", folder / "b.mkv", tmp_path / "c.mkv")
    )
    (folder / "README.md").write_text("# Clips")
    assert find_clips([folder, alone]) == [first, second, alone]
    assert find_clips([]) == []
    with pytest.raises(FileNotFoundError):
        find_clips([tmp_path / "none"])
    with pytest.raises(BenchmarkError, match=r"only videos or only pictures, got a\.mkv and README\.md"):
        find_clips([folder, folder / "README.md"])
    write_clip(tmp_path / "a.mkv", frames)
    with pytest.raises(BenchmarkError, match=r"two clips have the name a\.mkv"):
        find_clips([folder, tmp_path / "a.mkv"])


def test_pictures_are_no_clips(odd_pictures_dir: Path, picture: np.ndarray, tmp_path: Path) -> None:
    assert find_clips([odd_pictures_dir]) == []
    clip = write_clip(tmp_path / "clip.mkv", moving_frames(picture, 1, 64, 64))
    Image.fromarray(picture).save(tmp_path / "picture.png")
    with pytest.raises(BenchmarkError, match=r"got clip\.mkv and picture\.png"):
        find_clips([tmp_path])
    with pytest.raises(BenchmarkError, match="only videos or only pictures"):
        find_clips([clip, odd_pictures_dir])


def test_plain_samples_are_kept(picture: np.ndarray, tmp_path: Path) -> None:
    rate = Fraction(30000, 1001)
    source = write_clip(tmp_path / "clip.mkv", moving_frames(picture, 3, 64, 48), rate)
    clip = prepare_clip(source, tmp_path, 2)
    assert (clip.width, clip.height, clip.n_frames, clip.frame_rate, clip.changes) == (64, 48, 2, rate, ())
    with av.open(str(source)) as container:
        expected = [frame.to_ndarray() for frame in container.decode(video=0)][:2]
    frames = frames_of(clip)
    assert np.array_equal(frames.yuv, expected)
    assert psnr_db(frames.rgb[0], moving_frames(picture, 1, 64, 48)[0]) > 24, "chroma has half the resolution"


def test_names_and_titles_that_are_not_utf8(picture: np.ndarray, tmp_path: Path) -> None:
    avi = write_clip(tmp_path / "clip.avi", moving_frames(picture, 2, 64, 48), title="Caf\u00e9")
    avi.write_bytes(avi.read_bytes().replace("Caf\u00e9".encode(), b"Caf\xe9\xe9"))
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/n\xe9.avi"))
    avi.rename(path)
    clip = prepare_clip(path, tmp_path, 2)
    assert (clip.name, clip.n_frames, clip.changes) == ("n\ufffd.avi", 2, ())


def test_shorter_clips_have_all_their_frames(picture: np.ndarray, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "clip.mkv", moving_frames(picture, 1, 64, 48))
    assert prepare_clip(source, tmp_path, 32).n_frames == 1


@pytest.mark.parametrize(
    ("pixel_format", "size", "changes"),
    [
        ("yuv420p", (63, 47), (CROPPED,)),
        ("yuv420p10le", (64, 48), (CONVERTED,)),
        ("yuv444p", (63, 48), (CONVERTED, CROPPED)),
        ("gray", (64, 48), (CONVERTED,)),
        ("bgr0", (64, 48), (CONVERTED,)),
    ],
)
def test_other_samples_are_converted(
    pixel_format: str, size: tuple[int, int], changes: tuple[str, ...], picture: np.ndarray, tmp_path: Path
) -> None:
    frames = moving_frames(picture, 2, *size)
    clip = prepare_clip(write_clip(tmp_path / "clip.mkv", frames, pixel_format=pixel_format), tmp_path, 2)
    assert (clip.width, clip.height, clip.changes) == (size[0] // 2 * 2, 48 if size[1] == 48 else 46, changes)
    luma = frames[1][: clip.height, : clip.width] @ (0.299, 0.587, 0.114)
    assert np.abs(split(frames_of(clip).yuv[1]).y - (16 + luma * 219 / 255)).mean() < 1.5


def test_split_restores_joined_planes() -> None:
    planes = [
        np.arange(size).reshape(shape).astype(np.uint8) for size, shape in ((24, (4, 6)), (6, (2, 3)), (6, (2, 3)))
    ]
    for plane, restored in zip(planes, split(joined(planes, 6, 4)), strict=True):
        assert np.array_equal(plane, restored)


def test_unusable_clips_are_named(picture: np.ndarray, tmp_path: Path) -> None:
    junk = tmp_path / "junk.mkv"
    junk.write_bytes(b"junk")
    with pytest.raises(ImageError, match=r"junk\.mkv: "):
        prepare_clip(junk, tmp_path, 2)
    small = write_clip(tmp_path / "small.mkv", moving_frames(picture, 1, 64, 14))
    with pytest.raises(ImageError, match=r"small\.mkv: clips need sides of at least 16 px, got 64x14"):
        prepare_clip(small, tmp_path, 2)
