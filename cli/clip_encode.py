"""Clips to sequences, for `ulcodec encode`."""

import errno
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import typer

from ulcodec.errors import FormatError, ImageError
from ulcodec.format.container import MAGIC, SEQUENCE_VERSION
from ulcodec.info import START_BYTES, is_sequence
from ulcodec.io.files import sha256_of
from ulcodec.io.places import Place
from ulcodec_cli.common import STANDARD_STREAM, first_bytes, model_label, peek, read_file, say

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from ulcodec.codec import Codec
    from ulcodec.codec.clip_encoder import WrittenPart

PART_SUFFIX = ".part"
"""Extension of a file while it is written; it can be decoded, and gone on with."""

SEQUENCE_START = MAGIC + bytes([SEQUENCE_VERSION])

BIT_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


@dataclass(frozen=True)
class ClipOptions:
    """Options of `ulcodec encode` for clips; `target`: "--quality" or "--target-bitrate", and its value."""

    target: tuple[str, Any]
    effort: int
    gop: int
    start_s: float
    duration_s: float | None
    resume: bool
    force: bool
    max_pixels: int

    @property
    def is_part(self) -> bool:
        """Whether only a part of the clip is to be encoded."""
        return self.start_s > 0 or self.duration_s is not None


@dataclass(frozen=True)
class ClipInput:
    """A clip to encode: its path, or - for stdin, and what the codec reads."""

    source: Path
    content: Path | bytes | BinaryIO

    @property
    def size_bytes(self) -> int:
        return 0 if self.source == STANDARD_STREAM else self.source.stat().st_size


def read_input(source: Place) -> ClipInput | bytes:
    """Read a picture; a clip is only looked at. A pipe that has a name is a picture.

    Raises ImageError for a clip that is not on this machine.
    """
    from ulcodec.io.clip_kinds import HEAD_BYTES, is_animation, is_video, may_be_animation

    if not isinstance(source, Path):
        data = read_file(source)
        if is_video(data[:HEAD_BYTES], source.name) or (may_be_animation(data[:HEAD_BYTES]) and is_animation(data)):
            raise ImageError("a video in a shard or at a URL is not encoded: copy it here first")
        return data
    is_stdin = source == STANDARD_STREAM
    if not is_stdin and not source.is_file():
        return read_file(source)
    head = peek(HEAD_BYTES) if is_stdin else first_bytes(source, HEAD_BYTES)
    if is_video(head, "" if is_stdin else source.name):
        return ClipInput(source, sys.stdin.buffer if is_stdin else source)
    data = read_file(source)
    return ClipInput(source, data) if may_be_animation(head) and is_animation(data) else data


def parse_bitrate(text: str) -> float:
    """Parse a bitrate in bits a second, such as 800k or 1.5M. Raises BadParameter."""
    match = re.fullmatch(r"\s*(\d{1,12}(?:\.\d{1,12})?)\s*([kmg]?)\s*", text.lower(), re.ASCII)
    rate = float(match[1]) * BIT_UNITS[match[2]] if match else 0.0
    if rate <= 0:
        raise typer.BadParameter(f"expected a bitrate such as 800k or 1.5M bits a second, got {text!r}")
    return rate


def parse_time(text: str) -> float:
    """Parse seconds, or [hours:]minutes:seconds. Raises BadParameter."""
    match = re.fullmatch(r"(?:(?:(\d{1,6}):)?(\d{1,6}):)?(\d{1,9}(?:\.\d{1,9})?)", text.strip(), re.ASCII)
    if not match:
        raise typer.BadParameter(f"expected seconds or hours:minutes:seconds, got {text!r}")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return 3600 * hours + 60 * minutes + seconds


def encode_clip(codec: "Codec", clip: ClipInput, target: Path, options: ClipOptions) -> dict[str, Any]:
    """Encode a clip to a file, and report it."""
    started = time.perf_counter()
    if target == STANDARD_STREAM:
        write_pieces(pieces_of(codec, clip, options), sys.stdout.buffer)
        return {"output": str(target), "line": ""}
    if target.exists() and not target.is_file():  # a device or a pipe
        with open(target, "wb") as file:
            n_bytes = write_pieces(pieces_of(codec, clip, options), file)
        sizes = {"source_bytes": clip.size_bytes, "output_bytes": n_bytes}
        return {"output": str(target), **sizes, "line": f"{target}: {n_bytes} bytes"}
    write_part(codec, clip, Path(os.path.realpath(target)), options)
    return report_of(codec, clip, target, time.perf_counter() - started)


def pieces_of(
    codec: "Codec", clip: ClipInput, options: ClipOptions, written: "WrittenPart | None" = None
) -> Iterator[bytes]:
    """Encode a clip to the pieces of its file."""
    name, value = options.target
    rate: dict[str, Any] = {"target_bitrate": value} if name == "--target-bitrate" else {"quality": value}
    return codec.encode_video(
        clip.content, gop=options.gop, effort=options.effort, start_s=options.start_s, duration_s=options.duration_s,
        max_pixels=options.max_pixels, written=written, **rate,
    )  # fmt: skip


def write_pieces(pieces: Iterator[bytes], file: BinaryIO) -> int:
    """Write a file as it is encoded; return its number of bytes."""
    n_bytes = 0
    for piece in pieces:
        file.write(piece)
        file.flush()
        n_bytes += len(piece)
    return n_bytes


def write_part(codec: "Codec", clip: ClipInput, target: Path, options: ClipOptions) -> None:
    """Write a file under the name of an unfinished one, and rename it when it is whole.

    An error leaves the unfinished file, if it holds a frame. Raises FileExistsError for one that is there already,
    unless it is gone on with or to be replaced.
    """
    from ulcodec.io.files import keep_permissions

    part = target.with_name(target.name + PART_SUFFIX)
    check_part(clip, part, options)
    with named_errors(part), open_locked(part) as file:
        written = written_part(clip, part, file) if options.resume else None
        has_begun = False
        try:
            pieces = pieces_of(codec, clip, options, written)
            first = next(pieces, b"")  # errors in going on come before the file is changed
            file.truncate(0 if written is None else written.size_bytes)
            file.seek(0, os.SEEK_END)
            has_begun = True
            keep_permissions(target, part)
            write_pieces(chain([first], pieces), file)
            os.fsync(file.fileno())
            if fcntl is None:
                file.close()  # Windows renames no open file
            os.replace(part, target)
        except BaseException as error:
            leave_part(part, file, has_begun)
            if isinstance(error, ImageError) and written is not None and not has_begun:
                raise ImageError(f"{part}: {error}; --force without --resume starts anew") from error
            raise


def check_part(clip: ClipInput, part: Path, options: ClipOptions) -> None:
    """Raise an OSError for an unfinished file that must not be written."""
    if part.is_symlink() or (part.exists() and not part.is_file()):
        raise FileExistsError(errno.EEXIST, "is in the way of the unfinished file", str(part))
    if not part.exists():
        return
    if clip.source != STANDARD_STREAM and part.samefile(clip.source):
        raise FileExistsError(errno.EEXIST, "is the input, and has the name of the unfinished output", str(part))
    if not is_begun_sequence(first_bytes(part, START_BYTES)):
        raise FileExistsError(errno.EEXIST, "is in the way, and is not an unfinished sequence", str(part))
    if not (options.resume or options.force):
        raise FileExistsError(errno.EEXIST, "exists already; --resume goes on with it, --force starts anew", str(part))


def is_begun_sequence(start: bytes) -> bool:
    """Whether a file is a sequence or may have been cut off before that shows."""
    return is_sequence(start) or (len(start) < START_BYTES and SEQUENCE_START.startswith(start))


@contextmanager
def open_locked(part: Path) -> Iterator[BinaryIO]:
    """Open a file to write it, for this process alone where the system has locks. Raises an OSError if it is taken."""
    with open(os.open(part, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise BlockingIOError(errno.EAGAIN, "another run is writing it", str(part)) from error
        if not part.exists() or not os.path.samestat(os.fstat(file.fileno()), part.stat()):
            raise BlockingIOError(errno.EAGAIN, "another run has just finished it", str(part))
        try:
            yield file
        finally:
            with suppress(OSError):  # of a full disk: it was raised already
                file.close()


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Name a file in the errors of the system that name none."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, error.filename or str(path)) from error


def written_part(clip: ClipInput, part: Path, file: BinaryIO) -> "WrittenPart | None":
    """Read an unfinished file; None if it holds no frame. Raises ImageError if the source has changed since."""
    from ulcodec.codec.clip_encoder import WrittenPart

    try:
        written = WrittenPart.read(file)
    except FormatError:
        return None
    if not written.builder.n_frames:
        return None
    if clip.source != STANDARD_STREAM and clip.source.stat().st_mtime_ns > part.stat().st_mtime_ns:
        raise ImageError(f"{clip.source} has changed since {part} was written; --force without --resume starts anew")
    return written


def leave_part(part: Path, file: BinaryIO, has_begun: bool) -> None:
    """Remove an unfinished file that holds no frame. Say what it holds otherwise, if this run has written it."""
    from ulcodec.codec.clip_encoder import WrittenPart

    n_frames = 0
    with suppress(OSError):
        file.flush()
    with suppress(FormatError, OSError), open(part, "rb") as again:
        n_frames = WrittenPart.read(again).builder.n_frames
    if n_frames and has_begun:
        say(f"ulcodec: {part} holds the first {n_frames} frames; --resume goes on", err=True)
    elif not n_frames:
        part.unlink(missing_ok=True)


def report_of(codec: "Codec", clip: ClipInput, target: Path, seconds: float) -> dict[str, Any]:
    """Describe a finished file."""
    from ulcodec.info import info

    fields = info(target, max_pixels=None)
    n_frames, frames_per_s = fields["n_frames"], fields["n_frames"] / seconds
    size = f"{fields['width']}x{fields['height']}, {n_frames} frames, {fields['duration_s']:.2f} s"
    rate = f"{fields['kbit_per_s']:.0f} kbit/s, {fields['bits_per_pixel']:.3f} bits per pixel"
    return {
        "output": str(target),
        "source_bytes": clip.size_bytes,
        "output_bytes": fields["file_bytes"],
        **fields,
        "sha256": sha256_of(target),
        "model": model_label(codec),
        "encode_ms": 1000 * seconds,
        "frames_per_s": frames_per_s,
        "line": f"{target}: {size}, {fields['file_bytes']} bytes, {rate}, {frames_per_s:.1f} frames/s",
    }
