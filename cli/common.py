"""Shared by the commands: options, the output file, loading a model, printing."""

import errno
import gc
import json
import math
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from io import BufferedReader, RawIOBase, TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TextIO, overload

import typer

from ulcodec.backends import BACKENDS, Backend
from ulcodec.errors import LocationError
from ulcodec.info import model_for
from ulcodec.io.places import Place, read_bytes, write_bytes
from ulcodec.store.installed import model_directory, model_of
from ulcodec_cli.progress import hide_bar

if TYPE_CHECKING:
    from ulcodec.codec.image import Codec

Model = Annotated[str, typer.Option(help="Name of an installed model, or a model directory.")]
FileModel = Annotated[
    str | None,
    typer.Option(
        help="Name of an installed model, or a model directory. Default: the model that made the file.",
        show_default=False,
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite an existing output.")]
Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]

Recursive = Annotated[bool, typer.Option("--recursive", "-r", help="Search folders in depth.")]
MaxPixels = Annotated[int, typer.Option(min=1, help="Refuse larger pictures before memory is allocated.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
Threads = Annotated[int | None, typer.Option(min=1, max=1024, help="CPU threads. Default: the backend's choice.")]
BackendOption = Annotated[
    str, typer.Option(help="torch, onnxruntime (on a CPU), or auto: torch, but onnxruntime for one small picture.")
]

DEFAULT_MODEL = "small"
ONE_OFF_PIXELS = 2**20
"""Pixels of one picture up to which starting torch takes longer than it saves, see docs/lab-notes/coding-speed.md."""

STANDARD_STREAM = Path("-")
OUT_OF_MEMORY = ("can't allocate memory", "out of memory")
"""Phrases in torch's RuntimeError when a CPU or a GPU is out of memory."""


@overload
def output_path(source: Path, output: Path | None, suffix: str, force: bool) -> Path: ...


@overload
def output_path(source: Place, output: Place | None, suffix: str, force: bool) -> Place: ...


def output_path(source: Place, output: Place | None, suffix: str, force: bool) -> Place:
    """Choose the output: `output`, or beside `source` with `suffix`. Raises OSError if it cannot be written there."""
    if STANDARD_STREAM in (output, output or source):
        return STANDARD_STREAM
    output = output or source.with_suffix(suffix)
    check_output(source, output, force)
    return output


def check_output(source: Place, output: Place, force: bool) -> None:
    """Raise OSError if an output cannot be written, or must not be replaced."""
    if isinstance(output, Path):
        if output.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a directory", str(output))
        if not output.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, "no such directory", str(output.parent))
        is_source = isinstance(source, Path) and output.exists() and source.exists() and output.samefile(source)
    else:
        is_source = str(source) == str(output)
    if is_source:
        raise FileExistsError(errno.EEXIST, "input and output are the same file", str(output))
    if not force and (output.is_file() if isinstance(output, Path) else output.exists()):
        raise FileExistsError(errno.EEXIST, "exists already; --force overwrites it", str(output))


class ModelOptions(NamedTuple):
    """What `--model`, `--device`, `--threads` and `--backend` say. `model`: None for the one that made a file."""

    model: str | None
    device: str
    threads: int | None
    backend: Backend

    @classmethod
    def of(cls, model: str | None, device: str, threads: int | None, backend: str) -> "ModelOptions":
        """Make options of what a command was given. Raises BadParameter for an unknown backend."""
        for known in BACKENDS:
            if backend == known:
                return cls(model, device, threads, known)
        raise typer.BadParameter(f"--backend is one of {', '.join(BACKENDS)}, got {backend!r}")

    @property
    def directory(self) -> Path:
        """The directory of the model, without a file that of `small`. Raises ModelError."""
        return model_directory(DEFAULT_MODEL if self.model is None else self.model)

    def directory_for(self, source: bytes | Path) -> Path:
        """Find the directory of the model for a file, its bytes or its path. Raises ModelError, and as `model_for`."""
        return model_for(source).directory if self.model is None else self.directory


def load_codec(directory: Path, options: ModelOptions, n_pixels: int | None = None) -> "Codec":
    """Load the model of a directory.

    `n_pixels`: size of the only picture that it is for, None for many pictures, or for a video. Raises ModelError,
    DeviceError or MissingPackageError.
    """
    backend: Backend = options.backend
    if backend == "auto" and starts_faster(directory, options.device, n_pixels):
        backend = "onnxruntime"
    with no_collection():
        from ulcodec.codec.loading import default_backend, load

        if backend == "auto":
            backend = default_backend(directory)
        if backend == "torch" and options.threads is not None:
            import torch

            torch.set_num_threads(options.threads)
        return load(directory, device=options.device, backend=backend, n_threads=options.threads)


def starts_faster(directory: Path, device: str, n_pixels: int | None) -> bool:
    """Whether onnxruntime is there for a model, and faster than torch in total for one picture of `n_pixels`."""
    if n_pixels is None or n_pixels > ONE_OFF_PIXELS or device not in ("auto", "cpu"):
        return False
    from ulcodec.graphs.graph_files import has_present_graphs

    return find_spec("onnxruntime") is not None and has_present_graphs(directory)


def model_identity(model: str | None) -> str:
    """SHA-256 of a model's integers; empty for None.

    Empty too if it cannot be read, since loading the model then gives the error.
    """
    return "" if model is None else str(model_document(model).get("coding_sha256", ""))


def model_document(model: str | Path) -> dict[str, Any]:
    """The `config.json` of a model; empty if it cannot be read, since loading the model then gives the error."""
    try:
        document = json.loads((model_directory(model) / "config.json").read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def model_label(codec: "Codec") -> str:
    """The label of a model that is installed, else its name."""
    model = model_of(codec.fingerprint_bytes)
    return codec.name if model is None else model.label


@contextmanager
def no_collection() -> Iterator[None]:
    """Turn the garbage collector off during imports, and exempt what they made: it lives until the process ends."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


class Prefixed(RawIOBase):
    """A stream of which the first bytes have been read already, from its beginning."""

    def __init__(self, head: bytes, stream: TextIO) -> None:
        self.head, self.stream = head, stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        rest = self.stream.buffer
        read = rest.read1 if isinstance(rest, BufferedReader) else rest.read  # `read1` gives what has arrived
        piece = self.head[: len(buffer)] or read(len(buffer))
        self.head = self.head[len(piece) :]
        buffer[: len(piece)] = piece
        return len(piece)


def peek(n_bytes: int) -> bytes:
    """The first bytes of standard input, fewer only if it ends before; they stay to be read."""
    head = sys.stdin.buffer.read(n_bytes)
    sys.stdin = TextIOWrapper(BufferedReader(Prefixed(head, sys.stdin)))
    return head


def first_bytes(source: Path, n_bytes: int) -> bytes:
    """The first bytes of a file, at most `n_bytes`."""
    with open(source, "rb") as file:
        return file.read(n_bytes)


def path_of(target: Place) -> Path:
    """The path of a target for a video. Raises LocationError for a URL."""
    if isinstance(target, Path):
        return target
    raise LocationError(f"{target}: a video is written to a file on this machine")


def read_file(source: Place) -> bytes:
    """Read a file, or standard input."""
    return sys.stdin.buffer.read() if source == STANDARD_STREAM else read_bytes(source)


def write_file(target: Place, data: bytes) -> None:
    """Write a file atomically, or to standard output."""
    if target == STANDARD_STREAM:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        write_bytes(target, data)


_subject: list[Place | None] = [None]


@contextmanager
def about(source: Place | None) -> Iterator[None]:
    """Context in which warnings name this file."""
    _subject.append(source)
    try:
        yield
    finally:
        _subject.pop()


def show_warnings() -> None:
    """Print every Python warning as one line on stderr, also equal ones: they may be about different files."""
    warnings.simplefilter("always", UserWarning)

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if category is UserWarning:
            name = "" if _subject[-1] is None else f"{_subject[-1]}: "
            say(f"ulcodec: warning: {name}{' '.join(str(message).split())}", err=True)

    warnings.showwarning = show


_collected: list[list[str]] = []


@contextmanager
def collected_lines() -> Iterator[list[str]]:
    """Context in which the lines of `say` go to a list."""
    _collected.append([])
    try:
        yield _collected[-1]
    finally:
        _collected.pop()


def say(line: str, *, err: bool = False) -> None:
    """Print a line while work goes on; a progress bar is hidden first."""
    if _collected:
        _collected[-1].append(line)
        return
    hide_bar()
    typer.echo(line, err=err)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is a MemoryError, or the RuntimeError that torch raises in its place."""
    is_torchs = isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in OUT_OF_MEMORY)
    return isinstance(error, MemoryError) or is_torchs


def finite(value: float | None) -> float | None:
    """Option callback: refuse infinities, and nan, which passes every range check."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"expected a finite number, got {value}")
    return value


def above_zero(value: float | None) -> float | None:
    """Option callback: refuse everything but finite numbers above 0."""
    if finite(value) is not None and value is not None and value <= 0:
        raise typer.BadParameter(f"expected a number above 0, got {value}")
    return value


def print_json(values: Mapping[str, Any]) -> None:
    """Print one line of JSON. JSON has no infinity: null replaces it."""
    typer.echo(json.dumps(without_infinities(values), allow_nan=False))


def without_infinities(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: without_infinities(entry) for name, entry in value.items()}
    return [without_infinities(entry) for entry in value] if isinstance(value, list | tuple) else value


def print_fields(values: Mapping[str, Any]) -> None:
    """Print one line per entry, name and value in columns."""
    width = max(map(len, values), default=0)
    for name, value in values.items():
        text = f"{value:.6g}" if isinstance(value, float) else value
        typer.echo(f"{name.replace('_', ' '):<{width}}  {text}")
