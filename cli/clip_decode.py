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
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from ulcodec.errors import ImageError, TruncatedError
from ulcodec.info import START_BYTES, is_sequence
from ulcodec.progress import share
from ulcodec_cli.common import STANDARD_STREAM, first_bytes, peek, say, write_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ulcodec.codec import Codec
    from ulcodec.codec.video import Video, VideoFrame
    from ulcodec.format.sequence import ClipFormat
    from ulcodec.io.picture import Picture

DEFAULT_SUFFIX = ".mp4"
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


class FrameSink(Protocol):
    """Where frames go; `time` and `duration` are in ticks. Leaving its context closes it, or drops it on an error."""

    def write(self, pixels: "NDArray[Any]", time: int, duration: int) -> None: ...
    def __enter__(self) -> "FrameSink": ...
    def __exit__(self, *error: Any) -> None: ...


class NumberedPictures:
    """Pictures whose names a pattern such as frames/%04d.png gives, counted from 0."""

    def __init__(self, video: "Video", pattern: Path, options: SequenceOptions) -> None:
        from ulcodec.io.picture_files import image_format

        self.video, self.pattern, self.options, self.n_written = video, pattern, options, 0
        self.format = image_format(pattern)

    def write(self, pixels: "NDArray[Any]", time: int, duration: int) -> None:
        """Write the next picture. Raises FileExistsError for one that is there, unless it is to be replaced."""
        from ulcodec.io.picture_files import picture_file

        target = self.pattern.with_name(PATTERN.sub(lambda match: match[0] % self.n_written, self.pattern.name))
        if target.exists() and not self.options.force:
            raise FileExistsError(EEXIST, "exists already; --force overwrites it", str(target))
        picture = with_depth(picture_of(pixels, self.video.format), self.options.depth)
        write_file(target, picture_file(picture, self.format))
        self.n_written += 1

    def __enter__(self) -> "NumberedPictures":
        return self

    def __exit__(self, *error: Any) -> None:
        pass


def is_sequence_file(source: Path) -> bool:
    """Whether an input is a sequence; a pipe that has a name is none."""
    if source == STANDARD_STREAM:
        return is_sequence(peek(START_BYTES))
    return source.is_file() and is_sequence(first_bytes(source, START_BYTES))


def decode_sequence(codec: "Codec", sequence: SequenceInput, target: Path, options: SequenceOptions) -> dict[str, Any]:
    """Decode a sequence to a video, to numbered pictures, or one frame of it to a picture, and report it."""
    started = time.perf_counter()
    is_plain = target == STANDARD_STREAM or bool(PATTERN.search(target.name))
    with ExitStack() as stack:
        file = opened(sequence, stack, may_stream=is_plain and not options.is_picture and not options.recover)
        video = stack.enter_context(codec.decode_video(file, recover=options.recover, max_pixels=options.max_pixels))
        n_frames = write_frame(video, target, options) if options.is_picture else write_frames(video, target, options)
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
        "model": codec.name,
        "fingerprint": codec.fingerprint,
        "damage": damage,
        "decode_ms": 1000 * seconds,
        "frames_per_s": n_frames / seconds,
        "line": line,
    }


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


def write_frames(video: "Video", target: Path, options: SequenceOptions) -> int:
    """Decode all frames, and write them; return their number."""
    n_frames = 0
    with open_sink(video, target, options) as sink:
        for frame, duration in timed_frames(video):
            sink.write(frame.pixels, int(frame.time_s / video.format.time_base), duration)
            n_frames += 1
        if not n_frames:
            raise ImageError("the sequence holds no whole frame")
    return n_frames


def open_sink(video: "Video", target: Path, options: SequenceOptions) -> FrameSink:
    """Begin the output: numbered pictures, or a video with the audio and the subtitles of the sequence."""
    from ulcodec.io.video_target import CONTAINERS, open_target

    if PATTERN.search(target.name):
        return NumberedPictures(video, target, options)
    is_stream = target == STANDARD_STREAM
    suffix = options.suffix or (".y4m" if is_stream else DEFAULT_SUFFIX)
    media = video.media() if video.reader.size_bytes is not None else None
    has_media = media is not None and media.peek(1)
    return open_target(
        sys.stdout.buffer if is_stream else target,
        video.format,
        media=media if has_media else None,
        encoder=options.encoder,
        crf=options.crf,
        container=None if target.suffix else CONTAINERS.get(suffix),
    )


def timed_frames(video: "Video") -> "Iterator[tuple[VideoFrame, int]]":
    """Decode all frames, each with its duration in ticks. A warning reports a file that ends before its index."""
    clip, started, last = video.format, time.perf_counter(), None
    frames = iter(video)
    for number in count():
        n_left = (video.n_frames or 0) - number
        note = f"frame {number}, {number / (time.perf_counter() - started):.1f} frames/s"
        with share(1 / n_left if n_left > 0 else 0.0, note):
            frame = next_frame(frames)
        if frame is None:
            break
        if last is not None:
            yield last, int((frame.time_s - last.time_s) / clip.time_base)
        last = frame
    if last is not None:
        nominal_s = 1 / clip.frame_rate
        end_s = video.duration_s if video.duration_s is not None else last.time_s + nominal_s
        yield last, max(int((end_s - last.time_s) / clip.time_base), 1)


def next_frame(frames: "Iterator[VideoFrame]") -> "VideoFrame | None":
    """Decode the next frame; None at the end, with a warning if the file is unfinished."""
    try:
        return next(frames, None)
    except TruncatedError as error:
        warnings.warn(str(error), stacklevel=2)
        return None


def picture_of(pixels: "NDArray[Any]", clip: "ClipFormat") -> "Picture":
    """Samples of a frame as a picture, with the code points of its colours if they are not those of usual video."""
    from ulcodec.format.cicp import Cicp
    from ulcodec.io.picture import Picture

    is_usual = clip.primaries in USUAL_PRIMARIES and clip.transfer in USUAL_TRANSFERS
    return Picture(pixels, cicp=None if is_usual else Cicp(clip.primaries, clip.transfer, 0, 1))


def with_extension(target: Path, suffix: str) -> Path:
    """Append an extension to a target that has none."""
    return target if target.suffix else target.with_name(target.name + suffix)


def with_depth(picture: "Picture", depth: int | None) -> "Picture":
    """Convert a picture to the bit depth that is asked for."""
    if depth in (None, picture.bit_depth):
        return picture
    return replace(picture, pixels=picture.pixels_8 if depth == 8 else picture.pixels.astype("uint16") * 257)
