"""What the commands share: options, the choice of the output file, and how results are printed."""

import errno
import gc
import json
import math
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ulcodec.store.installed import model_directory
from ulcodec_cli.progress import hide_bar

if TYPE_CHECKING:
    from ulcodec.codec.image import Codec

Model = Annotated[str, typer.Option(help="Name of an installed model, or a model directory.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite an existing output.")]
Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]

Recursive = Annotated[bool, typer.Option("--recursive", "-r", help="Look into folders in depth.")]
MaxPixels = Annotated[int, typer.Option(min=1, help="Refuse larger pictures before any memory is taken.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
Threads = Annotated[int | None, typer.Option(min=1, max=1024, help="CPU threads. Default: torch's choice.")]

DEFAULT_MODEL = "small"
STANDARD_STREAM = Path("-")
OUT_OF_MEMORY = ("can't allocate memory", "out of memory")
"""What torch's RuntimeError says on a CPU and on a GPU that has no memory left."""


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


def model_identity(model: str) -> str:
    """What tells this model from others: the SHA-256 of its integers, empty where loading it will say what is wrong."""
    try:
        return str(json.loads((model_directory(model) / "config.json").read_text())["coding_sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


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
    from ulcodec.io.files import atomic_write

    if target == STANDARD_STREAM:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        atomic_write(target, data)


_subject: list[Path | None] = [None]


@contextmanager
def about(source: Path | None) -> Iterator[None]:
    """Warnings meanwhile name this file."""
    _subject.append(source)
    try:
        yield
    finally:
        _subject.pop()


def show_warnings() -> None:
    """Python's warnings as a line each on stderr, all of them: equal ones are of different files."""
    warnings.simplefilter("always", UserWarning)

    def show(message: Warning | str, category: type[Warning], *_: Any) -> None:
        if category is UserWarning:
            named = "" if _subject[-1] is None else f"{_subject[-1]}: "
            say(f"ulcodec: warning: {named}{' '.join(str(message).split())}", err=True)

    warnings.showwarning = show


def say(line: str, *, err: bool = False) -> None:
    """Print a line in the course of the work; a progress bar makes room for it."""
    hide_bar()
    typer.echo(line, err=err)


def is_out_of_memory(error: BaseException) -> bool:
    """MemoryError, or the RuntimeError with which torch says the same."""
    said = isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)
    return isinstance(error, MemoryError) or said


def finite(value: float | None) -> float | None:
    """For options: neither nan, which passes every comparison, nor infinite."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"expected a finite number, got {value}")
    return value


def above_zero(value: float | None) -> float | None:
    """For options: finite and above 0."""
    if finite(value) is not None and value is not None and value <= 0:
        raise typer.BadParameter(f"expected a number above 0, got {value}")
    return value


def print_json(values: Mapping[str, Any]) -> None:
    """A line of JSON, which has no infinity: null stands for it."""
    typer.echo(json.dumps(without_infinities(values), allow_nan=False))


def without_infinities(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: without_infinities(entry) for name, entry in value.items()}
    return [without_infinities(entry) for entry in value] if isinstance(value, list | tuple) else value


def print_fields(values: Mapping[str, Any]) -> None:
    """One `name  value` line an entry, in columns."""
    width = max(map(len, values), default=0)
    for name, value in values.items():
        shown = f"{value:.6g}" if isinstance(value, float) else value
        typer.echo(f"{name.replace('_', ' '):<{width}}  {shown}")
