"""Interrupted writes: after a kill, a signal or a full disk, the old file is still in place."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SIGNALLED_WHILE_WRITING = """
import os, signal, sys
from ulcodec_cli.main import app
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell inherits that it is ignored
number = int(sys.argv.pop())
def fsync(descriptor):
    os.kill(os.getpid(), number)
os.fsync = fsync
app()
"""

INTERRUPTED_IMPORT = """
import sys
class Finder:
    def find_spec(name, *_):
        if name == "ulcodec_cli.main":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Finder)
from ulcodec_cli.__main__ import main
main()
"""

LIMITED_FILE_SIZE = """
import resource
from ulcodec_cli.main import app
resource.setrlimit(resource.RLIMIT_FSIZE, (30, 30))
app()
"""


FULL_TMPFS = """
mount -t tmpfs -o size=4k tmpfs "$0" && printf old > "$0/result.png" || exit 77
"$@"
code=$?
ls -A "$0" && cat "$0/result.png" && exit $code
"""


@pytest.fixture
def files(tmp_path: Path, picture: np.ndarray, tiny_model_dir: Path) -> dict[str, list[str]]:
    """Write photo.png and photo.ulc. Return the arguments that encode or decode the one over the other."""
    Image.fromarray(picture).save(tmp_path / "photo.png")
    common = ["--model", str(tiny_model_dir), "--force"]
    encode = ["encode", str(tmp_path / "photo.png"), "-o", str(tmp_path / "photo.ulc"), *common]
    subprocess.run([sys.executable, "-m", "ulcodec_cli", *encode], check=True, capture_output=True)
    decode = ["decode", str(tmp_path / "photo.ulc"), "-o", str(tmp_path / "photo.png"), *common]
    return {"encode": encode, "decode": decode}


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("command", ["encode", "decode"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, -15), (signal.SIGINT, 130)])
def test_signal_during_writing_keeps_the_old_file(
    tmp_path: Path, files: dict[str, list[str]], command: str, number: signal.Signals, code: int
) -> None:
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    finished = run_python(SIGNALLED_WHILE_WRITING, *files[command], str(int(number)))
    assert finished.returncode == code
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    if number == signal.SIGINT:
        assert finished.stderr == "ulcodec: interrupted\n"
        assert {path.name for path in tmp_path.iterdir()} == set(before)


@pytest.mark.parametrize("command", ["encode", "decode"])
def test_limit_of_file_size_keeps_the_old_file(tmp_path: Path, files: dict[str, list[str]], command: str) -> None:
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert min(map(len, before.values())) > 30
    finished = run_python(LIMITED_FILE_SIZE, *files[command])
    assert finished.returncode == 2
    assert finished.stderr.startswith("ulcodec: error: ")
    assert len(finished.stderr.splitlines()) == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.skipif(shutil.which("unshare") is None, reason="mounting a file system for the test needs unshare")
@pytest.mark.parametrize("command", ["encode", "decode"])
def test_full_file_system_keeps_the_old_file(tmp_path: Path, files: dict[str, list[str]], command: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    name, source, _, _, *options = files[command]
    arguments = [sys.executable, "-m", "ulcodec_cli", name, source, "-o", str(disk / "result.png"), *options]
    shell = ["unshare", "--map-root-user", "--mount", "sh", "-c", FULL_TMPFS, str(disk), *arguments]
    finished = subprocess.run(shell, capture_output=True, text=True)
    if finished.returncode in (1, 77):
        pytest.skip(f"cannot mount a tmpfs: {finished.stderr}")
    assert (finished.returncode, finished.stdout) == (2, "result.png\nold")
    assert "No space left on device" in finished.stderr
    assert len(finished.stderr.splitlines()) == 1


def test_interrupt_during_imports_is_one_line() -> None:
    finished = run_python(INTERRUPTED_IMPORT)
    assert (finished.returncode, finished.stderr) == (130, "ulcodec: interrupted\n")
