"""The progress bar on standard error."""

import dataclasses
import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from command_line import Finished, Run, file_names
from PIL import Image

from ulcodec.codec.image import Codec
from ulcodec.progress import share
from ulcodec_cli import progress as cli_progress
from ulcodec_cli.common import say


class Terminal:
    """Standard error that acts as a terminal after `attach`, with a bar that appears at once."""

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
    """Return the lines on a terminal's screen, without empty lines at the end."""
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
    """Return the percentages that the bar printed, in the order of printing."""
    return [int(number) for number in re.findall(r"(\d+)%", written)]


def test_bar_appears_after_two_seconds(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert 41 not in percentages(terminal.getvalue()), "the bar is redrawn within 0.1 s"
    [line] = screen(terminal.getvalue())
    assert line.startswith("encoding a.png ")
    assert " 60% " in line
    assert re.search(" 00:0[89]$", line)
    bar.hide()
    assert screen(terminal.getvalue()) == [""]
    report(57.0, 0.7, "b.png")
    assert " 70% " in screen(terminal.getvalue())[0]
    bar.hide()
    assert terminal.getvalue().rfind("\x1b[?25h") > terminal.getvalue().rfind("\x1b[?25l"), "the cursor stays hidden"


def test_work_that_ends_at_once_shows_no_bar(terminal: Terminal) -> None:
    terminal.attach()
    bar = cli_progress.Bar("encoding")
    bar(1.0, "")
    bar.hide()
    assert terminal.getvalue() == ""


@pytest.mark.parametrize("command", ["encode", "decode", "compare", "info", "eval", "targets", "realism"])
def test_command_shows_a_bar(
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
        from ulcodec.codec import loading as codec_module

        monkeypatch.setattr(codec_module, "codec_of", with_denoiser(codec_module.codec_of))
    finished = run(*arguments, *model)
    assert finished.code == 0
    assert "\x1b" not in finished.stdout
    assert screen(finished.stderr) == [""]
    percents = percentages(finished.stderr)
    assert len(set(percents)) > 3
    assert percents == sorted(percents)
    assert ("try 2 of at most 8" in finished.stderr) == (command == "targets")


def with_denoiser(codec_of: Callable[..., Codec]) -> Callable[..., Codec]:
    """Let the codecs of `codec_of` accept `realism`, as if their denoiser were trained."""

    def codec_with_denoiser(*arguments: Any) -> Codec:
        return dataclasses.replace(codec_of(*arguments), has_denoiser=True)

    return codec_with_denoiser


def test_batch_shows_one_bar(terminal: Terminal, photo: Path, tiny_model_dir: Path, run: Run) -> None:
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


def test_no_bar_without_a_terminal(
    photo: Path, tiny_model_dir: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_progress, "DELAY_S", 0)
    monkeypatch.setattr(cli_progress, "Bar", None)
    finished = run("encode", photo, "--model", tiny_model_dir)
    assert (finished.code, finished.stderr) == (0, "")


def test_warning_is_printed_above_the_bar(terminal: Terminal) -> None:
    terminal.attach()
    with cli_progress.progress_bar("encoding"):
        with share(0.2):
            say("ulcodec: warning: this", err=True)
        with share(0.25):
            pass
        assert screen(terminal.getvalue())[0] == "ulcodec: warning: this"
        assert " 40% " in screen(terminal.getvalue())[1]
    assert screen(terminal.getvalue()) == ["ulcodec: warning: this"]


TERMINAL_SCRIPT = """
import sys, ulcodec_cli.progress as progress
progress.DELAY_S = progress.REDRAW_S = 0
from ulcodec_cli import encode
def interrupt(*_):
    raise KeyboardInterrupt
if sys.argv[-1] == "interrupted":
    encode.write_file = interrupt
    sys.argv.pop()
from ulcodec_cli.main import app
app()
"""


def run_on_a_terminal(*arguments: object) -> Finished:
    """Run the command in a new process with a pseudo-terminal as standard error, and a bar that appears at once."""
    pty = pytest.importorskip("pty", reason="needs pseudo-terminals")
    parent_end, child_end = pty.openpty()
    command = [sys.executable, "-c", TERMINAL_SCRIPT, *map(str, arguments)]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=child_end, text=False, env=environment)
    os.close(child_end)
    written = bytearray()
    with suppress(OSError):  # Linux reports EIO once the child has closed its end
        while data := os.read(parent_end, 4096):
            written += data
    os.close(parent_end)
    stdout = process.communicate()[0]
    return Finished(process.returncode, stdout.decode("latin-1"), written.decode())


def test_bar_on_a_pseudo_terminal_is_cleared(photo: Path, coded: Path, tiny_model_dir: Path) -> None:
    finished = run_on_a_terminal("encode", photo, "-o", "-", "--model", tiny_model_dir)
    assert (finished.code, finished.stdout.encode("latin-1")) == (0, coded.read_bytes())
    assert "encoding" in finished.stderr
    assert len(set(percentages(finished.stderr))) > 3
    assert screen(finished.stderr) == [""]


def test_errors_and_interrupts_replace_the_bar(photo: Path, tiny_model_dir: Path) -> None:
    before = file_names(photo.parent)
    model = ("--model", tiny_model_dir)
    finished = run_on_a_terminal("encode", photo, *model, "--target-size", "1")
    assert finished.code == 2
    assert percentages(finished.stderr)
    [line] = screen(finished.stderr)
    assert line.startswith("ulcodec: error: no file of 1 bytes")
    finished = run_on_a_terminal("encode", photo, *model, "interrupted")
    assert (finished.code, screen(finished.stderr)) == (130, ["ulcodec: interrupted"])
    assert percentages(finished.stderr)
    assert file_names(photo.parent) == before


def test_error_in_the_bar_leaves_no_file(
    terminal: Terminal, photo: Path, tiny_model_dir: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(bar: cli_progress.Bar, fraction: float, note: str) -> None:
        if fraction > 0.5:
            raise OSError(errno.EIO, "the terminal was closed")

    before = file_names(photo.parent)
    terminal.attach()
    monkeypatch.setattr(cli_progress.Bar, "__call__", draw)
    finished = run("encode", photo, "--model", tiny_model_dir)
    assert (finished.code, finished.stdout) == (2, "")
    assert file_names(photo.parent) == before
