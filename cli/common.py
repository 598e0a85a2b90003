"""What the commands share: options, the choice of the output file, and how results are printed."""

import errno
import gc
import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ulcodec.catalogue import model_directory
from ulcodec_cli.progress import hide_bar

if TYPE_CHECKING:
    from ulcodec.codec import Codec

Model = Annotated[str, typer.Option(help="Name of an installed model, or a model directory.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite an existing output.")]
Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]

Recursive = Annotated[bool, typer.Option("--recursive", "-r", help="Look into folders in depth.")]
MaxPixels = Annotated[int, typer.Option(min=1, help="Refuse larger pictures before any memory is taken.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: torch's choice.")]

DEFAULT_MODEL = "small"
STANDARD_STREAM = Path("-")


def output_path(source: Path, output: Path | None, suffix: str, force: bool) -> Path:
    """Where the result goes: `output`, or beside `source` with `suffix`. Raises OSError if it cannot go there."""
    if STANDARD_STREAM in (output, output or source):
        return STANDARD_STREAM
    output = output or source.with_suffix(suffix)
    if output.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a directory", str(output))
    if not output.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such directory", str(output.parent))
    if output.exists() and source.exists() and output.samefile(source):
        raise FileExistsError(errno.EEXIST, "input and output are the same file", str(output))
    if output.is_file() and not force:
        raise FileExistsError(errno.EEXIST, "exists already; --force overwrites it", str(output))
    return output


def load_codec(model: str, device: str, threads: int | None) -> "Codec":
    model_directory(model)  # a name that is not known is told before torch is imported
    with no_collection():
        import torch

        import ulcodec

        if threads is not None:
            torch.set_num_threads(threads)
        return ulcodec.load(model, device=device)


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep the garbage collector off during imports, and let it pass over what they made: that stays to the end."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def read_file(source: Path) -> bytes:
    """A file's bytes, or those of standard input."""
    return sys.stdin.buffer.read() if source == STANDARD_STREAM else source.read_bytes()


def write_file(target: Path, data: bytes) -> None:
    """A whole file or none, or to standard output."""
    from ulcodec.files import atomic_write

    if target == STANDARD_STREAM:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        atomic_write(target, data)


def show_warnings() -> None:
    """Python's warnings as a line each on stderr."""

    def show(message: Warning | str, category: type[Warning], *_: Any) -> None:
        if category is UserWarning:
            say(f"ulcodec: warning: {message}", err=True)

    warnings.showwarning = show


def say(line: str, *, err: bool = False) -> None:
    """Print a line in the course of the work; a progress bar makes room for it."""
    hide_bar()
    typer.echo(line, err=err)


def print_json(values: Mapping[str, Any]) -> None:
    typer.echo(json.dumps(values))


def print_fields(values: Mapping[str, Any]) -> None:
    """One `name  value` line an entry, in columns."""
    width = max(map(len, values), default=0)
    for name, value in values.items():
        shown = f"{value:.6g}" if isinstance(value, float) else value
        typer.echo(f"{name.replace('_', ' '):<{width}}  {shown}")
