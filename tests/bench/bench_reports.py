"""Run `ulcodec bench`, and read its measurements."""

import csv
from pathlib import Path

from typer.testing import CliRunner

from ulcodec_cli.main import app


def bench(folder: Path, model: Path, out: Path, *options: str) -> str:
    """Run the command with quick defaults before `options`, and return its output."""
    defaults = {
        "-o": out,
        "--model": model,
        "--codecs": "jpeg,webp",
        "--device": "cpu",
        "--rates": "0.5,2",
        "--viewer": 1,
        "--sizes": "",
    }
    arguments = [str(part) for option in defaults.items() for part in option]
    finished = CliRunner().invoke(app, ["bench", str(folder), "--quick", *arguments, *options])
    assert finished.exit_code == 0, finished.output
    return finished.stdout


def rows_of(report: Path) -> list[dict[str, str]]:
    """Read the measurements of a report."""
    with open(report / "measurements.csv", newline="") as handle:
        return list(csv.DictReader(handle))
