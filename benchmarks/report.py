"""What the benchmarks here share: progress, and how a report is written."""

import sys
from pathlib import Path

from ulcodec.io.files import atomic_write


def progress(text: str, *, last: bool = False) -> None:
    """Replace the progress line on stderr."""
    print(f"\r{text:<78}", end="\n" if last else "", file=sys.stderr, flush=True)


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, text.encode())
