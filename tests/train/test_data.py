"""Training pictures: reading folders and shards, splitting, streaming and cropping."""

import io
import os
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image

from ulcodec.errors import TrainingError
from ulcodec.io.locations import Source
from ulcodec.io.sources import LeftOut, expand_sources, read_pictures
from ulcodec.train.data.loading import load_pictures
from ulcodec.train.data.pictures import PictureSet, pack
from ulcodec.train.data.stream import ShardStream

SIZES = [(40, 50), (33, 64), (64, 32), (57, 41), (32, 32), (48, 90)]


def numbered(index: int, height: int, width: int) -> np.ndarray:
    """Make a picture whose pixels are (row, column, number of the picture)."""
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    pixels[..., 0], pixels[..., 1], pixels[..., 2] = np.arange(height)[:, None], np.arange(width), index
    return pixels


PICTURES = [numbered(index, *size) for index, size in enumerate(SIZES)]


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def files() -> dict[str, bytes]:
    """Return names and contents: six pictures in reading order, and files that must be left out."""
    usable = {f"{'a' if i < 3 else 'b'}/{i}.{'PNG' if i == 4 else 'png'}": png(p) for i, p in enumerate(PICTURES)}
    transparent = np.zeros((40, 40, 4), dtype=np.uint8)
    return usable | {
        "a/broken.png": b"not a picture",
        "a/cut.png": png(PICTURES[0])[:60],
        "a/notes.txt": b"text",
        "a/transparent.png": png(transparent),
        "b/small.png": png(numbered(9, 31, 99)),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, data in files().items():
        file = tmp_path / "pictures" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    (tmp_path / "pictures" / "folder.png").mkdir()
    (tmp_path / "pictures" / "gone.png").symlink_to("nowhere.png")
    return tmp_path / "pictures"


def write_shard(path: Path, names: list[str]) -> Path:
    data = files()
    with tarfile.open(path, "w") as shard:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(data[name])
            shard.addfile(member, io.BytesIO(data[name]))
    return path


def numbers_of(pictures: PictureSet) -> list[int]:
    """Return the numbers of the pictures in a set, and check their pixels."""
    numbers = []
    for index in range(len(pictures)):
        pixels = pictures.picture(index).numpy()
        number = int(pixels[0, 0, 2])
        np.testing.assert_array_equal(pixels, PICTURES[number])
        numbers.append(number)
    return numbers


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


def stream(sources: list[Source], **changes: int) -> ShardStream:
    values = {"n_held": 2, "crops_per_shard": 10, "seed": 3, **changes}
    return ShardStream(sources, min_side_px=32, validation_share=0.5, device=torch.device("cpu"), **values)


def test_stream_holds_two_shards_and_replaces_one_at_a_time(tmp_path: Path) -> None:
    """Each of six shards has a held-out picture, and a training picture with the number of the shard."""
    sources: list[Source] = []
    for number in range(6):
        path = tmp_path / f"{number}.tar"
        with tarfile.open(path, "w") as shard:
            for name, pixels in (("a.png", PICTURES[0]), ("b.png", PICTURES[number])):
                data = png(pixels)
                member = tarfile.TarInfo(name)
                member.size = len(data)
                shard.addfile(member, io.BytesIO(data))
        sources.append(path)
    shards = stream(sources)
    assert numbers_of(shards.validation()) == [0, 0]
    windows = [numbers_of(shards.at(n_images)) for n_images in range(0, 120, 10)]
    assert [first for first, _ in windows[:-1]][1:] == [second for _, second in windows[:-2]]
    for epoch in (windows[:6], windows[6:]):
        assert sorted(first for first, _ in epoch) == list(range(6))
    assert [first for first, _ in windows[:6]] != [first for first, _ in windows[6:]]
    assert numbers_of(shards.at(0)) == numbers_of(shards.at(9)) == windows[0]
    assert numbers_of(stream(sources).at(70)) == windows[7], "a resumed run reads the same pictures"
    with pytest.raises(TrainingError, match="cannot hold 7 of 6 shards"):
        stream(sources, n_held=7)


def test_stream_of_unusable_shards_is_refused(folder: Path, tmp_path: Path) -> None:
    small = write_shard(tmp_path / "small.tar", ["b/small.png"])
    with pytest.raises(TrainingError, match="no pictures with sides of at least 32 px in 1 shards"):
        stream([small], n_held=1).at(0)
    with pytest.raises(TrainingError, match="cannot read training data"):
        stream([tmp_path / "gone.tar"], n_held=1).at(0)


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


def test_crops_lie_in_their_pictures() -> None:
    crop_px = 32
    crops = pack(PICTURES).random_crops(400, crop_px, torch.Generator().manual_seed(0))
    assert crops.dtype == torch.float32
    assert crops.shape == (400, 3, crop_px, crop_px)
    positions = set()
    for crop in (crops * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy():
        flipped = bool(crop[0, 0, 1] > crop[0, 1, 1])
        upright = crop[:, ::-1] if flipped else crop
        top, left, number = (int(value) for value in upright[0, 0])
        np.testing.assert_array_equal(upright, PICTURES[number][top : top + crop_px, left : left + crop_px])
        positions.add((number, top, left, flipped))
    assert {number for number, *_ in positions} == set(range(len(PICTURES)))
    assert {flipped for *_, flipped in positions} == {False, True}
    assert {top for number, top, *_ in positions if number == 0} == set(range(40 - crop_px + 1))


def test_crops_depend_only_on_the_generator() -> None:
    pictures = pack(PICTURES)
    first, again, other = (pictures.random_crops(8, 32, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
