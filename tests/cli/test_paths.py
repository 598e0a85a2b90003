"""Inputs and outputs on the command line: files, folders, links and standard streams."""

import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
from command_line import Run, assert_refused, file_names
from PIL import Image

from ulcodec.io.pictures import load_image


def test_outputs_go_beside_the_inputs(photo: Path, tiny_model_dir: Path, run: Run) -> None:
    assert run("encode", photo, "--model", tiny_model_dir).code == 0
    photo.rename(photo.with_name("original.png"))
    assert run("decode", photo.with_suffix(".ulc"), "--model", tiny_model_dir).code == 0
    assert file_names(photo.parent) == {"original.png", "photo.ulc", "photo.png"}
    assert load_image(photo).pixels.shape == (37, 51, 3)


@pytest.mark.parametrize("command", ["encode", "decode"])
def test_output_equal_to_the_input_is_refused(photo: Path, run: Run, command: str) -> None:
    before = photo.read_bytes()
    link = photo.with_name("link")
    link.symlink_to(photo)
    for output in (photo, link):
        assert_refused(run(command, photo, "-o", output, "--force"), "same file")
    assert photo.read_bytes() == before


def test_output_in_a_missing_folder_or_of_unknown_extension_is_refused(photo: Path, run: Run) -> None:
    assert_refused(run("encode", photo, "-o", photo.parent / "none" / "a.ulc"), "no such directory", "none")
    assert_refused(run("decode", photo, "-o", photo.with_suffix(".unknown")), "extension")
    assert file_names(photo.parent) == {"photo.png"}


@pytest.mark.parametrize("command", ["encode", "decode", "info"])
def test_unusable_input_is_refused(run: Run, tmp_path: Path, command: str) -> None:
    (tmp_path / "text").write_text("not a picture, nor a .ulc file, but long enough for a header")
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    before = file_names(tmp_path)
    assert_refused(run(command, tmp_path / "none"), str(tmp_path / "none"), "No such file")
    assert_refused(run(command, tmp_path / "folder"), "folder", "director" if command == "info" else "nothing to do")
    assert_refused(run(command, tmp_path / "text"))
    assert_refused(run(command, tmp_path / "empty"))
    assert file_names(tmp_path) == before


def test_missing_output_folder_is_created(photo: Path, tiny_model_dir: Path, run: Run) -> None:
    out = f"{photo.parent / 'new'}/"
    assert run("encode", photo, "-o", out, "--model", tiny_model_dir).code == 0
    assert file_names(photo.parent / "new") == {"photo.ulc"}
    assert run("decode", photo.parent / "new" / "photo.ulc", "-o", out, "--model", tiny_model_dir).code == 0
    assert file_names(photo.parent / "new") == {"photo.ulc", "photo.png"}
    assert_refused(run("encode", photo.parent / "none.png", "-o", f"{photo.parent / 'other'}/"), "No such file")
    assert not (photo.parent / "other").exists()


def test_one_file_is_written_into_an_existing_folder(photo: Path, tiny_model_dir: Path, run: Run) -> None:
    (photo.parent / "out").mkdir()
    assert run("encode", photo, "-o", photo.parent / "out", "--model", tiny_model_dir).code == 0
    assert file_names(photo.parent / "out") == {"photo.ulc"}


def test_dash_reads_and_writes_standard_streams(photo: Path, coded: Path, tiny_model_dir: Path) -> None:
    def piped(*arguments: object, data: bytes) -> bytes:
        command = [sys.executable, "-m", "ulcodec_cli", *map(str, arguments), "--model", str(tiny_model_dir)]
        return subprocess.run(command, input=data, capture_output=True, check=True).stdout

    assert piped("encode", "-", data=photo.read_bytes()) == coded.read_bytes()
    image = Image.open(BytesIO(piped("decode", "-", "--format", "bmp", data=coded.read_bytes())))
    assert (image.format, image.size) == ("BMP", (51, 37))
    assert piped("encode", photo, "-o", "-", "--json", data=b"") == coded.read_bytes()


def test_file_names_that_are_not_unicode_are_escaped(photo: Path, tiny_model_dir: Path) -> None:
    path = photo.with_name("bad\udcff.png")
    photo.rename(path)
    command = [sys.executable, "-m", "ulcodec_cli"]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    encode = [*command, "encode", str(path), "--model", str(tiny_model_dir)]
    finished = subprocess.run(encode, capture_output=True, env=environment, check=True)
    assert b"\\udcff.ulc: " in finished.stdout
    verify = [*command, "verify", str(path.with_suffix(".ulc")), str(path.with_suffix(".ulc"))]
    finished = subprocess.run(verify, capture_output=True, env=environment, check=True)
    assert finished.stdout.count(b": ok") == 2
