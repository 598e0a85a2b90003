"""`ulcodec encode` of one picture: options, targets and metadata."""

import errno
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Run, assert_refused, file_names
from PIL import Image

import ulcodec
from ulcodec.codec import rate_control


def test_effort_changes_the_file_and_threads_are_set(run: Run, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    files = []
    for effort in (1, 7):
        options = ("--effort", effort, "--device", "cpu", "--threads", 1, "--backend", "torch")
        finished = run("encode", photo, "-q", 90, *options, "--json", "--force")
        assert finished.code == 0
        files.append(photo.with_suffix(".ulc").read_bytes())
    assert files[0] != files[1]
    options = ("--threads", 2, "--backend", "torch")
    assert run("decode", photo.with_suffix(".ulc"), "-o", photo.parent / "back.png", *options).code == 0
    assert threads == [1, 1, 2]
    assert run("encode", photo, "--effort", 10, "--force").code == 2


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_command_line_and_api_give_the_same_result(
    photo: Path, tiny_model_dir: Path, run: Run, tmp_path: Path, mode: str
) -> None:
    picture = Image.open(photo).convert(mode)
    picture.save(photo)
    coded, decoded = tmp_path / "a.ulc", tmp_path / "a.bmp"
    assert run("encode", photo, "-o", coded, "-q", 80, "--model", tiny_model_dir).code == 0
    assert run("decode", coded, "-o", decoded, "--model", tiny_model_dir).code == 0
    codec = ulcodec.load(tiny_model_dir)
    assert coded.read_bytes() == codec.encode(picture, quality=80)
    reopened = Image.open(decoded)
    assert reopened.mode == mode
    np.testing.assert_array_equal(np.asarray(reopened), codec.decode_array(coded.read_bytes()))


def test_existing_output_is_replaced_only_with_force(photo: Path, tiny_model_dir: Path, run: Run) -> None:
    output = photo.with_suffix(".ulc")
    output.write_bytes(b"precious")
    assert_refused(run("encode", photo, "--model", tiny_model_dir), str(output), "--force")
    assert output.read_bytes() == b"precious"
    assert run("encode", photo, "--model", tiny_model_dir, "--force").code == 0
    ulcodec.info(output.read_bytes())


def test_full_disk_is_reported_and_leaves_no_file(
    photo: Path, tiny_model_dir: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", disk_full)
    assert_refused(run("encode", photo, "--model", tiny_model_dir), "photo.ulc", "No space left")
    assert file_names(photo.parent) == {"photo.png"}


@pytest.mark.parametrize(
    "options",
    [
        *([name, value] for name in ("--target-bpp", "--target-psnr", "--target-ssim") for value in ("nan", "inf")),
        *(["--target-bpp", value] for value in ("0", "-1")),
        *(["--target-size", value] for value in ("0.5", "0", "-3", "1e9kB", "9" * 400, "nan")),
        *(["--max-pixels", value] for value in ("0", "-1", "nan")),
    ],
)
def test_option_value_out_of_range_is_refused(photo: Path, run: Run, options: list[str]) -> None:
    finished = run("encode", photo, *options)
    assert (finished.code, finished.stdout) == (2, "")
    assert file_names(photo.parent) == {"photo.png"}


def test_metadata_and_orientation_follow_the_options(
    photo: Path, tiny_model_dir: Path, run: Run, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    Image.open(photo).save(photo, exif=exif)
    kinds = {"turned": (), "stripped": ("--strip",), "stored": ("--keep-orientation",)}
    images = {}
    for name, options in kinds.items():
        coded = tmp_path / f"{name}.ulc"
        assert run("encode", photo, "-o", coded, "--model", tiny_model_dir, *options).code == 0
        assert run("decode", coded, "--model", tiny_model_dir).code == 0
        with Image.open(coded.with_suffix(".png")) as image:
            images[name] = image.copy()
    assert [images[name].size for name in kinds] == [(37, 51), (37, 51), (51, 37)]
    assert [images[name].getexif().get(0x010E) for name in kinds] == ["a description", None, "a description"]
    assert [images[name].getexif().get(0x0112) for name in kinds] == [None, None, 6]


def test_target_options_reach_the_search(
    photo: Path, tiny_model_dir: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = []

    def to_size(codec: object, picture: object, n_bytes: int, **options: object) -> bytes:
        targets.append(n_bytes)
        return codec.encode(picture)

    def to_quality(codec: object, picture: object, measure: str, value: float, **options: object) -> bytes:
        targets.append((measure, value))
        return codec.encode(picture)

    monkeypatch.setattr(rate_control, "encode_to_size", to_size)
    monkeypatch.setattr(rate_control, "encode_to_quality", to_quality)
    for option in (["--target-bpp", 0.5], ["--target-size", "1.5kB"], ["--target-size", "2KiB"],
                   ["--target-psnr", 30], ["--target-ssim", 0.9], ["--target-ssimulacra2", 70]):  # fmt: skip
        assert run("encode", photo, "--force", "--model", tiny_model_dir, *option).code == 0
    assert targets == [51 * 37 // 16, 1500, 2048, ("psnr_db", 30.0), ("ms_ssim", 0.9), ("ssimulacra2", 70.0)]


def test_ssimulacra2_target_names_the_missing_package(photo: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ssimulacra2", None)
    assert_refused(run("encode", photo, "--target-ssimulacra2", 70), 'pip install "ulcodec[bench]"')
    assert not photo.with_suffix(".ulc").exists()
