"""`ulcodec encode` and `ulcodec decode` of several files and folders."""

import dataclasses
import errno
import json
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from command_line import Run, assert_refused, files_under
from PIL import Image

from ulcodec.format.container import Container
from ulcodec.io.picture import Picture
from ulcodec_cli import encode
from ulcodec_cli.common import write_file

RECORDS = {".ulcodec.jsonl", "inner/.ulcodec.jsonl"}


def test_folder_is_encoded_and_decoded(album: Path, tiny_model_dir: Path, run: Run, tmp_path: Path) -> None:
    out, back = tmp_path / "out", tmp_path / "back"
    encode = ("encode", album, "-r", "-o", out, "--model", tiny_model_dir)
    finished = run(*encode)
    assert finished.code == 0
    assert finished.stdout.startswith("3 done, 0 up to date, 0 failed; ")
    assert files_under(out) == {"a.ulc", "b.ulc", "inner/c.ulc"} | RECORDS
    again = run(*encode, "--json").json
    assert (again["n_done"], again["n_up_to_date"]) == (0, 3)
    assert run(*encode, "--force", "--json").json["n_done"] == 3
    decoded = run("decode", out, "-o", back, "--format", "jpg", "--model", tiny_model_dir, "--json")
    assert files_under(back) == {"a.jpg", "b.jpg", ".ulcodec.jsonl"}
    assert [json.loads(line)["width"] for line in decoded.stdout.splitlines()[:-1]] == [30, 30]
    summary = decoded.json
    assert summary["output_bytes"] == sum(file.stat().st_size for file in back.glob("*.jpg"))


def test_errors_are_listed_at_the_end_of_a_batch(album: Path, tiny_model_dir: Path, run: Run) -> None:
    (album / "bad.png").write_bytes(b"not a picture")
    (album / "b.ulc").write_bytes(b"precious")
    os.utime(album / "b.ulc", (0, 0))
    finished = run("encode", album, album / "missing.png", "--model", tiny_model_dir)
    assert finished.code == 1
    assert finished.stdout.startswith("1 done, 0 up to date, 3 failed")
    lines = [line for line in finished.stderr.splitlines() if line]
    assert len(lines) == 3
    assert lines[0].startswith(f"ulcodec: error: {album / 'b.jpg'}: {album / 'b.ulc'}: exists already; --force")
    assert lines[1] == f"ulcodec: error: {album / 'bad.png'}: not a picture in a known format"
    assert lines[2] == f"ulcodec: error: {album / 'missing.png'}: No such file or directory"
    assert (album / "b.ulc").read_bytes() == b"precious"
    assert (album / "a.ulc").exists()


def test_one_bad_file_does_not_fail_the_others_of_its_batch(album: Path, tiny_model_dir: Path, run: Run) -> None:
    model = ("--model", tiny_model_dir)
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(noise).save(album / "b.jpg")  # noise is too large to be stored lossless, so it has a symbol check
    assert run("encode", album, "-r", *model).code == 0
    bad = album / "b.ulc"
    container = Container.from_bytes(bad.read_bytes())
    bad.write_bytes(dataclasses.replace(container, symbol_check=(container.symbol_check or 0) ^ 1).to_bytes())
    finished = run("decode", album, "-r", "-o", album / "back", *model)
    assert finished.code == 1
    assert finished.stdout.startswith("2 done, 0 up to date, 1 failed")
    assert finished.stderr.splitlines()[-1].startswith(f"ulcodec: error: {bad}: the file is sound, but")
    assert files_under(album / "back") == {"a.png", "inner/c.png"} | RECORDS


def test_inputs_with_the_same_output_are_renamed_or_refused(
    album: Path, tiny_model_dir: Path, run: Run, tmp_path: Path
) -> None:
    Image.open(album / "b.jpg").save(album / "a.jpg")
    finished = run("encode", album, "-o", tmp_path / "out", "--model", tiny_model_dir)
    assert finished.code == 0
    assert files_under(tmp_path / "out") == {"a.png.ulc", "a.jpg.ulc", "b.ulc", ".ulcodec.jsonl"}
    (tmp_path / "other").mkdir()
    for name in ("a.png", "b.png"):
        Image.open(album / "b.jpg").save(tmp_path / "other" / name)
    inputs = [album / "a.png", tmp_path / "other" / "a.png", tmp_path / "other" / "b.png"]
    finished = run("encode", *inputs, "-o", tmp_path / "one", "--model", tiny_model_dir)
    assert finished.code == 1
    assert finished.stderr.count("would be written by more than one input") == 2
    assert files_under(tmp_path / "one") == {"b.ulc", ".ulcodec.jsonl"}
    twice = run("encode", album / "a.png", album / "a.png", "-o", tmp_path / "twice", "--model", tiny_model_dir)
    assert twice.stdout.startswith("1 done, 0 up to date, 0 failed")
    assert_refused(run("encode", album / "a.png", album / "b.jpg", "-o", album / "notes.txt"), "not a directory")
    assert_refused(run("encode", album / "a.png", album / "b.jpg", "-o", album / "c.ulc"), "into a folder")
    assert not (album / "c.ulc").exists()


def test_changed_sources_and_options_are_encoded_again(
    album: Path, tiny_model_dir: Path, run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    encode = ("encode", album, "-o", out, "--model", tiny_model_dir)
    assert run(*encode).code == 0
    before = {name: (out / name).read_bytes() for name in ("a.ulc", "b.ulc")}
    Image.new("RGB", (20, 10), (200, 0, 0)).save(album / "a.png")
    os.utime(album / "a.png", (10**9, 10**9))  # an older modification time than at the first encoding
    assert run(*encode).stdout.startswith("1 done, 1 up to date, 0 failed")
    assert (out / "a.ulc").read_bytes() != before["a.ulc"]
    assert (out / "b.ulc").read_bytes() == before["b.ulc"]
    assert run(*encode, "-q", 90).stdout.startswith("2 done, 0 up to date, 0 failed")
    assert run(*encode, "-q", 90).stdout.startswith("0 done, 2 up to date, 0 failed")
    (out / "a.ulc").write_bytes(b"another file")
    os.utime(out / "a.ulc", (1, 1))
    finished = run(*encode, "-q", 80)
    assert (finished.code, finished.stdout[:30]) == (1, "1 done, 0 up to date, 1 failed")
    assert "--force" in finished.stderr
    assert (out / "a.ulc").read_bytes() == b"another file"
    (out / ".ulcodec.jsonl").write_bytes(b"\xff not JSON\n{}\n[]\n")
    assert run(*encode, "-q", 80).stdout.startswith("0 done, 1 up to date, 1 failed")


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_unreadable_folder_is_reported(
    album: Path, tiny_model_dir: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk = os.walk

    def walk_without_inner(folder: Path, onerror: Callable[[OSError], None]) -> Iterator[object]:
        onerror(PermissionError(errno.EACCES, "Permission denied", str(album / "inner")))
        for directory, subfolders, names in walk(folder):
            yield directory, subfolders, names
            subfolders.clear()

    monkeypatch.setattr(os, "walk", walk_without_inner)
    finished = run("encode", album, "-r", "-o", tmp_path / "out", "--model", tiny_model_dir)
    assert (finished.code, finished.stdout[:30]) == (1, "2 done, 0 up to date, 1 failed")
    assert f"ulcodec: error: {album / 'inner'}: Permission denied" in finished.stderr


@pytest.mark.parametrize("error", [RuntimeError("can't allocate memory"), OverflowError("int too big"), ValueError()])
def test_unexpected_error_fails_only_its_file(
    album: Path, tiny_model_dir: Path, run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from ulcodec.codec import image

    encode_batch = image.encode_batch

    def encode_or_fail(codec: object, pictures: list[Picture], **options: object) -> list[bytes]:
        if any(picture.pixels.shape[0] == 21 for picture in pictures):
            raise error
        return encode_batch(codec, pictures, **options)

    monkeypatch.setattr(image, "encode_batch", encode_or_fail)
    Image.new("RGB", (30, 21)).save(album / "odd.png")
    finished = run("encode", album, "--model", tiny_model_dir, "--json")
    assert finished.code == 1
    lines = [json.loads(line) for line in finished.stdout.splitlines()]
    assert [line["error"] is None for line in lines[:-1]] == [True, True, False]
    assert lines[-2]["source"] == str(album / "odd.png")
    assert (lines[-1]["n_done"], lines[-1]["n_failed"]) == (2, 1)


def test_picture_too_small_for_a_rate_target_fails_alone(tmp_path: Path, tiny_model_dir: Path, run: Run) -> None:
    for name, side in (("1.png", 48), ("2.png", 1), ("3.png", 48)):
        Image.new("RGB", (side, side)).save(tmp_path / name)
    finished = run("encode", tmp_path, "--target-bpp", 2, "--model", tiny_model_dir)
    assert (finished.code, finished.stdout[:30]) == (1, "2 done, 0 up to date, 1 failed")
    assert "2.png: no file of 1 bytes" in finished.stderr


def test_warnings_of_a_batch_name_their_file(album: Path, tiny_model_dir: Path, run: Run) -> None:
    for name in ("x.tif", "y.tif"):
        Image.new("RGB", (16, 16)).save(album / name, save_all=True, append_images=[Image.new("RGB", (16, 16))])
    with warnings.catch_warnings():
        finished = run("encode", album, "--model", tiny_model_dir)
    for name in ("x.tif", "y.tif"):
        assert f"ulcodec: warning: {album / name}: only the first of 2 pictures" in finished.stderr


def test_source_of_the_same_name_does_not_overwrite(photo: Path, tiny_model_dir: Path, run: Run) -> None:
    folders = [photo.parent / name for name in ("x", "y")]
    for number, folder in enumerate(folders):
        folder.mkdir()
        Image.open(photo).rotate(90 * number).save(folder / "photo.png")
    out = photo.parent / "out"
    assert run("encode", folders[0], "-o", out, "--model", tiny_model_dir).code == 0
    before = (out / "photo.ulc").read_bytes()
    finished = run("encode", folders[1], "-o", out, "--model", tiny_model_dir)
    assert (finished.code, (out / "photo.ulc").read_bytes()) == (1, before)
    assert "exists already; --force" in finished.stderr
    assert run("encode", folders[0], "-o", out, "--model", tiny_model_dir, "-q", 90).code == 0
    assert (out / "photo.ulc").read_bytes() != before


def test_source_that_changes_during_encoding_is_encoded_again(
    photo: Path, tiny_model_dir: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = photo.parent / "d", photo.parent / "out"
    folder.mkdir()
    photo = photo.rename(folder / "photo.png")
    command = ("encode", folder, "-o", out, "--model", tiny_model_dir)

    def write_and_change(target: Path, data: bytes) -> None:
        write_file(target, data)
        Image.open(photo).rotate(90, expand=True).save(photo)

    with monkeypatch.context() as patch:
        patch.setattr(encode, "write_file", write_and_change)
        assert run(*command).code == 0
    before = (out / "photo.ulc").read_bytes()
    assert "1 done, 0 up to date" in run(*command).stdout
    assert (out / "photo.ulc").read_bytes() != before
