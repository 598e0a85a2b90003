"""Shared by the benchmarks: a status line, and writing of reports."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from rich.console import Console
from rich.status import Status

from ulcodec.bench.tables import markdown_table, text_table
from ulcodec.io.files import atomic_write


@cache
def status_line() -> Status:
    """The status line on stderr."""
    return Console(stderr=True).status("")


def progress(text: str, *, last: bool = False) -> None:
    """Show a text in the status line; the last one is printed in its place."""
    status = status_line()
    if last:
        status.stop()
        status.console.print(text, markup=False, highlight=False)
    else:
        status.update(text)
        status.start()


def write_text(path: Path, text: str) -> None:
    """Write a report, and make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, text.encode())


def show_table(header: Sequence[str], rows: Sequence[Sequence[str]], markdown: Path | None) -> None:
    """Print a table, and write it as Markdown if there is a file for that."""
    print(text_table(header, rows))
    if markdown:
        write_text(markdown, markdown_table(header, rows) + "\n")
