"""Errors on the command line: one line on standard error, and an exit code."""

import dataclasses
import errno
from pathlib import Path

import pytest
from command_line import Run, assert_refused, file_names

import ulcodec
from ulcodec.format.container import Container
from ulcodec_cli.main import app


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "ulcodec: interrupted"),
        (MemoryError(), 2, "ulcodec: error: out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: ..."), 2, "ulcodec: error: out of memory"),
        (PermissionError(errno.EACCES, "Permission denied", "a.ulc"), 2, "ulcodec: error: a.ulc: Permission denied"),
        (ulcodec.UlcError("two\nlines"), 2, "ulcodec: error: two lines"),
    ],
)
def test_error_is_one_line(
    photo: Path, run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, line: str
) -> None:
    def fail(data: bytes, **_: object) -> None:
        raise error

    monkeypatch.setattr(ulcodec, "info", fail)
    finished = run("info", photo)
    assert (finished.code, finished.stdout, finished.stderr) == (code, "", line + "\n")


def test_programming_error_keeps_its_traceback(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(data: bytes, **_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(ulcodec, "info", fail)
    with pytest.raises(ZeroDivisionError):
        app(["info", str(photo)])


@pytest.mark.parametrize("command", ["encode", "decode", "compare"])
def test_unknown_device_is_refused(run: Run, photo: Path, command: str) -> None:
    run("encode", photo)
    coded = photo.with_suffix(".ulc")
    arguments = {"encode": [photo, "--force"], "decode": [coded, "--force"], "compare": [photo, coded]}[command]
    finished = run(command, *arguments, "--device", "abacus")
    assert finished.code == 2
    assert finished.stderr.startswith("ulcodec: error: cannot use device 'abacus'")
    assert finished.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["decode", "info"])
def test_damaged_file_is_refused_by_decode_and_info(coded: Path, run: Run, command: str) -> None:
    data, before = coded.read_bytes(), file_names(coded.parent) | {"bad.ulc"}
    bad = coded.with_name("bad.ulc")
    for damaged in (data[:-1], data[:10], data + b"\0", data[:-1] + bytes([data[-1] ^ 1])):
        bad.write_bytes(damaged)
        assert_refused(run(command, bad))
    assert file_names(coded.parent) == before


def test_unknown_model_and_foreign_fingerprint_are_refused(
    photo: Path, coded: Path, tiny_model_dir: Path, run: Run, tmp_path: Path
) -> None:
    before = file_names(tmp_path)
    assert_refused(run("encode", photo, "-o", tmp_path / "b.ulc", "--model", "none"), "no model 'none'")
    container = Container.from_bytes(coded.read_bytes())
    header = dataclasses.replace(container.header, fingerprint=b"none")
    coded.write_bytes(dataclasses.replace(container, header=header).to_bytes())
    assert_refused(
        run("decode", coded, "-o", tmp_path / "b.png", "--model", tiny_model_dir), b"none".hex(), "installed"
    )
    assert file_names(tmp_path) == before


def test_max_pixels_limits_decode_encode_and_verify(coded: Path, photo: Path, tiny_model_dir: Path, run: Run) -> None:
    limit = ("--max-pixels", 37 * 51 - 1, "--force", "--model", tiny_model_dir)
    assert_refused(run("decode", coded, *limit), "51x37")
    assert_refused(run("encode", photo, *limit), "51x37")
    assert run("verify", coded, "--max-pixels", 37 * 51 - 1).code == 1
    assert run("verify", coded, "--max-pixels", 37 * 51).code == 0


def test_max_pixels_limits_info_and_compare(photo: Path, coded: Path, tiny_model_dir: Path, run: Run) -> None:
    assert_refused(run("info", coded, "--max-pixels", 10), "the limit is 10")
    assert_refused(run("compare", photo, coded, "--max-pixels", 10), "more than 10 pixels")
