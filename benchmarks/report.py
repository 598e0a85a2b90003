"""What every benchmark's report shares: where it was measured, progress, and tables as text, markdown and JSON."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ulcodec.bench.machine import machine_record, without_folder
from ulcodec.codec import Codec
from ulcodec.images import atomic_write
from ulcodec.precision import bfloat16_pays

ROOT = Path(__file__).parent.parent
DECIMALS = 5


def progress(text: str, *, last: bool = False) -> None:
    """Replace the progress line on stderr."""
    print(f"\r{text:<78}", end="\n" if last else "", file=sys.stderr, flush=True)


def run_record(benchmark: str, arguments: Sequence[str], codec: Codec) -> dict[str, Any]:
    """Where, how and with which model a report was measured."""
    return {
        "command": " ".join(["python", "-m", f"benchmarks.{benchmark}", *map(without_folder, arguments)]),
        "commit": commit(),
        "model": codec.name,
        "model_fingerprint": codec.fingerprint,
        "device": torch.cuda.get_device_name(codec.device) if codec.device.type == "cuda" else codec.device.type,
        "network_dtype": "bfloat16" if bfloat16_pays(codec.device) else "float32",
        **machine_record(),
    }


def commit() -> str | None:
    """Commit of the working tree, marked `-dirty` if tracked files other than results differ; None outside git."""
    head = git("rev-parse", "HEAD")
    changes = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")
    return f"{head}-dirty" if head and changes else head


def git(*arguments: str) -> str | None:
    try:
        finished = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return finished.stdout.strip()


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """First column aligned to the left, the others to the right."""
    first, *others = (max(map(len, column)) for column in zip(header, *rows, strict=True))
    lines = (
        [row[0].ljust(first), *(cell.rjust(width) for cell, width in zip(row[1:], others, strict=True))]
        for row in (header, *rows)
    )
    return "\n".join("  ".join(line) for line in lines)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned as `text_table`."""
    lines = (header, [":---"] + ["---:"] * (len(header) - 1), *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, text.encode())


def to_json(report: dict[str, Any]) -> str:
    """JSON with a line for every row of a table, so that reports stay short and their differences readable."""
    sections = ",\n".join(f'"{name}": {section_json(section)}' for name, section in report.items())
    return f"{{\n{sections}\n}}\n"


def section_json(section: Any) -> str:
    if isinstance(section, list):
        return "[\n" + ",\n".join(f"  {json.dumps(rounded(row))}" for row in section) + "\n]"
    return json.dumps(rounded(section), indent=2)


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, DECIMALS) if isinstance(value, float) else value for name, value in row.items()}
