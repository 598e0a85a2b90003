"""Shards of photographs from folders."""

import csv
import io
import os
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from ulcodec.errors import TrainingError
from ulcodec.train.data import photographs, shard_files
from ulcodec.train.data.loading import load_pictures
from ulcodec.train.data.photographs import ShardSettings, build_shards
from ulcodec.train.data.shard_files import Row


def crops(name: str) -> list[np.ndarray]:
    """Cut a photograph into quarters, which are pictures of their own."""
    pixels = getattr(data, name)()
    height, width = (side // 2 for side in pixels.shape[:2])
    return [pixels[top:, left:][:height, :width] for top in (0, height) for left in (0, width)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight photographs of 200 to 300 pixels, a mirrored JPEG file of one of them, and files that cannot be used."""
    directory = tmp_path / "photographs"
    (directory / "deep").mkdir(parents=True)
    for number, pixels in enumerate([*crops("astronaut"), *crops("coffee")]):
        Image.fromarray(pixels).save(directory / "deep" / f"{number}.png")
    Image.fromarray(crops("coffee")[1][:, ::-1]).save(directory / "mirrored.jpg", quality=98, subsampling=0)
    Image.fromarray(crops("coffee")[2][:90]).save(directory / "small.png")
    Image.new("RGBA", (300, 300), (9, 9, 9, 99)).save(directory / "transparent.png")
    (directory / "broken.jpg").write_bytes(b"no picture")
    (directory / "notes.txt").write_text("text")
    (directory / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(directory / "pipe.png")
    return directory


@pytest.fixture
def settings(folder: Path, tmp_path: Path) -> ShardSettings:
    return ShardSettings((folder,), tmp_path / "shards", shortest_side_px=100)


def rows_of(out: Path) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = []
    for table in sorted(out.glob("*.csv")):
        with table.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            rows += csv.DictReader(file)
    return rows


def pictures_in(out: Path) -> dict[str, np.ndarray]:
    """Read the pictures of all shards, by the files that they come from."""
    members = {}
    for shard in sorted(out.glob("*.tar")):
        with tarfile.open(shard) as opened:
            for member in opened:
                picture = Image.open(io.BytesIO(opened.extractfile(member).read()))
                members[member.name] = np.asarray(picture.convert("RGB"))
    return {row["file"]: members.pop(row["member"]) for row in rows_of(out) if row["member"]} | members


def test_folder_becomes_a_shard_that_training_reads(settings: ShardSettings, folder: Path) -> None:
    built = build_shards(settings)
    assert (built.n_shards, built.n_pictures) == (1, 8)
    assert built.left_out == {"near-duplicate": 1, "too small": 1, "transparent": 1, "unreadable": 2}
    assert sorted(file.name for file in settings.out.iterdir()) == ["photos-00000.csv", "photos-00000.tar"]
    [duplicate] = [row for row in rows_of(settings.out) if row["left_out"] == "near-duplicate"]
    assert {Path(duplicate["file"]).name, Path(duplicate["near"]).name} == {"mirrored.jpg", "5.png"}
    pictures = pictures_in(settings.out)
    assert len(pictures) == 8
    for file, pixels in pictures.items():
        if Path(file).suffix == ".png":
            original = np.asarray(Image.open(file))
            assert pixels.shape == original.shape
            assert np.sqrt(np.mean((pixels.astype(float) - original) ** 2)) < 4
    training, held_out = load_pictures([settings.out], min_side_px=100, validation_share=0.25)
    assert len(training) + len(held_out) == 8


def test_photographs_are_reduced(settings: ShardSettings, folder: Path) -> None:
    Image.fromarray(data.rocket()).save(folder / "rocket.png")  # 640 x 427
    Image.fromarray(data.chelsea()).save(folder / "chelsea.jpg", quality=90)  # 451 x 300, halved chroma
    build_shards(replace(settings, longest_side_px=320))
    shapes = {Path(file).name: pixels.shape[:2] for file, pixels in pictures_in(settings.out).items()}
    assert shapes["rocket.png"] == (214, 320)
    assert shapes["chelsea.jpg"] == (150, 226)
    assert shapes["0.png"] == (256, 256)
    reductions = {Path(row["file"]).name: row["reduction"] for row in rows_of(settings.out)}
    assert (reductions["rocket.png"], reductions["chelsea.jpg"], reductions["0.png"]) == ("2.0", "2.0", "1.0")
    build_shards(replace(settings, out=settings.out.with_name("halves"), least_reduction=2.0))
    assert pictures_in(settings.out.with_name("halves"))[str(folder / "deep" / "0.png")].shape == (128, 128, 3)


def test_folder_of_shards_grows(settings: ShardSettings, folder: Path, tmp_path: Path) -> None:
    build_shards(settings)
    before = {file: file.read_bytes() for file in settings.out.iterdir()}
    assert build_shards(settings)[:2] == (0, 0)
    more = tmp_path / "more"
    more.mkdir()
    Image.fromarray(data.rocket()).save(more / "rocket.png")
    Image.fromarray(crops("astronaut")[3]).rotate(90).save(more / "turned.png")
    built = build_shards(replace(settings, folders=(folder, more)))
    assert (built.n_shards, built.n_pictures, built.left_out["near-duplicate"]) == (1, 1, 1)
    assert before.items() <= {file: file.read_bytes() for file in settings.out.iterdir()}.items()
    assert str(more / "rocket.png") in pictures_in(settings.out)


def test_excluded_pictures_are_left_out(settings: ShardSettings, tmp_path: Path) -> None:
    excluded = tmp_path / "tests"
    excluded.mkdir()
    half = Image.fromarray(crops("astronaut")[0]).reduce(2)
    half.putalpha(200)
    half.save(excluded / "half.png")
    (excluded / "broken.png").write_bytes(b"")
    built = build_shards(replace(settings, exclude=(excluded,)))
    assert (built.n_pictures, built.left_out["near-duplicate"]) == (7, 2)
    assert (built.n_compared, built.n_unreadable, built.n_older) == (1, 1, 0)
    assert str(excluded / "half.png") in {row["near"] for row in rows_of(settings.out)}


def test_excluded_pictures_in_older_shards_are_counted(settings: ShardSettings, tmp_path: Path) -> None:
    build_shards(settings)
    excluded = tmp_path / "tests"
    excluded.mkdir()
    Image.fromarray(crops("astronaut")[0]).rotate(90).save(excluded / "turned.png")
    Image.fromarray(data.rocket()).save(excluded / "rocket.png")
    assert build_shards(replace(settings, exclude=(excluded,)))[3:] == (2, 0, 1)


def test_paths_that_name_one_folder_are_one(settings: ShardSettings, folder: Path) -> None:
    (folder.parent / "link").symlink_to(folder)
    several = replace(settings, folders=(folder, folder / "deep", folder / "deep" / "..", folder.parent / "link"))
    built = build_shards(several)
    assert (built.n_pictures, built.left_out["near-duplicate"]) == (8, 1)


def test_unreadable_files_are_read_the_next_time(settings: ShardSettings, folder: Path) -> None:
    build_shards(settings)
    Image.fromarray(data.rocket()).save(folder / "broken.jpg", quality=100, subsampling=0)
    assert build_shards(settings).n_pictures == 1


@pytest.mark.skipif(sys.platform != "linux", reason="needs a system with names of any bytes")
def test_names_of_any_bytes_are_kept(settings: ShardSettings, folder: Path) -> None:
    directory = os.fsencode(folder) + b"/\xff, \"'\n"
    os.mkdir(directory)
    with open(directory + b"/\xfe.png", "wb") as file:
        Image.fromarray(data.rocket()).save(file, "PNG")
    assert build_shards(settings).n_pictures == 9
    assert build_shards(settings).n_pictures == 0


def test_nothing_is_replaced(
    settings: ShardSettings, monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    """A run that finds a shard of another run at its name stops, and both keep their pictures."""
    more = tmp_path / "more"
    more.mkdir()
    Image.fromarray(data.rocket()).save(more / "rocket.png")
    compress = photographs.avif

    def while_another_run_ends(*arguments: object) -> bytes | None:
        monkeypatch.setattr(photographs, "avif", compress)
        build_shards(replace(settings, folders=(more,)))
        return compress(*arguments)

    monkeypatch.setattr(photographs, "avif", while_another_run_ends)
    with pytest.raises(TrainingError, match="another run has written"):
        build_shards(settings)
    assert set(pictures_in(settings.out)) == {str(more / "rocket.png")}
    assert build_shards(settings).n_pictures == 8
    assert sorted(file.name for file in settings.out.iterdir()) == [
        f"photos-0000{number}.{kind}" for number in (0, 1) for kind in ("csv", "tar")
    ]


def test_run_killed_between_table_and_shard_goes_on(settings: ShardSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        write_table = shard_files.write_table

        def write_and_die(path: Path, rows: list[Row]) -> None:
            write_table(path, rows)
            raise KeyboardInterrupt

        patch.setattr(shard_files, "write_table", write_and_die)
        with pytest.raises(KeyboardInterrupt):
            build_shards(settings)
    assert [file.name for file in settings.out.iterdir()] == ["photos-00000.csv"]
    assert build_shards(settings)[:2] == (1, 8)
    assert len(pictures_in(settings.out)) == 8


def test_missing_shard_is_built_again(settings: ShardSettings) -> None:
    build_shards(settings)
    (settings.out / "photos-00000.tar").unlink()
    assert build_shards(settings)[:2] == (1, 8)


def test_interrupted_run_goes_on(settings: ShardSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards that were finished stay, an unfinished one is removed, and in the end the same pictures are there."""
    monkeypatch.setattr(photographs, "CHUNK", 1)
    monkeypatch.setattr(photographs, "MEGABYTE", 1000)
    small = replace(settings, shard_mb=70)
    unbroken = replace(small, out=small.out.with_name("unbroken"))
    build_shards(unbroken)
    files = {file.name: file.read_bytes() for file in unbroken.out.iterdir()}
    assert len(files) > 4
    assert all(len(content) <= 70_000 for content in files.values())
    compress = photographs.avif

    def interrupted(*arguments: object) -> bytes | None:
        """Fail once the first shard is finished, and the second begun."""
        if list(small.out.glob("*.tar")):
            raise KeyboardInterrupt
        return compress(*arguments)

    monkeypatch.setattr(photographs, "avif", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build_shards(small)
    finished = {file.name: file.read_bytes() for file in small.out.iterdir()}
    assert sorted(finished) == ["photos-00000.csv", "photos-00000.tar"]
    assert finished.items() <= files.items()
    monkeypatch.setattr(photographs, "avif", compress)
    build_shards(small)
    assert pictures_in(small.out).keys() == pictures_in(unbroken.out).keys()


def test_order_depends_on_the_seed(settings: ShardSettings) -> None:
    orders = []
    for number, seed in enumerate((0, 0, 1)):
        out = settings.out.with_name(f"shards-{number}")
        build_shards(replace(settings, out=out, seed=seed))
        orders.append([row["file"] for row in rows_of(out)])
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folders": (Path("nowhere"),)}, "nowhere is not a folder of photographs"),
        ({"longest_side_px": 90}, "the longest side must be a whole number from 100 to 16384, got 90"),
        ({"least_reduction": 0.0}, "the least reduction must be a number above 0 and at most 8, got 0.0"),
        ({"quality": 101}, "the quality must be a whole number from 0 to 100, got 101"),
        ({"shard_mb": 0}, "the size of a shard in megabytes must be a whole number from 1 to 1000000, got 0"),
        ({"exclude": (Path("nowhere.tar"),)}, "cannot read training data nowhere.tar"),
    ],
)
def test_invalid_settings_are_refused(settings: ShardSettings, changes: dict[str, object], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        build_shards(replace(settings, **changes))
    assert not settings.out.exists() or not list(settings.out.iterdir())


def test_empty_folders_are_refused(settings: ShardSettings, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingError, match=r"found no photographs in .*empty"):
        build_shards(replace(settings, folders=(tmp_path / "empty",)))
    assert not settings.out.exists()
    with pytest.raises(TrainingError, match=r"no pictures to exclude in .*empty"):
        build_shards(replace(settings, exclude=(tmp_path / "empty",)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "has no table beside it"),
        ("", "the file is empty"),
        ("file,other\na,b\n", "cannot read the table"),
        ("file,member,hash\na,b,12\n", "a hash has 256 bits, got 8"),
        ("file,member,hash\na,b,xy\n", "cannot read the table"),
        ("file,member\0,hash\na", "cannot read the table"),
    ],
)
@pytest.mark.parametrize("number", [0, 7])
def test_folders_that_do_not_fit_are_refused(
    settings: ShardSettings, number: int, text: str | None, message: str
) -> None:
    settings.out.mkdir()
    contents = {f"photos-0000{number}.tar": "precious"} | ({} if text is None else {f"photos-0000{number}.csv": text})
    for name, content in contents.items():
        (settings.out / name).write_text(content)
    with pytest.raises(TrainingError, match=message):
        build_shards(settings)
    assert {file.name: file.read_text() for file in settings.out.iterdir()} == contents
