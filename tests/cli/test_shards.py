"""`ulcodec encode` and `ulcodec decode` of tar shards."""

import gzip
import io
import json
import lzma
import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from uuid import uuid4

import fsspec
import numpy as np
import pytest
from command_line import Run, assert_refused, file_names
from PIL import Image

from ulcodec.codec.image import Codec, encode_batch
from ulcodec.format.container import read_head
from ulcodec_cli import shards
from ulcodec_cli.work import WINDOW_PIXELS

Files = list[tuple[str, bytes]]
"""Names and contents of a shard's members."""


def noise(seed: int, width: int = 30, height: int = 20) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(seed: int, width: int = 30, height: int = 20) -> bytes:
    file = io.BytesIO()
    Image.fromarray(noise(seed, width, height)).save(file, "PNG")
    return file.getvalue()


def tar_of(files: Iterable[tuple[str, bytes]], **options: object) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as shard:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime = len(data), 0o640, 1_700_000_000
            shard.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def files_in(shard: Path | bytes) -> Files:
    data = shard.read_bytes() if isinstance(shard, Path) else shard
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as opened:
        return [(info.name, opened.extractfile(info).read()) for info in opened]


def samples(count: int, first: int = 0, extension: str = "png") -> Files:
    """Samples of a picture, a label and a mask."""
    files: Files = []
    for number in range(first, first + count):
        key = f"./part.1/{number:04d}"
        files += [(f"{key}.cls", b"%d" % number), (f"{key}.{extension}", png(number)), (f"{key}.seg.png", png(1, 3, 3))]
    return files


@pytest.fixture
def encode(tiny_model_dir: Path, tmp_path: Path) -> tuple[object, ...]:
    """A command that encodes a.tar in the folder of the test to out/."""
    return ("encode", tmp_path / "a.tar", "-o", f"{tmp_path}/out/", "--model", tiny_model_dir)


def test_pictures_of_a_shard_are_encoded_and_all_else_is_kept(
    encode: tuple[object, ...], run: Run, tmp_path: Path, tiny_codec: Codec
) -> None:
    files = samples(3)
    (tmp_path / "a.tar").write_bytes(tar_of(files))
    finished = run(*encode, "-q", 30)
    warning = "ulcodec: warning: pictures in shards left as they are: seg.png; see --members\n"
    assert (finished.code, finished.stderr) == (0, warning)
    assert finished.stdout.startswith("1 done (3 pictures), 0 up to date, 0 failed; ")
    coded = encode_batch(tiny_codec, [noise(number) for number in range(3)], quality=30)
    expected = [
        (f"{name[:-4]}.ulc", coded.pop(0)) if re.fullmatch(r".*/\d{4}\.png", name) else (name, data)
        for name, data in files
    ]
    assert files_in(tmp_path / "out" / "a.tar") == expected
    with tarfile.open(tmp_path / "out" / "a.tar") as shard:
        assert {(info.mode, info.mtime) for info in shard} == {(0o640, 1_700_000_000)}
    assert run(*encode, "-q", 30).stdout.startswith("0 done, 1 up to date, 0 failed; ")
    assert run(*encode, "-q", 90).stdout.startswith("1 done (3 pictures), ")


def test_shard_is_decoded_to_pictures(encode: tuple[object, ...], run: Run, tmp_path: Path, tiny_codec: Codec) -> None:
    (tmp_path / "a.tar").write_bytes(
        tar_of([*samples(2), ("b.left.ulc", tiny_codec.encode(np.zeros((9, 8), np.uint8)))])
    )
    assert run(*encode).code == 0
    decode = ("decode", tmp_path / "out" / "a.tar", *encode[-2:])
    assert run(*decode, "-o", tmp_path / "b.tar").stdout.startswith("1 done (3 pictures), ")
    back = dict(files_in(tmp_path / "b.tar"))
    assert list(back) == [name for name, _ in [*samples(2), ("b.left.png", b"")]]
    coded = dict(files_in(tmp_path / "out" / "a.tar"))
    for name in ("./part.1/0001", "b.left"):
        decoded = tiny_codec.decode(coded[f"{name}.ulc"])
        assert np.array_equal(Image.open(io.BytesIO(back[f"{name}.png"])), decoded)
    assert run(*decode, "-o", tmp_path / "c.tar", "--format", "jpg").code == 0
    assert files_in(tmp_path / "c.tar")[-1][0] == "b.left.jpg"


def test_sample_that_fails_is_left_out_and_listed_by_every_run(
    encode: tuple[object, ...], run: Run, tmp_path: Path
) -> None:
    files = samples(3)
    files[4] = (files[4][0], b"not a picture")
    (tmp_path / "a.tar").write_bytes(tar_of(files))
    url = f"tar://./part.1/0001.png::{tmp_path}/a.tar"
    for start in ("1 done (2 pictures), 0 up to date, 1 failed", "0 done, 1 up to date, 1 failed"):
        finished = run(*encode, "--errors", tmp_path / "errors.jsonl")
        assert (finished.code, finished.stdout[: len(start)]) == (1, start)
        assert finished.stderr.startswith(f"ulcodec: error: {url}: not a picture in a known format\n")
        [row] = map(json.loads, (tmp_path / "errors.jsonl").read_text().splitlines())
        assert (row["input"], row["reason"]) == (url, "not a picture in a known format")
    names = [name for name, _ in files_in(tmp_path / "out" / "a.tar")]
    assert names == [
        name.replace("0.png", "0.ulc").replace("2.png", "2.ulc") for name, _ in files if "0001" not in name
    ]
    assert run("encode", url, "-o", tmp_path / "b.ulc", *encode[-2:]).code == 2
    good = url.replace("0001", "0002")
    assert run("encode", good, "-o", tmp_path / "b.ulc", *encode[-2:]).code == 0


def test_other_pictures_of_a_failed_sample_do_not_count(encode: tuple[object, ...], run: Run, tmp_path: Path) -> None:
    files = [("1.left.png", png(1)), ("1.right.png", b"broken"), ("2.left.png", png(2)), ("2.right.png", png(3))]
    (tmp_path / "a.tar").write_bytes(tar_of(files))
    finished = run(*encode, "--members", "left.png,right.png", "--manifest", tmp_path / "m.jsonl")
    assert finished.stdout.startswith("1 done (2 pictures), 0 up to date, 1 failed")
    row = json.loads((tmp_path / "m.jsonl").read_text())
    coded = dict(files_in(tmp_path / "out" / "a.tar"))
    assert list(coded) == ["2.left.ulc", "2.right.ulc"]
    assert (row["pictures"], row["bits_per_pixel"]) == (2, 8 * sum(map(len, coded.values())) / 1200)


def test_record_that_was_damaged_is_no_reason_to_fail(encode: tuple[object, ...], run: Run, tmp_path: Path) -> None:
    files = samples(2)
    files[1] = (files[1][0], b"not a picture")
    (tmp_path / "a.tar").write_bytes(tar_of(files))
    assert run(*encode).code == 1
    record = tmp_path / "out" / ".ulcodec.jsonl"
    text = record.read_text()
    assert '"failed": [[' in text
    for damaged in ('"failed": 7, "x": [[', '"failed": [3, [["x"], 1], [', '"failed": null, "x": [['):
        record.write_text(text.replace('"failed": [[', damaged))
        assert "1 up to date" in run(*encode).stdout


def test_members_are_chosen_by_extension(encode: tuple[object, ...], run: Run, tmp_path: Path) -> None:
    files = [("1.JPG", png(9)), ("1.mask.png", png(1)), ("2.x.left.png", png(2)), ("2.png", png(3)), ("2.jpg", png(4))]
    (tmp_path / "a.tar").write_bytes(tar_of(files))
    finished = run(*encode)
    reason = "2 has several pictures (png, jpg): choose with --members, as --members png"
    assert (finished.code, finished.stderr) == (1, f"ulcodec: error: {tmp_path}/a.tar: {reason}\n")
    assert file_names(tmp_path / "out") == {".ulcodec.jsonl"}
    assert run(*encode, "--members", "jpg, .X.left.png").stdout.startswith("1 done (3 pictures), ")
    names = [name for name, _ in files_in(tmp_path / "out" / "a.tar")]
    assert names == ["1.ulc", "1.mask.png", "2.x.left.ulc", "2.png", "2.ulc"]
    finished = run(*encode, "--members", "png,jpg")
    assert (finished.code, "two files of the new shard would be named 2.ulc" in finished.stderr) == (1, True)
    assert [name for name, _ in files_in(tmp_path / "out" / "a.tar")] == names
    finished = run(*encode, "--members", "webp")
    assert "no pictures to work on in this shard; --members says which files are pictures" in finished.stderr
    finished = run(*encode, "--members", "png,,jpg")
    assert (finished.code, "--members names extensions" in finished.stderr) == (2, True)


@pytest.mark.parametrize("options", [{"format": tarfile.USTAR_FORMAT}, {"format": tarfile.GNU_FORMAT}, {}])
def test_long_names_and_files_without_a_key_are_kept(
    encode: tuple[object, ...], run: Run, tmp_path: Path, options: dict[str, object]
) -> None:
    long = f"{'d' * 90}/" * (1 if options.get("format") == tarfile.USTAR_FORMAT else 3)
    files = [("README", b"text"), (f"{long}a.png", png(5)), (f"{long}.hidden", b""), (".png", png(1))]
    (tmp_path / "a.tar").write_bytes(tar_of(files, **options))
    assert run(*encode).code == 0
    assert [name for name, _ in files_in(tmp_path / "out" / "a.tar")] == [
        "README",
        f"{long}a.ulc",
        f"{long}.hidden",
        ".png",
    ]


def test_names_and_sizes_in_extended_headers_are_those_of_the_results(
    encode: tuple[object, ...], run: Run, tmp_path: Path
) -> None:
    """A copied header would keep the old ones, which come first."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as shard:
        info = tarfile.TarInfo("é.png")
        info.size, info.mtime = len(png(3)), 1_700_000_000.25
        info.pax_headers = {"path": "é.png", "size": str(info.size), "comment": "kept by nobody"}
        shard.addfile(info, io.BytesIO(png(3)))
    (tmp_path / "a.tar").write_bytes(buffer.getvalue())
    assert run(*encode).code == 0
    [(name, data)] = files_in(tmp_path / "out" / "a.tar")
    assert (name, read_head(data).header.width) == ("é.ulc", 30)


def test_links_fail_and_folders_are_left_out(encode: tuple[object, ...], run: Run, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "1.png").write_bytes(png(1))
    (tmp_path / "d" / "2.png").symlink_to("1.png")
    (tmp_path / "d" / "3.png").hardlink_to(tmp_path / "d" / "1.png")
    with tarfile.open(tmp_path / "a.tar", "w") as shard:
        shard.add(tmp_path / "d", "d", recursive=False)
        for number in (1, 2, 3):
            shard.add(tmp_path / "d" / f"{number}.png", f"d/{number}.png")
    finished = run(*encode)
    assert finished.code == 1
    assert finished.stdout.startswith("1 done, 0 up to date, 2 failed; ")
    assert finished.stderr.count("is a link or a device, not a file") == 2
    assert [name for name, _ in files_in(tmp_path / "out" / "a.tar")] == ["d/1.ulc"]


def damaged_shards() -> dict[str, bytes]:
    whole = tar_of(samples(4))
    small = tar_of(samples(1))
    second = whole.index(b"./part.1/0001.cls")
    flipped = bytearray(whole)
    flipped[second + 3] ^= 1
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    return {
        "header": bytes(flipped),
        "cut in a header": whole[: second + 200],
        "cut in data": whole[: whole.index(b"./part.1/0001.png") + 700],
        "cut behind a member": whole[:second],
        "no end": whole[:end],
        "zeros": whole[:second] + bytes(512) + whole[second + 512 :],
        "zeros in a small shard": small[:1024] + bytes(512) + small[1536:],
        "two archives": whole + whole,
        "no tar": b"not a tar archive" * 100,
        "empty": b"",
        "gzip cut": gzip.compress(whole)[:-600],
        "gzip without its end": gzip.compress(whole)[:-8],
        "gzip with another checksum": gzip.compress(whole)[:-8] + bytes(4) + gzip.compress(whole)[-4:],
        "bytes behind gzip": gzip.compress(whole) + b"more",
        "xz": lzma.compress(whole)[:-50],
    }


@pytest.mark.parametrize("damage", sorted(damaged_shards()))
def test_damaged_shard_gives_an_error_and_no_result(
    encode: tuple[object, ...], run: Run, tmp_path: Path, damage: str
) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of(samples(4)))
    assert run(*encode).code == 0
    before = (tmp_path / "out" / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(damaged_shards()[damage])
    finished = run(*encode)
    assert (finished.code, finished.stderr.count("\n")) == (1, 1)
    assert finished.stderr.startswith(f"ulcodec: error: {tmp_path}/a.tar: a damaged tar archive: ")
    assert file_names(tmp_path / "out") == {"a.tar", ".ulcodec.jsonl"}
    assert (tmp_path / "out" / "a.tar").read_bytes() == before


def test_compressed_shard_and_large_windows(encode: tuple[object, ...], run: Run, tmp_path: Path) -> None:
    """Pictures of more than a window are written in their order."""
    side = int((WINDOW_PIXELS / 3) ** 0.5)
    large = [(f"{number}.png", png(number, side, side)) for number in range(5)]
    large[2] = ("2.png", b"broken")
    files = [("first.txt", b"1"), *large, ("last.txt", b"2")]
    whole = tar_of(files)
    (tmp_path / "a.tar").write_bytes(gzip.compress(whole[:999]) + gzip.compress(whole[999:]))  # as two files in one
    finished = run(*encode, "-q", 5)
    assert (finished.code, finished.stdout.startswith("1 done (4 pictures), 0 up to date, 1 failed")) == (1, True)
    names = [name for name, _ in files_in(tmp_path / "out" / "a.tar")]
    assert names == ["first.txt", "0.ulc", "1.ulc", "3.ulc", "4.ulc", "last.txt"]


def test_large_shard_is_worked_on_in_portions(
    encode: tuple[object, ...], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not more is in memory than one portion, also of small pictures with large files beside them."""
    monkeypatch.setattr(shards, "PORTION_BYTES", 50_000)
    largest = 0
    pairs = shards.Recoding.pairs

    def noted(self: shards.Recoding, samples: object) -> Iterator[shards.Pair]:
        nonlocal largest
        for pair in pairs(self, samples):
            largest = max(largest, sum(len(m.data) for sample in self.waiting for m in sample.members))
            yield pair

    monkeypatch.setattr(shards.Recoding, "pairs", noted)
    files = [file for number in range(40) for file in ((f"{number}.bin", bytes(9000)), (f"{number}.png", png(number)))]
    (tmp_path / "a.tar").write_bytes(tar_of([*files, *((f"x{number}.bin", bytes(9000)) for number in range(40))]))
    assert run(*encode).code == 0
    assert 50_000 <= largest < 70_000
    names = [name for name, _ in files_in(tmp_path / "out" / "a.tar")]
    assert names == [name.replace("png", "ulc") for name, _ in files] + [f"x{number}.bin" for number in range(40)]


@pytest.mark.parametrize("second", ["1.png", "1.jpg", "1.ulc", "2.txt"])
@pytest.mark.parametrize("portion_bytes", [1, 2**25])
def test_names_of_a_shard_are_distinct(
    encode: tuple[object, ...],
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    second: str,
    portion_bytes: int,
) -> None:
    monkeypatch.setattr(shards, "PORTION_BYTES", portion_bytes)
    files = [("1.jpg", png(1)), ("2.jpg", png(2)), ("2.txt", b""), ("3.jpg", png(3)), (second, png(1))]
    (tmp_path / "a.tar").write_bytes(tar_of(files))
    finished = run(*encode)
    name = "2.txt" if second == "2.txt" else "1.ulc"
    reason = f"two files of the new shard would be named {name}"
    assert (finished.code, finished.stderr) == (1, f"ulcodec: error: {tmp_path}/a.tar: {reason}\n")
    assert file_names(tmp_path / "out") == {".ulcodec.jsonl"}


def test_shard_of_which_nothing_is_left_fails(encode: tuple[object, ...], run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of([("1\n\x1b.jpg", b"broken"), ("2.jpg", b""), ("3.txt", b"3")]))
    finished = run(*encode)
    [line] = finished.stderr.splitlines()
    assert line.startswith(f"ulcodec: error: {tmp_path}/a.tar: no picture is left, 2 failed, the first at tar://1")
    assert finished.code == 1
    (tmp_path / "a.tar").write_bytes(tar_of([("1\n\x1b.jpg", b"broken"), ("2.jpg", png(2))]))
    finished = run(*encode)
    reason = "not a picture in a known format"
    assert finished.stderr == f"ulcodec: error: tar://1\\n\\x1b.jpg::{tmp_path}/a.tar: {reason}\n"


def test_shards_of_a_store_in_several_processes(tiny_model_dir: Path, run: Run, tmp_path: Path) -> None:
    model = ("--model", tiny_model_dir)
    memory, url = fsspec.filesystem("memory"), f"memory://{uuid4().hex}"
    for number in range(3):
        data = tar_of(samples(2, 2 * number))
        memory.pipe_file(f"{url}/in/train-{number}.tar", data)
        (tmp_path / f"train-{number}.tar").write_bytes(data)
    memory.pipe_file(f"{url}/in/notes.png", png(1))
    finished = run("encode", f"{url}/in/train-*.tar", "-o", f"{url}/out/", "--manifest", tmp_path / "m.jsonl", *model)
    assert (finished.code, finished.stderr.count("\n")) == (0, 1)
    assert finished.stdout.startswith("3 done (6 pictures), ")
    assert memory.ls(f"{url}/out", detail=False)[1:] == [f"/{url[9:]}/out/train-{number}.tar" for number in range(3)]
    here = [tmp_path / f"train-{number}.tar" for number in range(3)]
    finished = run(
        "encode", *here, "-o", f"{tmp_path}/out/", "--jobs", 2, "--psnr", "--manifest", tmp_path / "n.jsonl", *model
    )
    assert (finished.code, finished.stderr.count("\n")) == (0, 1)
    rows = [json.loads(line) for line in (tmp_path / "n.jsonl").read_text().splitlines()]
    assert [(row["pictures"], row["width"]) for row in rows] == [(2, None)] * 3
    assert all(0 < row["bits_per_pixel"] < 8 and 5 < row["psnr_db"] < 99 for row in rows)
    for number in range(3):
        elsewhere = memory.cat_file(f"{url}/out/train-{number}.tar")
        assert files_in(elsewhere) == files_in(tmp_path / "out" / f"train-{number}.tar")
    assert run("encode", *here, "-o", f"{tmp_path}/out/", "--psnr", *model).stdout.startswith("0 done, 3 up to date")


def test_shard_needs_another_place_and_is_not_found_in_folders(
    encode: tuple[object, ...], run: Run, tmp_path: Path
) -> None:
    model = encode[-2:]
    (tmp_path / "a.tar").write_bytes(tar_of(samples(1)))
    assert_refused(run("encode", tmp_path / "a.tar", *model), "input and output are the same file")
    assert_refused(
        run("encode", tmp_path / "a.tar", "-o", f"{tmp_path}/", *model), "input and output are the same file"
    )
    (tmp_path / "c.tar").write_bytes(tar_of(samples(1)))
    finished = run("encode", tmp_path / "a.tar", tmp_path / "c.tar", *model)
    assert finished.code == 1
    assert finished.stderr.count(": input and output are the same file\n") == 2
    assert_refused(run("encode", tmp_path, *model), "nothing to do in this folder")
    assert_refused(run("encode", "tar://x::y", "-o", tmp_path / "b.tar", *model))
    assert_refused(run(*encode[:2], tmp_path / "c.tar", "-o", tmp_path / "b.tar", *model), "names a file")
    for name in ("-", tmp_path / "b.ulc", tmp_path / "b.tar.gz", tmp_path / "b"):
        assert_refused(run("encode", tmp_path / "a.tar", "-o", name, *model), "a shard goes to a folder")
    (tmp_path / "b.tar").write_bytes(b"somebody else's")
    finished = run("encode", tmp_path / "a.tar", "-o", tmp_path / "b.tar", *model)
    assert (finished.code, "exists already; --force overwrites it" in finished.stderr) == (1, True)
    assert (tmp_path / "b.tar").read_bytes() == b"somebody else's"


def test_animations_and_sequences_in_shards_fail(
    encode: tuple[object, ...], run: Run, tmp_path: Path, tiny_codec: Codec
) -> None:
    gif, frames = io.BytesIO(), [Image.new("L", (9, 9), level) for level in (0, 200)]
    frames[0].save(gif, "GIF", save_all=True, append_images=frames[1:])
    clip = b"".join(tiny_codec.encode_video([np.zeros((9, 9), np.uint8)] * 2, gop=1))
    (tmp_path / "a.tar").write_bytes(tar_of([("1.gif", gif.getvalue()), ("2.png", png(2)), ("3.ulc", clip)]))
    finished = run(*encode)
    assert (finished.code, finished.stderr.count("a video in a shard or at a URL is not encoded")) == (1, 1)
    assert [name for name, _ in files_in(tmp_path / "out" / "a.tar")] == ["2.ulc", "3.ulc"]
    finished = run("decode", tmp_path / "out" / "a.tar", "-o", tmp_path / "b.tar", *encode[-2:])
    assert (finished.code, finished.stderr.count("a video in a shard or at a URL is not decoded")) == (1, 1)
    assert [name for name, _ in files_in(tmp_path / "b.tar")] == ["2.png"]
