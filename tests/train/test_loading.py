"""Loading of training pictures: folders, shards and URLs, the split, and the files that are skipped."""

import os
from pathlib import Path

import fsspec
import numpy as np
import pytest
from numbered_pictures import PICTURES, files, numbers_of, png, write_shard
from PIL import Image

from ulcodec.errors import TrainingError
from ulcodec.io.sources import LeftOut, expand_sources, read_pictures
from ulcodec.train.data.loading import load_pictures


def test_folder_is_split_in_reading_order(folder: Path) -> None:
    training, validation = load_pictures([folder], min_side_px=32, validation_share=1 / 3)
    assert numbers_of(validation) == [0, 3]
    assert numbers_of(training) == [1, 2, 4, 5]


def test_tar_shards_are_read_by_name_and_from_a_folder(tmp_path: Path) -> None:
    names = sorted(files())
    shards = [write_shard(tmp_path / "1.tar", names[:4]), write_shard(tmp_path / "2.tar", names[4:])]
    for sources in (shards, [tmp_path]):
        training, validation = load_pictures(sources, min_side_px=32, validation_share=0.25)
        assert numbers_of(validation) == [0, 4]
        assert numbers_of(training) == [1, 2, 3, 5]


def test_pictures_and_shards_of_one_folder_are_read(tmp_path: Path) -> None:
    names = sorted(files())
    write_shard(tmp_path / "backup.tar", names[:4])
    (tmp_path / "deep").mkdir()
    write_shard(tmp_path / "deep" / "more.TAR", names[4:])
    (tmp_path / "picture.png").write_bytes(png(PICTURES[0]))
    assert expand_sources([tmp_path]) == [tmp_path / "backup.tar", tmp_path / "deep" / "more.TAR", tmp_path]
    training, validation = load_pictures([tmp_path], min_side_px=32, validation_share=0.25)
    assert (numbers_of(validation), numbers_of(training)) == ([0, 4], [1, 2, 3, 5, 0])
    (tmp_path / "picture.png").unlink()
    assert expand_sources([tmp_path]) == [tmp_path / "backup.tar", tmp_path / "deep" / "more.TAR"]


@pytest.mark.parametrize("suffix", ["gif", "tga", "pgm", "jfif", "JPG", "pcx"])
def test_files_that_pillow_opens_are_pictures(tmp_path: Path, suffix: str) -> None:
    for name in "ab":
        Image.new("L" if suffix == "pgm" else "RGB", (40, 40), "grey").save(tmp_path / f"{name}.{suffix}")
    training, validation = load_pictures([tmp_path], min_side_px=32, validation_share=0.5)
    assert (len(training), len(validation)) == (1, 1)


def test_skipped_files_are_counted_by_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file or folder that cannot be read is skipped; its neighbours are read."""
    for number in (0, 1):
        (tmp_path / f"{number}.png").write_bytes(png(PICTURES[number]))
    Image.new("RGBA", (40, 40), (9, 9, 9, 99)).save(tmp_path / "transparent.png")
    Image.new("RGB", (40, 31)).save(tmp_path / "small.png")
    (tmp_path / "damaged.jpg").write_bytes(b"text")
    (tmp_path / "damaged.tar").write_bytes(b"text" * 300)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("no picture")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "closed").mkdir()
    scan = os.scandir

    def scan_except_closed(path: Path) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scan_except_closed)
    left_out = LeftOut()
    training, validation = load_pictures([tmp_path], min_side_px=32, validation_share=0.5, left_out=left_out)
    assert (numbers_of(validation), numbers_of(training)) == ([0], [1])
    assert left_out == {"too small": 1, "transparent": 1, "unreadable": 3, "unreadable folders": 1}
    assert left_out.after("2 pictures") == (
        "2 pictures; left out: 1 too small, 1 transparent, 3 unreadable, 1 unreadable folders"
    )
    left_out = LeftOut()
    assert len(read_pictures([tmp_path], left_out=left_out)) == 3
    assert left_out == {"transparent": 1, "unreadable": 3, "unreadable folders": 1}
    (tmp_path / "1.png").unlink()
    with pytest.raises(TrainingError, match=r"found 1 pictures .*; left out: 1 too small, 1 transparent, 3 unreadable"):
        load_pictures([tmp_path], min_side_px=32, validation_share=0.5)


def test_shards_are_read_from_urls(tmp_path: Path) -> None:
    names = sorted(files())
    memory = fsspec.filesystem("memory")
    for number, members in ((1, names[:4]), (2, names[4:])):
        memory.pipe(f"/shards/{number}.tar", write_shard(tmp_path / "shard.tar", members).read_bytes())
    assert expand_sources(["memory://shards/*.tar"]) == ["memory:///shards/1.tar", "memory:///shards/2.tar"]
    for sources in (["memory://shards/*.tar"], ["memory://shards/1.tar", "memory://shards/2.tar"]):
        training, validation = load_pictures(sources, min_side_px=32, validation_share=0.25)
        assert (numbers_of(validation), numbers_of(training)) == ([0, 4], [1, 2, 3, 5])


@pytest.mark.parametrize("url", ["memory://no/*.tar", "memory://no/1.tar", "carrier-pigeon://1.tar", "pigeon://*.tar"])
def test_missing_urls_are_refused(url: str) -> None:
    with pytest.raises(TrainingError, match="training data"):
        load_pictures([url], min_side_px=32, validation_share=0.5)


def test_limit_and_minimum_side_select_pictures(folder: Path) -> None:
    training, validation = load_pictures([folder], min_side_px=33, validation_share=0.5, limit=3)
    assert (numbers_of(validation), numbers_of(training)) == ([0, 3], [1])


def test_grey_becomes_rgb(tmp_path: Path) -> None:
    grey = np.arange(32 * 32, dtype=np.uint32).reshape(32, 32).astype(np.uint8)
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(png(grey))
    training, _ = load_pictures([tmp_path], min_side_px=32, validation_share=0.5)
    np.testing.assert_array_equal(training.picture(0).numpy(), np.repeat(grey[:, :, None], 3, axis=2))


def test_too_few_pictures_are_refused(folder: Path) -> None:
    with pytest.raises(TrainingError, match="found 1 pictures with sides of at least 48 px; need two or more"):
        load_pictures([folder], min_side_px=48, validation_share=0.5)


@pytest.mark.parametrize("name", ["missing", "not-a-shard.tar"])
def test_unreadable_source_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "not-a-shard.tar").write_bytes(b"text" * 300)
    with pytest.raises(TrainingError, match=f"cannot read training data .*{name}"):
        load_pictures([tmp_path / name], min_side_px=32, validation_share=0.5)
