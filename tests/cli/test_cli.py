import dataclasses
import errno
import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

import ulcodec
from ulcodec.codec import rate_control
from ulcodec.codec.image import Codec
from ulcodec.coding.products import PRODUCTS
from ulcodec.format.container import Container
from ulcodec.io.picture import Picture
from ulcodec.io.pictures import load_image
from ulcodec.metrics import psnr_db
from ulcodec.progress import share
from ulcodec_cli import encode
from ulcodec_cli import progress as cli_progress
from ulcodec_cli.common import say, write_file
from ulcodec_cli.main import app


class Finished(NamedTuple):
    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict:
        return json.loads(self.stdout.splitlines()[-1])


Run = Callable[..., Finished]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process."""

    def run_command(*arguments: object) -> Finished:
        with pytest.raises(SystemExit) as exit_:
            app([str(argument) for argument in arguments], prog_name="ulcodec")
        code = exit_.value.code
        assert code is None or isinstance(code, int)
        return Finished(code or 0, *capsys.readouterr())

    return run_command


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A smooth RGB picture with odd sides: photo.png in an otherwise empty folder."""
    rows, columns = np.mgrid[:37, :51]
    pixels = np.stack([4 * rows, 3 * columns, 2 * (rows + columns)], axis=2).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def coded(photo: Path, tiny_model_dir: Path, run: Run) -> Path:
    """photo.ulc beside the photo."""
    assert run("encode", photo, "--model", tiny_model_dir).code == 0
    return photo.with_suffix(".ulc")


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def assert_refused(finished: Finished, *words: str, code: int = 2) -> None:
    assert finished.code == code
    assert finished.stdout == ""
    [line] = finished.stderr.splitlines()
    assert line.startswith("ulcodec: error: ")
    for word in words:
        assert word in line


def test_effort_device_and_threads(run: Run, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    found = []
    for effort in (1, 7):
        finished = run(
            "encode", photo, "-q", 90, "--effort", effort, "--device", "cpu", "--threads", 1, "--json", "--force"
        )
        assert finished.code == 0
        found.append(photo.with_suffix(".ulc").read_bytes())
    assert found[0] != found[1]
    assert run("decode", photo.with_suffix(".ulc"), "-o", photo.parent / "back.png", "--threads", 2).code == 0
    assert threads == [1, 1, 2]
    assert run("encode", photo, "--effort", 10, "--force").code == 2


@pytest.mark.parametrize("command", ["encode", "decode", "compare"])
def test_unknown_device(run: Run, photo: Path, command: str) -> None:
    run("encode", photo)
    coded = photo.with_suffix(".ulc")
    arguments = {"encode": [photo, "--force"], "decode": [coded, "--force"], "compare": [photo, coded]}[command]
    finished = run(command, *arguments, "--device", "abacus")
    assert finished.code == 2
    assert finished.stderr.startswith("ulcodec: error: cannot use device 'abacus'")
    assert finished.stderr.count("\n") == 1


def test_outputs_go_beside_the_inputs(photo: Path, tiny_model_dir: Path, run: Run) -> None:
    assert run("encode", photo, "--model", tiny_model_dir).code == 0
    photo.rename(photo.with_name("original.png"))
    assert run("decode", photo.with_suffix(".ulc"), "--model", tiny_model_dir).code == 0
    assert names(photo.parent) == {"original.png", "photo.ulc", "photo.png"}
    assert load_image(photo).pixels.shape == (37, 51, 3)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_command_line_and_api_agree(photo: Path, tiny_model_dir: Path, run: Run, tmp_path: Path, mode: str) -> None:
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


def test_json(photo: Path, tiny_model_dir: Path, run: Run, tmp_path: Path) -> None:
    coded, decoded = tmp_path / "a.ulc", tmp_path / "a.png"
    encoding = run("encode", photo, "-o", coded, "--model", tiny_model_dir, "--json").json
    file_bytes = coded.stat().st_size
    assert encoding["file_bytes"] == file_bytes
    assert encoding["bits_per_pixel"] == pytest.approx(8 * file_bytes / (51 * 37))
    assert (encoding["width"], encoding["height"], encoding["quality"]) == (51, 37, 50)
    decoding = run("decode", coded, "-o", decoded, "--model", tiny_model_dir, "--json").json
    assert (decoding["output"], decoding["fingerprint"]) == (str(decoded), encoding["fingerprint"])
    info = run("info", coded, "--json").json
    assert info == ulcodec.info(coded.read_bytes())


def test_info(coded: Path, tiny_model_dir: Path, run: Run) -> None:
    plain = run("info", coded)
    assert plain.code == 0
    assert str(coded.stat().st_size) in plain.stdout
    assert "bound" not in plain.stdout
    both = run("info", coded, "--bound", "--model", tiny_model_dir, "--json").json
    assert both["file_bits"] == 8 * coded.stat().st_size
    assert 0 < both["bound_bits"] < both["file_bits"]


def test_info_of_a_file_does_not_import_torch(coded: Path) -> None:
    code = f"import sys; from ulcodec_cli.main import app; app(['info', {str(coded)!r}], standalone_mode=False); "
    check = code + "sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, stdout=subprocess.DEVNULL)


def test_existing_output_needs_force(photo: Path, tiny_model_dir: Path, run: Run) -> None:
    output = photo.with_suffix(".ulc")
    output.write_bytes(b"precious")
    assert_refused(run("encode", photo, "--model", tiny_model_dir), str(output), "--force")
    assert output.read_bytes() == b"precious"
    assert run("encode", photo, "--model", tiny_model_dir, "--force").code == 0
    ulcodec.info(output.read_bytes())


@pytest.mark.parametrize("command", ["encode", "decode"])
def test_input_is_never_the_output(photo: Path, run: Run, command: str) -> None:
    before = photo.read_bytes()
    link = photo.with_name("link")
    link.symlink_to(photo)
    for output in (photo, link):
        assert_refused(run(command, photo, "-o", output, "--force"), "same file")
    assert photo.read_bytes() == before


def test_unusable_outputs(photo: Path, run: Run) -> None:
    assert_refused(run("encode", photo, "-o", photo.parent / "none" / "a.ulc"), "no such directory", "none")
    assert_refused(run("decode", photo, "-o", photo.with_suffix(".unknown")), "extension")
    assert names(photo.parent) == {"photo.png"}


@pytest.mark.parametrize("command", ["encode", "decode", "info"])
def test_unusable_inputs(run: Run, tmp_path: Path, command: str) -> None:
    (tmp_path / "text").write_text("not a picture, nor a .ulc file, but long enough for a header")
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    before = names(tmp_path)
    assert_refused(run(command, tmp_path / "none"), str(tmp_path / "none"), "No such file")
    assert_refused(run(command, tmp_path / "folder"), "folder", "director" if command == "info" else "nothing to do")
    assert_refused(run(command, tmp_path / "text"))
    assert_refused(run(command, tmp_path / "empty"))
    assert names(tmp_path) == before


@pytest.mark.parametrize("command", ["decode", "info"])
def test_damaged_files(coded: Path, run: Run, command: str) -> None:
    data, before = coded.read_bytes(), names(coded.parent) | {"bad.ulc"}
    bad = coded.with_name("bad.ulc")
    for damaged in (data[:-1], data[:10], data + b"\0", data[:-1] + bytes([data[-1] ^ 1])):
        bad.write_bytes(damaged)
        assert_refused(run(command, bad))
    assert names(coded.parent) == before


def test_models_that_do_not_fit(photo: Path, coded: Path, tiny_model_dir: Path, run: Run, tmp_path: Path) -> None:
    before = names(tmp_path)
    assert_refused(run("encode", photo, "-o", tmp_path / "b.ulc", "--model", "none"), "no model 'none'")
    container = Container.from_bytes(coded.read_bytes())
    header = dataclasses.replace(container.header, fingerprint=b"none")
    coded.write_bytes(dataclasses.replace(container, header=header).to_bytes())
    assert_refused(
        run("decode", coded, "-o", tmp_path / "b.png", "--model", tiny_model_dir), b"none".hex(), "installed"
    )
    assert names(tmp_path) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("encode",),
        ("encode", "a.png", "-q", "5", "--target-bpp", "1"),
        ("encode", "a.png", "--target-size", "5 apples"),
        ("encode", "a.png", "--target-bpp", "nan"),
        ("encode", "a.png", "--target-psnr", "inf"),
        ("encode", "a.png", "--target-ssimulacra2", "nan"),
        ("encode", "a.png", "--target-ssimulacra2", "101"),
        ("encode", "a.png", "--target-ssimulacra2", "70", "-q", "50"),
        ("decode", "a.ulc", "--depth", "12"),
        ("decode", "a.ulc", "--crop", "1,2,3"),
        ("truncate", "a.ulc", "-o", "b.ulc"),
        ("encode", "a.png", "-q", "101"),
        ("encode", "a.png", "-q", "-1"),
        ("encode", "a.png", "-q", "high"),
        ("decode", "a.ulc", "--unknown"),
        ("train", "stage1", "--out", "runs"),
        ("unknown",),
    ],
)
def test_wrong_usage(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]) -> None:
    monkeypatch.chdir(tmp_path)
    finished = run(*arguments)
    assert finished.code == 2
    assert "Error" in finished.stderr
    assert not names(tmp_path)


def test_full_disk(photo: Path, tiny_model_dir: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk_full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", disk_full)
    assert_refused(run("encode", photo, "--model", tiny_model_dir), "photo.ulc", "No space left")
    assert names(photo.parent) == {"photo.png"}


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
def test_errors_are_one_line(
    photo: Path, run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, line: str
) -> None:
    def fail(data: bytes, **_: object) -> None:
        raise error

    monkeypatch.setattr(ulcodec, "info", fail)
    finished = run("info", photo)
    assert (finished.code, finished.stdout, finished.stderr) == (code, "", line + "\n")


def test_a_programming_error_keeps_its_traceback(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(data: bytes, **_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(ulcodec, "info", fail)
    with pytest.raises(ZeroDivisionError):
        app(["info", str(photo)])


def test_version(run: Run) -> None:
    finished = run("--version")
    assert (finished.code, finished.stdout) == (0, f"ulcodec {ulcodec.__version__}\n")


def test_installed_command() -> None:
    script = Path(sys.executable).with_name("ulcodec")
    for command in ([str(script)], [sys.executable, "-m", "ulcodec_cli"]):
        shown = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
        assert shown.stdout == f"ulcodec {ulcodec.__version__}\n"


def test_shell_completion() -> None:
    script = str(Path(sys.executable).with_name("ulcodec"))
    asked = {"COMP_WORDS": "ulcodec enc", "COMP_CWORD": "1", "_ULCODEC_COMPLETE": "complete_bash"}
    completed = subprocess.run([script], capture_output=True, text=True, env={**os.environ, **asked}, check=True)
    assert completed.stdout.split() == ["encode"]


def test_model_describe(run: Run) -> None:
    described = run("model", "describe", "--config", "tiny", "--json").json
    assert described["config"] == "tiny"
    assert all(row["parameters"] > 0 and row["kmac_per_px"] > 0 for row in described["parts"])
    table = run("model", "describe", "--config", "tiny").stdout.splitlines()
    products = described["products"]
    tried = {trial["name"]: trial for trial in products["trials"]}
    assert tried[products["chosen"]]["is_exact"]
    assert tried.keys() == PRODUCTS.keys()
    assert len(table) == 1 + len(described["parts"]) + 2 + len(tried)
    assert any(line.startswith("Integer products on cpu: ") for line in table)
    assert_refused(run("model", "describe", "--config", "none"), "none")


def test_train_dry_run(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ("train", "stage1", "--data", tmp_path, "--config", "tiny", "--out", out)
    finished = run(*arguments, "--minutes", "0.5", "--crop", 64, "--dry-run")
    settings = json.loads(finished.stdout)["stage1"]
    assert (settings["minutes"], settings["crop_px"], settings["config"], settings["seed"]) == (0.5, 64, "tiny", 0)
    assert not out.exists()
    assert_refused(run(*arguments), "minutes")
    assert_refused(run(*arguments, "--images", 1, "--config", "none"), "none")
    assert not out.exists()


def test_train_export_refuses(run: Run, tmp_path: Path) -> None:
    assert_refused(run("train", "export", tmp_path, "-o", tmp_path), "another directory")
    assert_refused(run("train", "export", tmp_path, "-o", tmp_path / "model"), "no checkpoint")
    assert not names(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.txt").write_text("mine")
    for options in ([], ["--force"]):
        export = ("train", "export", tmp_path / "run", *options, "-o")
        assert_refused(run(*export, tmp_path / "photos"), "no model directory")
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["a.txt", "photos", "run"]


def test_verify_tells_sound_files_from_damaged_ones(coded: Path, run: Run) -> None:
    data = coded.read_bytes()
    flipped, foreign, missing = (coded.with_name(name) for name in ("flipped.ulc", "foreign.ulc", "missing.ulc"))
    flipped.write_bytes(data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])
    foreign.write_bytes(b"not a picture")
    assert run("verify", coded, coded) == (0, f"{coded}: ok\n{coded}: ok\n", "")
    finished = run("verify", flipped, coded, foreign, missing)
    assert finished.code == 1
    assert finished.stdout == f"{coded}: ok\n"
    first, second, third = finished.stderr.splitlines()
    assert first.startswith(f"{flipped}: ChecksumError: ")
    assert second.startswith(f"{foreign}: NotUlcError: ")
    assert third == f"{missing}: No such file or directory"
    finished = run("verify", flipped, "--json")
    assert finished.code == 1
    assert finished.json["ok"] is False


def test_pixel_limit_of_the_caller(coded: Path, photo: Path, tiny_model_dir: Path, run: Run) -> None:
    limit = ("--max-pixels", 37 * 51 - 1, "--force", "--model", tiny_model_dir)
    assert_refused(run("decode", coded, *limit), "51x37")
    assert_refused(run("encode", photo, *limit), "51x37")
    assert run("verify", coded, "--max-pixels", 37 * 51 - 1).code == 1
    assert run("verify", coded, "--max-pixels", 37 * 51).code == 0


def test_decode_recovers_a_damaged_file(coded: Path, tiny_model_dir: Path, run: Run) -> None:
    data = coded.read_bytes()
    coded.write_bytes(data[:-6] + bytes([data[-6] ^ 1]) + data[-5:])
    target = coded.with_name("recovered.png")
    assert_refused(run("decode", coded, "-o", target, "--model", tiny_model_dir), "checksum")
    assert not target.exists()
    finished = run("decode", coded, "-o", target, "--model", tiny_model_dir, "--recover", "--json")
    assert finished.code == 0
    assert finished.json["n_segments"] == 3
    assert "3 of 4 segments" in finished.stderr
    assert load_image(target).pixels.shape == (37, 51, 3)


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """A folder of two pictures, one more in a folder inside, and a file that is none."""
    (tmp_path / "album" / "inner").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.jpg", "inner/c.png")):
        pixels = np.full((20, 30, 3), 60 * number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "album" / name)
    (tmp_path / "album" / "notes.txt").write_text("not a picture")
    return tmp_path / "album"


def found(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


RECORDS = {".ulcodec.jsonl", "inner/.ulcodec.jsonl"}


def test_many_files_and_back(album: Path, tiny_model_dir: Path, run: Run, tmp_path: Path) -> None:
    out, back = tmp_path / "out", tmp_path / "back"
    encode = ("encode", album, "-r", "-o", out, "--model", tiny_model_dir)
    finished = run(*encode)
    assert finished.code == 0
    assert finished.stdout.startswith("3 done, 0 up to date, 0 failed; ")
    assert found(out) == {"a.ulc", "b.ulc", "inner/c.ulc"} | RECORDS
    again = run(*encode, "--json").json
    assert (again["n_done"], again["n_up_to_date"]) == (0, 3)
    assert run(*encode, "--force", "--json").json["n_done"] == 3
    decoded = run("decode", out, "-o", back, "--format", "jpg", "--model", tiny_model_dir, "--json")
    assert found(back) == {"a.jpg", "b.jpg", ".ulcodec.jsonl"}
    assert [json.loads(line)["width"] for line in decoded.stdout.splitlines()[:-1]] == [30, 30]
    summary = decoded.json
    assert summary["output_bytes"] == sum(file.stat().st_size for file in back.glob("*.jpg"))


def test_errors_of_many_files_come_at_the_end(album: Path, tiny_model_dir: Path, run: Run) -> None:
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


def test_one_bad_file_does_not_cost_those_decoded_with_it(album: Path, tiny_model_dir: Path, run: Run) -> None:
    model = ("--model", tiny_model_dir)
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(noise).save(album / "b.jpg")  # one that is not kept without loss
    assert run("encode", album, "-r", *model).code == 0
    bad = album / "b.ulc"
    said = Container.from_bytes(bad.read_bytes())
    bad.write_bytes(dataclasses.replace(said, symbol_check=(said.symbol_check or 0) ^ 1).to_bytes())
    finished = run("decode", album, "-r", "-o", album / "back", *model)
    assert finished.code == 1
    assert finished.stdout.startswith("2 done, 0 up to date, 1 failed")
    assert finished.stderr.splitlines()[-1].startswith(f"ulcodec: error: {bad}: the file is sound, but")
    assert found(album / "back") == {"a.png", "inner/c.png"} | RECORDS


def test_two_inputs_for_one_output(album: Path, tiny_model_dir: Path, run: Run, tmp_path: Path) -> None:
    Image.open(album / "b.jpg").save(album / "a.jpg")
    finished = run("encode", album, "-o", tmp_path / "out", "--model", tiny_model_dir)
    assert finished.code == 0
    assert found(tmp_path / "out") == {"a.png.ulc", "a.jpg.ulc", "b.ulc", ".ulcodec.jsonl"}
    (tmp_path / "other").mkdir()
    for name in ("a.png", "b.png"):
        Image.open(album / "b.jpg").save(tmp_path / "other" / name)
    inputs = [album / "a.png", tmp_path / "other" / "a.png", tmp_path / "other" / "b.png"]
    finished = run("encode", *inputs, "-o", tmp_path / "one", "--model", tiny_model_dir)
    assert finished.code == 1
    assert finished.stderr.count("would be written by more than one input") == 2
    assert found(tmp_path / "one") == {"b.ulc", ".ulcodec.jsonl"}
    twice = run("encode", album / "a.png", album / "a.png", "-o", tmp_path / "twice", "--model", tiny_model_dir)
    assert twice.stdout.startswith("1 done, 0 up to date, 0 failed")
    assert_refused(run("encode", album / "a.png", album / "b.jpg", "-o", album / "notes.txt"), "not a directory")
    assert_refused(run("encode", album / "a.png", album / "b.jpg", "-o", album / "c.ulc"), "into a folder")
    assert not (album / "c.ulc").exists()


def test_changed_sources_and_options_are_made_anew(album: Path, tiny_model_dir: Path, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    encode = ("encode", album, "-o", out, "--model", tiny_model_dir)
    assert run(*encode).code == 0
    before = {name: (out / name).read_bytes() for name in ("a.ulc", "b.ulc")}
    Image.new("RGB", (20, 10), (200, 0, 0)).save(album / "a.png")
    os.utime(album / "a.png", (10**9, 10**9))  # an older picture took its place
    assert run(*encode).stdout.startswith("1 done, 1 up to date, 0 failed")
    assert (out / "a.ulc").read_bytes() != before["a.ulc"]
    assert (out / "b.ulc").read_bytes() == before["b.ulc"]
    assert run(*encode, "-q", 90).stdout.startswith("2 done, 0 up to date, 0 failed")
    assert run(*encode, "-q", 90).stdout.startswith("0 done, 2 up to date, 0 failed")
    (out / "a.ulc").write_bytes(b"somebody's own")
    os.utime(out / "a.ulc", (1, 1))
    finished = run(*encode, "-q", 80)
    assert (finished.code, finished.stdout[:30]) == (1, "1 done, 0 up to date, 1 failed")
    assert "--force" in finished.stderr
    assert (out / "a.ulc").read_bytes() == b"somebody's own"
    (out / ".ulcodec.jsonl").write_bytes(b"\xff not JSON\n{}\n[]\n")
    assert run(*encode, "-q", 80).stdout.startswith("0 done, 1 up to date, 1 failed")


@pytest.mark.skipif(os.name != "posix", reason="rights of POSIX")
def test_folders_that_cannot_be_read_are_listed(
    album: Path, tiny_model_dir: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk = os.walk

    def closed(folder: Path, onerror: Callable[[OSError], None]) -> Iterator[object]:
        onerror(PermissionError(errno.EACCES, "Permission denied", str(album / "inner")))
        for place, inner, names in walk(folder):
            yield place, inner, names
            inner.clear()

    monkeypatch.setattr(os, "walk", closed)
    finished = run("encode", album, "-r", "-o", tmp_path / "out", "--model", tiny_model_dir)
    assert (finished.code, finished.stdout[:30]) == (1, "2 done, 0 up to date, 1 failed")
    assert f"ulcodec: error: {album / 'inner'}: Permission denied" in finished.stderr


@pytest.mark.parametrize("error", [RuntimeError("can't allocate memory"), OverflowError("int too big"), ValueError()])
def test_any_error_costs_one_file(
    album: Path, tiny_model_dir: Path, run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from ulcodec.codec import image

    encode_batch = image.encode_batch

    def failing(codec: object, pictures: list[Picture], **options: object) -> list[bytes]:
        if any(picture.pixels.shape[0] == 21 for picture in pictures):
            raise error
        return encode_batch(codec, pictures, **options)

    monkeypatch.setattr(image, "encode_batch", failing)
    Image.new("RGB", (30, 21)).save(album / "odd.png")
    finished = run("encode", album, "--model", tiny_model_dir, "--json")
    assert finished.code == 1
    lines = [json.loads(line) for line in finished.stdout.splitlines()]
    assert [line["error"] is None for line in lines[:-1]] == [True, True, False]
    assert lines[-2]["source"] == str(album / "odd.png")
    assert (lines[-1]["n_done"], lines[-1]["n_failed"]) == (2, 1)


def test_tiny_pictures_under_a_rate_target(tmp_path: Path, tiny_model_dir: Path, run: Run) -> None:
    for name, side in (("1.png", 48), ("2.png", 1), ("3.png", 48)):
        Image.new("RGB", (side, side)).save(tmp_path / name)
    finished = run("encode", tmp_path, "--target-bpp", 2, "--model", tiny_model_dir)
    assert (finished.code, finished.stdout[:30]) == (1, "2 done, 0 up to date, 1 failed")
    assert "2.png: no file of 1 bytes" in finished.stderr


@pytest.mark.parametrize(
    "options",
    [
        *([name, value] for name in ("--target-bpp", "--target-psnr", "--target-ssim") for value in ("nan", "inf")),
        *(["--target-bpp", value] for value in ("0", "-1")),
        *(["--target-size", value] for value in ("0.5", "0", "-3", "1e9kB", "9" * 400, "nan")),
        *(["--max-pixels", value] for value in ("0", "-1", "nan")),
    ],
)
def test_numbers_that_mean_nothing(photo: Path, run: Run, options: list[str]) -> None:
    finished = run("encode", photo, *options)
    assert (finished.code, finished.stdout) == (2, "")
    assert names(photo.parent) == {"photo.png"}


@pytest.mark.parametrize("option", ["--fraction", "--realism"])
def test_shares_are_numbers(coded: Path, run: Run, option: str) -> None:
    finished = run("decode", coded, option, "nan", "--json")
    assert finished.code == 2
    assert option in json.loads(finished.stdout)["error"]


def test_errors_are_json_too(photo: Path, run: Run, tmp_path: Path) -> None:
    finished = run("compare", photo, photo, "--json")
    assert json.loads(finished.stdout, parse_constant=pytest.fail)["psnr_db"] is None
    for command in ("info", "verify", "decode", "encode"):
        finished = run(command, tmp_path / "none", "--json")
        assert finished.code in (1, 2)
        assert "No such file" in json.loads(finished.stdout)["error"]


def test_a_folder_that_is_not_there(photo: Path, tiny_model_dir: Path, run: Run) -> None:
    out = f"{photo.parent / 'new'}/"
    assert run("encode", photo, "-o", out, "--model", tiny_model_dir).code == 0
    assert names(photo.parent / "new") == {"photo.ulc"}
    assert run("decode", photo.parent / "new" / "photo.ulc", "-o", out, "--model", tiny_model_dir).code == 0
    assert names(photo.parent / "new") == {"photo.ulc", "photo.png"}
    assert_refused(run("encode", photo.parent / "none.png", "-o", f"{photo.parent / 'other'}/"), "No such file")
    assert not (photo.parent / "other").exists()


def test_limits_of_pixels_are_kept(photo: Path, coded: Path, tiny_model_dir: Path, run: Run) -> None:
    assert_refused(run("info", coded, "--max-pixels", 10), "the limit is 10")
    assert_refused(run("compare", photo, coded, "--max-pixels", 10), "more than 10 pixels")


def test_warnings_name_the_file_among_many(album: Path, tiny_model_dir: Path, run: Run) -> None:
    for name in ("x.tif", "y.tif"):
        Image.new("RGB", (16, 16)).save(album / name, save_all=True, append_images=[Image.new("RGB", (16, 16))])
    with warnings.catch_warnings():
        finished = run("encode", album, "--model", tiny_model_dir)
    for name in ("x.tif", "y.tif"):
        assert f"ulcodec: warning: {album / name}: only the first of 2 pictures" in finished.stderr


def test_names_that_the_terminal_cannot_show(photo: Path, tiny_model_dir: Path) -> None:
    odd = photo.with_name("bad\udcff.png")
    photo.rename(odd)
    command = [sys.executable, "-m", "ulcodec_cli"]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    encode = [*command, "encode", str(odd), "--model", str(tiny_model_dir)]
    done = subprocess.run(encode, capture_output=True, env=environment, check=True)
    assert b"\\udcff.ulc: " in done.stdout
    verify = [*command, "verify", str(odd.with_suffix(".ulc")), str(odd.with_suffix(".ulc"))]
    done = subprocess.run(verify, capture_output=True, env=environment, check=True)
    assert done.stdout.count(b": ok") == 2


def test_one_file_into_a_folder(photo: Path, tiny_model_dir: Path, run: Run) -> None:
    (photo.parent / "out").mkdir()
    assert run("encode", photo, "-o", photo.parent / "out", "--model", tiny_model_dir).code == 0
    assert names(photo.parent / "out") == {"photo.ulc"}


def test_standard_streams(photo: Path, coded: Path, tiny_model_dir: Path) -> None:
    def piped(*arguments: object, data: bytes) -> bytes:
        command = [sys.executable, "-m", "ulcodec_cli", *map(str, arguments), "--model", str(tiny_model_dir)]
        return subprocess.run(command, input=data, capture_output=True, check=True).stdout

    assert piped("encode", "-", data=photo.read_bytes()) == coded.read_bytes()
    image = Image.open(BytesIO(piped("decode", "-", "--format", "bmp", data=coded.read_bytes())))
    assert (image.format, image.size) == ("BMP", (51, 37))
    assert piped("encode", photo, "-o", "-", "--json", data=b"") == coded.read_bytes()


def test_metadata_and_orientation(photo: Path, tiny_model_dir: Path, run: Run, tmp_path: Path) -> None:
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


def test_targets(photo: Path, tiny_model_dir: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def to_size(codec: object, picture: object, n_bytes: int, **options: object) -> bytes:
        asked.append(n_bytes)
        return codec.encode(picture)

    def to_quality(codec: object, picture: object, measure: str, value: float, **options: object) -> bytes:
        asked.append((measure, value))
        return codec.encode(picture)

    monkeypatch.setattr(rate_control, "encode_to_size", to_size)
    monkeypatch.setattr(rate_control, "encode_to_quality", to_quality)
    for option in (["--target-bpp", 0.5], ["--target-size", "1.5kB"], ["--target-size", "2KiB"],
                   ["--target-psnr", 30], ["--target-ssim", 0.9], ["--target-ssimulacra2", 70]):  # fmt: skip
        assert run("encode", photo, "--force", "--model", tiny_model_dir, *option).code == 0
    assert asked == [51 * 37 // 16, 1500, 2048, ("psnr_db", 30.0), ("ms_ssim", 0.9), ("ssimulacra2", 70.0)]


def test_ssimulacra2_without_its_package(photo: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ssimulacra2", None)
    assert_refused(run("encode", photo, "--target-ssimulacra2", 70), 'pip install "ulcodec[bench]"')
    assert not photo.with_suffix(".ulc").exists()


def test_truncate_and_fraction(photo: Path, tiny_model_dir: Path, run: Run, tmp_path: Path) -> None:
    coded = tmp_path / "a.ulc"
    run("encode", photo, "-q", 90, "-o", coded, "--model", tiny_model_dir)
    size = coded.stat().st_size
    for number, option in enumerate((["--segments", 2], ["--fraction", 0.9], ["--size", f"{size - 1}B"])):
        cut = tmp_path / f"cut{number}.ulc"
        finished = run("truncate", coded, "-o", cut, *option, "--json")
        assert finished.json["file_bytes"] == cut.stat().st_size < size
        assert finished.json["n_segments"] == (2 if number == 0 else 3)
        assert run("verify", cut).code == 0
        assert run("decode", cut, "--model", tiny_model_dir).code == 0
    assert run("decode", coded, "-o", tmp_path / "part.png", "--fraction", 0.9, "--model", tiny_model_dir).code == 0
    assert (tmp_path / "part.png").read_bytes() == (tmp_path / "cut1.png").read_bytes()
    assert_refused(run("truncate", photo, "-o", tmp_path / "none.ulc", "--segments", 1), "not a .ulc file")


def test_crop(photo: Path, coded: Path, tiny_model_dir: Path, run: Run, tmp_path: Path) -> None:
    for name, options in (("whole.png", ()), ("part.png", ("--crop", "5,6,20,10"))):
        assert run("decode", coded, "-o", tmp_path / name, "--model", tiny_model_dir, *options).code == 0
    with Image.open(tmp_path / "whole.png") as whole, Image.open(tmp_path / "part.png") as part:
        np.testing.assert_array_equal(np.asarray(whole)[6:16, 5:25], np.asarray(part))
    outside = ("decode", coded, "-o", tmp_path / "none.png", "--model", tiny_model_dir, "--crop", "40,0,20,20")
    assert_refused(run(*outside), "not inside 51x37")


def test_compare(photo: Path, coded: Path, tiny_model_dir: Path, run: Run, tmp_path: Path) -> None:
    codec = ulcodec.load(tiny_model_dir)
    pixels, decoded = np.asarray(Image.open(photo)), codec.decode_array(coded.read_bytes())
    side = tmp_path / "side.png"
    values = run("compare", photo, coded, "-o", side, "--model", tiny_model_dir, "--json").json
    assert values["psnr_db"] == pytest.approx(psnr_db(pixels, decoded))
    assert values["file_bytes"] == coded.stat().st_size
    assert values["ms_ssim"] is None
    shown = np.asarray(Image.open(side))
    np.testing.assert_array_equal(shown[:, :102], np.concatenate([pixels, decoded], axis=1))
    same = run("compare", photo, photo)
    assert "inf" in same.stdout
    Image.new("RGB", (5, 5)).save(tmp_path / "other.png")
    assert_refused(run("compare", photo, tmp_path / "other.png"), "different shapes")


def test_deep_pictures(tmp_path: Path, tiny_model_dir: Path, run: Run) -> None:
    samples = (np.add.outer(np.arange(40), np.arange(50)) * 700).astype(np.uint16)
    Image.fromarray(samples).save(tmp_path / "deep.png")
    assert run("encode", tmp_path / "deep.png", "--model", tiny_model_dir).code == 0
    coded = tmp_path / "deep.ulc"
    assert run("info", coded, "--json").json["bit_depth"] == 16
    modes = []
    for depth in ((), ("--depth", 8), ("--depth", 16)):
        run("decode", coded, "-o", tmp_path / "out.png", "--force", "--model", tiny_model_dir, *depth)
        with Image.open(tmp_path / "out.png") as image:
            modes.append(image.mode)
    assert modes == ["I;16", "L", "I;16"]


# Progress


class Terminal:
    """Standard error as a terminal, on which a bar appears at once, from the call of `attach` in the test on."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
        self.capsys, self.monkeypatch, self.written = capsys, monkeypatch, ""

    def attach(self) -> None:
        self.monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        self.monkeypatch.setattr(cli_progress, "DELAY_S", 0)
        self.monkeypatch.setattr(cli_progress, "REDRAW_S", 0)
        for name, value in {"TERM": "xterm", "COLUMNS": "100", "NO_COLOR": "1"}.items():
            self.monkeypatch.setenv(name, value)

    def getvalue(self) -> str:
        self.written += self.capsys.readouterr().err
        return self.written


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Terminal:
    return Terminal(capsys, monkeypatch)


def screen(written: str) -> list[str]:
    """The lines that a terminal shows, without empty ones at the end."""
    lines, row, column = [""], 0, 0
    for code, text in re.findall(r"(\x1b\[\??[0-9;]*[A-Za-z]|[\r\n])|([^\x1b\r\n]+)", written):
        if code == "\r":
            column = 0
        elif code == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif code.endswith("A"):
            row -= int(code[2:-1] or 1)
        elif code == "\x1b[2K":
            lines[row] = ""
        elif text:
            lines[row] = lines[row][:column].ljust(column) + text + lines[row][column + len(text) :]
            column += len(text)
    return "\n".join(lines).rstrip("\n").split("\n")


def percentages(written: str) -> list[int]:
    return [int(number) for number in re.findall(r"(\d+)%", written)]


def test_a_bar_appears_after_two_seconds(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal.attach()
    monkeypatch.setattr(cli_progress, "DELAY_S", 2.0)
    monkeypatch.setattr(cli_progress, "REDRAW_S", 0.1)
    clock = [50.0]
    bar = cli_progress.Bar("encoding", clock=lambda: clock[0])

    def report(at_s: float, fraction: float, note: str) -> None:
        clock[0] = at_s
        bar(fraction, note)

    for at_s, fraction in ((50.0, 0.0), (51.0, 0.3), (51.99, 0.4)):
        report(at_s, fraction, "")
    assert terminal.getvalue() == ""
    for at_s, fraction in ((52.0, 0.4), (52.05, 0.41), (54.0, 0.5), (56.0, 0.6)):
        report(at_s, fraction, "a.png")
    assert percentages(terminal.getvalue())[0] == 40
    assert 41 not in percentages(terminal.getvalue()), "drawn twice in a tenth of a second"
    [line] = screen(terminal.getvalue())
    assert line.startswith("encoding a.png ")
    assert " 60% " in line
    assert re.search(" 00:0[89]$", line)
    bar.hide()
    assert screen(terminal.getvalue()) == [""]
    report(57.0, 0.7, "b.png")
    assert " 70% " in screen(terminal.getvalue())[0]
    bar.hide()
    assert terminal.getvalue().rfind("\x1b[?25h") > terminal.getvalue().rfind("\x1b[?25l"), "the cursor is hidden"


def test_work_that_ends_at_once_shows_no_bar(terminal: Terminal) -> None:
    terminal.attach()
    bar = cli_progress.Bar("encoding")
    bar(1.0, "")
    bar.hide()
    assert terminal.getvalue() == ""


@pytest.mark.parametrize("command", ["encode", "decode", "compare", "info", "eval", "targets", "realism"])
def test_commands_show_a_bar(
    terminal: Terminal, photo: Path, tiny_model_dir: Path, run: Run, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ("--model", tiny_model_dir)
    coded = photo.with_suffix(".ulc")
    assert run("encode", photo, *model).code == 0
    terminal.attach()
    arguments = {
        "encode": ("encode", photo, "--force"),
        "decode": ("decode", coded, "--force"),
        "compare": ("compare", photo, coded),
        "info": ("info", coded, "--bound"),
        "eval": ("eval", photo, "--qualities", "10,90"),
        "targets": ("encode", photo, "--force", "--target-size", "300"),
        "realism": ("decode", coded, "--force", "--realism", "1"),
    }[command]
    if command == "realism":
        from ulcodec.codec import image as codec_module

        monkeypatch.setattr(codec_module, "codec_of", with_denoiser(codec_module.codec_of))
    finished = run(*arguments, *model)
    assert finished.code == 0
    assert "\x1b" not in finished.stdout
    assert screen(finished.stderr) == [""]
    shown = percentages(finished.stderr)
    assert len(set(shown)) > 3
    assert shown == sorted(shown)
    assert ("try 2 of at most 8" in finished.stderr) == (command == "targets")


def with_denoiser(codec_of: Callable[..., Codec]) -> Callable[..., Codec]:
    def changed(*arguments: Any) -> Codec:
        return dataclasses.replace(codec_of(*arguments), has_denoiser=True)

    return changed


def test_folders_show_a_bar(terminal: Terminal, photo: Path, tiny_model_dir: Path, run: Run) -> None:
    terminal.attach()
    for name in ("a.png", "b.png", "d.png"):
        Image.open(photo).save(photo.with_name(name))
    photo.with_name("c.png").write_bytes(b"no picture")
    finished = run("encode", photo.parent, "--model", tiny_model_dir, "--json", "--effort", 2)
    assert finished.code == 1
    assert [json.loads(line) for line in finished.stdout.splitlines()][-1]["n_done"] == 4
    written = finished.stderr
    assert "encoding 2 of 5, b.png" in written
    assert percentages(written) == sorted(percentages(written))
    [line] = screen(written)
    assert line.startswith(f"ulcodec: error: {photo.with_name('c.png')}: ")
    photo.with_name("c.png").unlink()
    finished = run("encode", photo.parent, "--model", tiny_model_dir, "--effort", 2)
    assert (finished.code, screen(finished.stderr), set(percentages(finished.stderr))) == (0, [""], {0})


def test_no_terminal_no_bar(photo: Path, tiny_model_dir: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_progress, "DELAY_S", 0)
    monkeypatch.setattr(cli_progress, "Bar", None)
    finished = run("encode", photo, "--model", tiny_model_dir)
    assert (finished.code, finished.stderr) == (0, "")


def test_a_warning_makes_room_for_itself(terminal: Terminal) -> None:
    terminal.attach()
    with cli_progress.progress_bar("encoding"):
        with share(0.2):
            say("ulcodec: warning: this", err=True)
        with share(0.25):
            pass
        assert screen(terminal.getvalue())[0] == "ulcodec: warning: this"
        assert " 40% " in screen(terminal.getvalue())[1]
    assert screen(terminal.getvalue()) == ["ulcodec: warning: this"]


SLOWED = """
import sys, ulcodec_cli.progress as progress
progress.DELAY_S = progress.REDRAW_S = 0
from ulcodec_cli import encode
def interrupted(*_):
    raise KeyboardInterrupt
if sys.argv[-1] == "interrupted":
    encode.write_file = interrupted
    sys.argv.pop()
from ulcodec_cli.main import app
app()
"""


def run_on_a_terminal(*arguments: object) -> Finished:
    """The real command line, its standard error a pseudo-terminal, on which a bar appears at once."""
    pty = pytest.importorskip("pty", reason="needs pseudo-terminals")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", SLOWED, *map(str, arguments)]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=False, env=environment)
    os.close(theirs)
    written = bytearray()
    with suppress(OSError):  # EIO is how Linux says that the other side is closed
        while data := os.read(ours, 4096):
            written += data
    os.close(ours)
    stdout = process.communicate()[0]
    return Finished(process.returncode, stdout.decode("latin-1"), written.decode())


def test_a_bar_on_a_real_terminal(photo: Path, coded: Path, tiny_model_dir: Path) -> None:
    finished = run_on_a_terminal("encode", photo, "-o", "-", "--model", tiny_model_dir)
    assert (finished.code, finished.stdout.encode("latin-1")) == (0, coded.read_bytes())
    assert "encoding" in finished.stderr
    assert len(set(percentages(finished.stderr))) > 3
    assert screen(finished.stderr) == [""]


def test_errors_and_interrupts_after_a_bar(photo: Path, tiny_model_dir: Path) -> None:
    before = names(photo.parent)
    model = ("--model", tiny_model_dir)
    finished = run_on_a_terminal("encode", photo, *model, "--target-size", "1")
    assert finished.code == 2
    assert percentages(finished.stderr)
    [line] = screen(finished.stderr)
    assert line.startswith("ulcodec: error: no file of 1 bytes")
    finished = run_on_a_terminal("encode", photo, *model, "interrupted")
    assert (finished.code, screen(finished.stderr)) == (130, ["ulcodec: interrupted"])
    assert percentages(finished.stderr)
    assert names(photo.parent) == before


def test_a_bar_that_fails_leaves_no_file(
    terminal: Terminal, photo: Path, tiny_model_dir: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(bar: cli_progress.Bar, fraction: float, note: str) -> None:
        if fraction > 0.5:
            raise OSError(errno.EIO, "the terminal is gone")

    before = names(photo.parent)
    terminal.attach()
    monkeypatch.setattr(cli_progress.Bar, "__call__", draw)
    finished = run("encode", photo, "--model", tiny_model_dir)
    assert (finished.code, finished.stdout) == (2, "")
    assert names(photo.parent) == before


def test_a_source_of_the_same_name_elsewhere_does_not_overwrite(photo: Path, tiny_model_dir: Path, run: Run) -> None:
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


def test_a_source_that_changes_while_it_is_encoded_is_encoded_again(
    photo: Path, tiny_model_dir: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = photo.parent / "d", photo.parent / "out"
    folder.mkdir()
    photo = photo.rename(folder / "photo.png")
    command = ("encode", folder, "-o", out, "--model", tiny_model_dir)

    def write_and_change(target: Path, data: bytes) -> None:
        write_file(target, data)
        Image.open(photo).rotate(90, expand=True).save(photo)

    with monkeypatch.context() as patched:
        patched.setattr(encode, "write_file", write_and_change)
        assert run(*command).code == 0
    before = (out / "photo.ulc").read_bytes()
    assert "1 done, 0 up to date" in run(*command).stdout
    assert (out / "photo.ulc").read_bytes() != before
