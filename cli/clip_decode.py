"""Sequences to videos and pictures, for `ulcodec decode`."""

import re
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from errno import EEXIST
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ulcodec.errors import FormatError, ImageError, TruncatedError
from ulcodec.format.container import FINGERPRINT_BYTES
from ulcodec.format.primitives import CRC_BYTES
from ulcodec.info import START_BYTES, is_sequence
from ulcodec.io.files import sha256_of
from ulcodec.io.places import Place
from ulcodec.progress import share
from ulcodec_cli.common import STANDARD_STREAM, first_bytes, model_label, peek, say, write_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ulcodec.codec import Codec
    from ulcodec.codec.video import Video, VideoFrame
    from ulcodec.format.sequence import ClipFormat
    from ulcodec.io.picture import Picture

DEFAULT_SUFFIX = ".mp4"
SEQUENCE_START_BYTES = START_BYTES + FINGERPRINT_BYTES + 1
"""Bytes of the header of a sequence up to the one that says how many follow before its checksum."""
MOST_WARNINGS = 5
"""Errors of a damaged file that are printed."""
PATTERN = re.compile(r"%0?\d*d")
"""Place of the number in the names of numbered pictures."""
USUAL_PRIMARIES, USUAL_TRANSFERS = (1, 2, 5, 6, 7), (1, 2, 6, 13, 14, 15)
"""Code points of ITU-T H.273 whose pictures are shown as sRGB."""


@dataclass(frozen=True)
class SequenceOptions:
    """Options of `ulcodec decode` for sequences.

    `suffix`: extension of the result, None for the default; `encoder`, `crf`: of a video; `frame`, `time_s`: the one
    frame to decode.
    """

    suffix: str | None
    encoder: str | None
    crf: float | None
    frame: int | None
    time_s: float | None
    depth: int | None
    recover: bool
    force: bool
    max_pixels: int

    @property
    def is_picture(self) -> bool:
        """Whether the result is a single picture."""
        return self.frame is not None or self.time_s is not None


@dataclass(frozen=True)
class SequenceInput:
    """A sequence to decode: its path, or - for stdin."""

    source: Path


def is_sequence_file(source: Place) -> bool:
    """Whether an input is a sequence; a pipe that has a name is none, nor is a file elsewhere."""
    if not isinstance(source, Path):
        return False
    if source == STANDARD_STREAM:
        return is_sequence(peek(START_BYTES))
    return source.is_file() and is_sequence(first_bytes(source, START_BYTES))


def header_of(sequence: SequenceInput) -> bytes | Path:
    """Return the header of a sequence on standard input, which stays to be read, or the path of a file."""
    if sequence.source != STANDARD_STREAM:
        return sequence.source
    start = peek(SEQUENCE_START_BYTES)
    return peek(len(start) + start[-1] + CRC_BYTES) if len(start) == SEQUENCE_START_BYTES else start


def is_pattern(target: Path) -> bool:
    """Whether a target names numbered pictures, such as frames/%04d.png."""
    from ulcodec.io.clip_kinds import VIDEO_SUFFIXES

    return bool(PATTERN.search(target.name)) and target.suffix.lower() not in VIDEO_SUFFIXES


def check_options(target: Path, options: SequenceOptions) -> None:
    """Raise ImageError for options that do not apply to the result."""
    is_y4m = (target.suffix.lower() or options.suffix or (".y4m" if target == STANDARD_STREAM else "")) == ".y4m"
    if (options.encoder is not None or options.crf is not None) and (
        options.is_picture or is_pattern(target) or is_y4m
    ):
        raise ImageError("--encoder and --crf are for videos other than Y4M")
    if options.depth is not None and not (options.is_picture or is_pattern(target)):
        raise ImageError("--depth is for pictures; a video has the depth of its source")


def decode_sequence(codec: "Codec", sequence: SequenceInput, target: Path, options: SequenceOptions) -> dict[str, Any]:
    """Decode a sequence to a video, to numbered pictures, or one frame of it to a picture, and report it."""
    started = time.perf_counter()
    with ExitStack() as stack:
        file = opened(sequence, stack, may_stream=may_stream(target, options))
        video = stack.enter_context(codec.decode_video(file, recover=options.recover, max_pixels=options.max_pixels))
        if options.is_picture:
            n_frames = write_frame(video, target, options)
        elif is_pattern(target):
            n_frames = write_pictures(video, target, options)
        else:
            n_frames = write_video(video, target, options)
        damage = [str(error) for error in video.damage]
        clip = video.format
    for line in damage[:MOST_WARNINGS]:
        say(f"ulcodec: warning: {sequence.source}: {line}", err=True)
    if len(damage) > MOST_WARNINGS:
        say(f"ulcodec: warning: {sequence.source}: and at least {len(damage) - MOST_WARNINGS} more errors", err=True)
    seconds = time.perf_counter() - started
    line = f"{target}: {clip.width}x{clip.height}"
    if not options.is_picture:
        line += f", {n_frames} frames, {n_frames / seconds:.1f} frames/s"
    return {
        "output": str(target),
        "source_bytes": 0 if sequence.source == STANDARD_STREAM else sequence.source.stat().st_size,
        "output_bytes": target.stat().st_size if target.is_file() else 0,
        "width": clip.width,
        "height": clip.height,
        "n_frames": n_frames,
        "sha256": sha256_of(target) if target.is_file() else None,
        "model": model_label(codec),
        "fingerprint": codec.fingerprint,
        "damage": damage,
        "decode_ms": 1000 * seconds,
        "frames_per_s": n_frames / seconds,
        "line": line,
    }


def may_stream(target: Path, options: SequenceOptions) -> bool:
    """Whether a sequence can be decoded as it arrives: to pictures, or to Y4M on standard output, without audio."""
    if options.is_picture or options.recover:
        return False
    return is_pattern(target) or (target == STANDARD_STREAM and options.suffix in (None, ".y4m"))


def opened(sequence: SequenceInput, stack: ExitStack, *, may_stream: bool) -> Path | BinaryIO:
    """A sequence as the decoder takes it. Standard input is copied to a temporary file unless it may be streamed."""
    if sequence.source != STANDARD_STREAM:
        return sequence.source
    if may_stream:
        return sys.stdin.buffer
    copy = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 (the stack closes it)
    shutil.copyfileobj(sys.stdin.buffer, copy)
    copy.seek(0)
    return copy


def write_frame(video: "Video", target: Path, options: SequenceOptions) -> int:
    """Decode one frame, and write it as a picture; return 1. Raises ImageError for a frame that is not there."""
    from ulcodec.io.picture_files import image_format, picture_file

    try:
        frame = video.at(options.time_s) if options.time_s is not None else video[options.frame or 0]
    except IndexError as error:
        raise ImageError(str(error)) from error
    picture = with_depth(picture_of(frame.pixels, video.format), options.depth)
    write_file(target, picture_file(picture, image_format(with_extension(target, options.suffix or ".png"))))
    return 1


def write_pictures(video: "Video", pattern: Path, options: SequenceOptions) -> int:
    """Decode all frames to pictures numbered by their indices; return how many.

    Raises FileExistsError for one that is there, unless it is to be replaced.
    """
    from ulcodec.io.picture_files import image_format, picture_file

    name, n_frames = image_format(pattern), 0
    for frame, _ in timed_frames(video):
        target = numbered(pattern, frame.index)
        if target.exists() and not options.force:
            raise FileExistsError(EEXIST, "exists already; --force overwrites it", str(target))
        picture = with_depth(picture_of(frame.pixels, video.format), options.depth)
        write_file(target, picture_file(picture, name))
        n_frames += 1
    return checked_count(n_frames)


def numbered(pattern: Path, number: int) -> Path:
    """The path of one of several numbered pictures."""
    return pattern.with_name(PATTERN.sub(lambda match: match[0] % number, pattern.name))


def write_video(video: "Video", target: Path, options: SequenceOptions) -> int:
    """Decode all frames to a video, with the audio and the subtitles; return how many."""
    from ulcodec.io.video_target import CONTAINERS, open_target

    is_stream, n_frames = target == STANDARD_STREAM, 0
    suffix = options.suffix or (".y4m" if is_stream else DEFAULT_SUFFIX)
    if not target.suffix and suffix not in CONTAINERS:
        raise ImageError(f"{suffix} is no video; for the frames as pictures, name them: frames/%04d{suffix}")
    media = video.media() if video.can_seek else None
    has_media = media is not None and media.peek(1)
    with open_target(
        sys.stdout.buffer if is_stream else target,
        video.format,
        media=media if has_media else None,
        encoder=options.encoder,
        crf=options.crf,
        container=None if target.suffix else CONTAINERS[suffix],
    ) as sink:
        for frame, duration in timed_frames(video):
            sink.write(frame.pixels, int(frame.time_s / video.format.time_base), duration)
            n_frames += 1
        checked_count(n_frames)
    if video.n_media_bytes and not has_media:
        warnings.warn("audio and subtitles are left out: a .y4m file holds none", stacklevel=2)
    return n_frames


def checked_count(n_frames: int) -> int:
    """Return a number of frames. Raises ImageError if it is 0."""
    if not n_frames:
        raise ImageError("the sequence holds no whole frame")
    return n_frames


def timed_frames(video: "Video") -> "Iterator[tuple[VideoFrame, int]]":
    """Decode all frames, each with its duration in ticks; the frames before an error come before it.

    A warning, and no error, reports a file that ends before its index.
    """
    clip, started, last = video.format, time.perf_counter(), None
    frames, error = iter(video), None
    for number in count():
        n_left = (video.n_frames or 0) - number
        note = f"frame {number}, {number / (time.perf_counter() - started):.1f} frames/s"
        try:
            with share(1 / n_left if n_left > 0 else 0.0, note):
                frame = next(frames, None)
        except FormatError as damage:
            frame, error = None, damage
        if last is not None and frame is not None:
            yield last, int((frame.time_s - last.time_s) / clip.time_base)
        if frame is None:
            break
        last = frame
    if last is not None:
        end_s = video.duration_s if video.duration_s is not None else last.time_s + 1 / clip.frame_rate
        yield last, max(int((end_s - last.time_s) / clip.time_base), 1)
    if isinstance(error, TruncatedError):
        warnings.warn(str(error), stacklevel=2)
    elif error is not None:
        raise error


def picture_of(pixels: "NDArray[Any]", clip: "ClipFormat") -> "Picture":
    """Samples of a frame as a picture, with the code points of its colours if they are not those of usual video."""
    from ulcodec.format.cicp import Cicp
    from ulcodec.io.picture import Picture

    is_usual = clip.primaries in USUAL_PRIMARIES and clip.transfer in USUAL_TRANSFERS
    return Picture(pixels, cicp=None if is_usual else Cicp(clip.primaries, clip.transfer, 0, 1))


def with_extension(target: Place, suffix: str) -> Path:
    """Append an extension to a target that has none."""
    name = Path(target.name)
    return name if name.suffix else name.with_name(target.name + suffix)


def with_depth(picture: "Picture", depth: int | None) -> "Picture":
    """Convert a picture to the bit depth that is asked for."""
    if depth in (None, picture.bit_depth):
        return picture
    return replace(picture, pixels=picture.pixels_8 if depth == 8 else picture.pixels_16)
