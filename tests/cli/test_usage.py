"""The command itself: version, installation, completion, usage errors."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Run, file_names

import ulcodec


def test_version_is_printed(run: Run) -> None:
    finished = run("--version")
    assert (finished.code, finished.stdout) == (0, f"ulcodec {ulcodec.__version__}\n")


def test_installed_script_and_module_run() -> None:
    script = Path(sys.executable).with_name("ulcodec")
    for command in ([str(script)], [sys.executable, "-m", "ulcodec_cli"]):
        finished = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
        assert finished.stdout == f"ulcodec {ulcodec.__version__}\n"


def test_shell_completes_command_names() -> None:
    script = str(Path(sys.executable).with_name("ulcodec"))
    request = {"COMP_WORDS": "ulcodec enc", "COMP_CWORD": "1", "_ULCODEC_COMPLETE": "complete_bash"}
    completed = subprocess.run([script], capture_output=True, text=True, env={**os.environ, **request}, check=True)
    assert completed.stdout.split() == ["encode"]


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
def test_wrong_usage_is_an_error_without_output(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    finished = run(*arguments)
    assert finished.code == 2
    assert "Error" in finished.stderr
    assert not file_names(tmp_path)
