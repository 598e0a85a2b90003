"""Read clips: videos with PyAV, animated pictures with Pillow. Frames are upright RGB or grey, one at a time.

Times are ticks of `ClipFormat.time_base`, counted from the start time of the container, so that frames and copied
packets of audio and subtitles stay in step.
"""

import warnings
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from functools import cache
from io import BytesIO
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, cast

import av
import numpy as np
from av.container import Flags, InputContainer, OutputContainer
from av.packet import Packet
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image

from ulcodec.errors import ImageError
from ulcodec.format.cicp import SRGB_TRANSFER, UNSPECIFIED
from ulcodec.format.container import MAX_PIXELS, Layout
from ulcodec.format.sequence import MAX_DEPTH, MAX_TERM, MIN_DEPTH, Chroma, ClipFormat
from ulcodec.io.clip_kinds import HEAD_BYTES, frame_numbers, is_animation, may_be_animation
from ulcodec.io.pictures import open_image

VideoInput = str | Path | bytes | BinaryIO

NOT_VIDEO_FORMATS = frozenset({"tty"})
"""FFmpeg's formats that accept files of other kinds: `tty` shows any text."""

DEFAULT_RATE = Fraction(25)
DEFAULT_DURATION_MS = 100
"""Time of a frame of an animation that states none, as in browsers."""
N_PROBED_FRAMES = 64
"""Frames of an animation whose durations decide the nominal rate."""
INEXACT_SEEKING = frozenset({"mpeg"})
"""FFmpeg's formats whose frames get other times after seeking."""
STATING_DURATION = ("matroska", "mov")
"""Beginnings of FFmpeg's names of formats whose duration is no estimate."""
TOLERANCE_S = 1
PIPE_HINT = "; some formats can be read from a file, but not from a pipe"
MEDIA_MARGIN_S = 2
"""How far audio may lag behind the video in a file."""

LANCZOS, FULL_CHROMA_INTERPOLATION, FULL_CHROMA_INPUT = 0x200, 0x2000, 0x4000
ACCURATE_ROUNDING, BIT_EXACT = 0x40000, 0x80000
"""swscale's flags, of which PyAV 17 has no names."""
SCALING = LANCZOS | FULL_CHROMA_INTERPOLATION | FULL_CHROMA_INPUT | ACCURATE_ROUNDING | BIT_EXACT
"""Interpolation of chroma. Without these flags, swscale repeats chroma samples and rounds luma coarsely."""
OWN_SITING = frozenset({"rawvideo"})
DEFAULT_SITING = {"chroma_sample_location": "left"}
"""Place of chroma samples for a decoder that sets none. swscale would take them for centred, unlike players."""
BT709, BT601_PAL, BT601 = 1, 5, 6
SWSCALE_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
"""swscale's number of a matrix of ITU-T H.273. That of constant luminance is approximated."""
HD_PX = 720
"""Height from which the usual matrix is BT.709."""
BITEXACT: int = cast(Any, Flags.bitexact).value
MAX_16 = 65535
LIMITED_WHITE_16 = 65283
"""swscale's white in 16-bit RGB of YUV of limited range."""


class SourceFrame(NamedTuple):
    """A frame of a clip.

    `pixels`: uint8 [H, W, 3], or [H, W] if grey; uint16 of the full range if the source has more than 8 bits; `time`:
    ticks of `ClipFormat.time_base` since the beginning of the clip.
    """

    pixels: NDArray[np.integer]
    time: int


class _Timed(NamedTuple):
    """Something that is shown at `time` for `duration`, both in ticks."""

    item: Any
    time: int
    duration: int


def open_video(
    source: VideoInput, *, start_s: float = 0.0, duration_s: float | None = None, max_pixels: int = MAX_PIXELS
) -> "VideoSource":
    """Open a clip: a path, the bytes of a file, or a binary file object, which may be a pipe.

    `start_s`, `duration_s`: the part to read, in seconds; times count from `start_s`. A UserWarning reports what is
    left out or changed. Raises ImageError if the source is not a video that can be read, has no frame in that part, or
    has frames of more than `max_pixels`; OSError if it cannot be read; ValueError for a part that is none.
    """
    if start_s < 0 or (duration_s is not None and duration_s <= 0):
        raise ValueError(f"start_s must be 0 or more and duration_s positive, got {start_s} and {duration_s}")
    part = _Part(Fraction(start_s), None if duration_s is None else Fraction(duration_s))
    if isinstance(source, (str, Path)):
        with open(source, "rb") as file:
            data = _animation(file)
        opened: str | BinaryIO | Pipe = f"file:{source}"  # no name is taken for a protocol
    else:
        opened = _input(source)
        data = None if isinstance(opened, Pipe) else _animation(opened)
    return _ContainerSource(opened, part, max_pixels) if data is None else _AnimationSource(data, part, max_pixels)


def _input(source: bytes | BinaryIO) -> "BinaryIO | Pipe":
    """A file that can seek, or a pipe of something that PyAV reads."""
    if isinstance(source, bytes):
        return BytesIO(source)
    if source.seekable():
        return source
    pipe = Pipe(source)
    return BytesIO(pipe.read()) if may_be_animation(pipe.head) else pipe


def _animation(file: BinaryIO) -> bytes | None:
    """The bytes of an animated picture; None for another kind of file, at whose beginning `file` is left."""
    head = file.read(HEAD_BYTES)
    file.seek(0)
    if not may_be_animation(head):
        return None
    data = file.read()
    file.seek(0)
    return data if is_animation(data) else None


class Pipe:
    """A stream that cannot seek, with the first bytes read ahead. PyAV reads it."""

    def __init__(self, file: BinaryIO) -> None:
        self._read = getattr(file, "read1", file.read)  # `read` would wait until a buffer is full
        self._read_all = file.read
        self.head: bytes = file.read(HEAD_BYTES) or b""
        self._ahead = self.head

    def read(self, n_bytes: int = -1) -> bytes:
        """At most `n_bytes` bytes, or all that are left."""
        if n_bytes < 0:
            ahead, self._ahead = self._ahead, b""
            return ahead + self._read_all()
        ahead, self._ahead = self._ahead[:n_bytes], self._ahead[n_bytes:]
        return ahead or self._read(n_bytes) or b""


class _Part(NamedTuple):
    """The part of a clip to read, in seconds."""

    start: Fraction
    duration: Fraction | None

    def window(self, time_base: Fraction) -> tuple[int, int | None]:
        """Beginning and end in ticks."""
        start = round(self.start / time_base)
        return start, None if self.duration is None else start + max(1, round(self.duration / time_base))

    def n_frames(self, total: Fraction | None, rate: Fraction) -> int | None:
        """Expected number of frames of a clip of `total` seconds."""
        left = None if total is None else max(Fraction(0), total - self.start)
        lengths = [length for length in (left, self.duration) if length is not None]
        return max(1, round(min(lengths) * rate)) if lengths else None


class VideoSource:
    """An iterator over the frames of a clip in order of display, and a context manager.

    `format`: what all frames have in common; `n_frames`: expected number of frames, an estimate, or None; `end`: end of
    the last frame that was read in ticks, None before the first one. Reading raises ImageError for damaged data.
    """

    format: ClipFormat
    n_frames: int | None
    end: int | None = None
    _frames: Iterator[_Timed]
    _is_on_white: bool = False

    def __iter__(self) -> "VideoSource":
        return self

    def __next__(self) -> SourceFrame:
        with _readable():
            frame = next(self._frames)
            pixels = self._pixels(frame.item)
        self.end = frame.time + frame.duration
        return SourceFrame(pixels, frame.time)

    def __enter__(self) -> "VideoSource":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def take_media(self) -> bytes:
        """The next piece of the Matroska stream of audio and subtitles, complete once all frames are read.

        Empty if there is no more yet, or neither audio nor subtitles.
        """
        return b""

    def close(self) -> None:
        """Free the decoder. A file object that was passed stays open."""

    def _pixels(self, item: Any) -> NDArray[np.integer]:
        raise NotImplementedError

    def _peeked(self, frames: Iterator[_Timed]) -> _Timed:
        """Set the frames to read, and return the first one without reading it."""
        first = next(frames, None)
        if first is None:
            raise ImageError("the video has no frames, at least not in the part to read")
        self._frames = chain([first], frames)
        return first

    def _on_white(self, samples: NDArray[np.integer]) -> NDArray[np.integer]:
        """Composite samples [H, W, 4] with alpha on white: [H, W, 3]."""
        peak = np.iinfo(samples.dtype).max
        alpha = samples[:, :, 3:].astype(np.uint32)
        if (alpha == peak).all():
            return np.ascontiguousarray(samples[:, :, :3])
        if not self._is_on_white:
            warnings.warn("transparency is left out: frames are shown on white", stacklevel=4)
            self._is_on_white = True
        mixed: NDArray[np.integer] = (samples[:, :, :3] * alpha + peak * (peak - alpha) + peak // 2) // peak
        return mixed.astype(samples.dtype)


def _within(frames: Iterator[_Timed], start: int, end: int | None) -> Iterator[_Timed]:
    """The frames from `start` up to `end`, both in ticks, with times from `start`."""
    for frame in frames:
        if end is not None and frame.time >= end:
            return
        if frame.time >= start:
            duration = frame.duration if end is None else min(frame.duration, end - frame.time)
            yield frame._replace(time=frame.time - start, duration=duration)


@contextmanager
def _readable(hint: str = "") -> Iterator[None]:
    """Turn errors of PyAV into ImageError."""
    try:
        yield
    except av.FFmpegError as error:
        raise ImageError(f"the video is damaged or cannot be read: {error.strerror or error}{hint}") from error


class _AnimationSource(VideoSource):
    """The frames of an animated picture. Loop counts are ignored."""

    def __init__(self, data: bytes, part: _Part, max_pixels: int) -> None:
        image = open_image(data)
        _check_size(image.width, image.height, max_pixels)
        durations = [frame.duration for frame in islice(self._read(open_image(data)), N_PROBED_FRAMES)]
        rate = Fraction(1000, Counter(durations).most_common(1)[0][0])
        self.format = ClipFormat(
            *(image.width, image.height, Fraction(1, 1000), rate), primaries=BT709, transfer=SRGB_TRANSFER, matrix=0
        )
        n_frames = len(frame_numbers(image))
        mean_s = Fraction(sum(durations), 1000 * len(durations))
        self.n_frames = part.n_frames(n_frames * mean_s, 1 / mean_s)
        self._peeked(_within(self._read(image), *part.window(self.format.time_base)))

    def _read(self, image: Image.Image) -> Iterator[_Timed]:
        """Yield the image itself, which shows its next frame each time."""
        elapsed_ms, time = 0.0, 0
        for number in frame_numbers(image):
            try:
                image.seek(number)
                image.load()
            except Exception as error:  # decoders of damaged files raise almost anything
                raise ImageError(f"frame {number} of the animation cannot be read: {error}") from error
            elapsed_ms += float(image.info.get("duration") or DEFAULT_DURATION_MS)
            following = max(time + 1, round(elapsed_ms))
            yield _Timed(image, time, following - time)
            time = following

    def _pixels(self, item: Any) -> NDArray[np.integer]:
        if item.has_transparency_data:
            return self._on_white(np.array(item.convert("RGBA")))
        return np.array(item.convert("RGB"))


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(f"{width}x{height} is more than {max_pixels} pixels")


class _ContainerSource(VideoSource):
    """The first video of a file that PyAV opens."""

    def __init__(self, file: "str | BinaryIO | Pipe", part: _Part, max_pixels: int) -> None:
        self._container = open_container(file)
        self._reached = Fraction(0)
        self._packets = self._demuxed()
        self._can_seek = not isinstance(file, Pipe) and self._container.format.name not in INEXACT_SEEKING
        self._media = _MediaCopy([*self._container.streams.audio, *self._container.streams.subtitles])
        try:
            with _readable(PIPE_HINT if isinstance(file, Pipe) else ""):
                self._begin(part, max_pixels)
        except BaseException:
            self.close()
            raise

    def _begin(self, part: _Part, max_pixels: int) -> None:
        self._stream = stream = _video_of(self._container)
        _check_size(stream.width, stream.height, max_pixels)
        _prepare(stream)
        self._time_base, self._rate = _time_base_of(stream), _rate_of(stream)
        start_time = self._container.start_time
        self._zero = None if start_time is None else max(Fraction(0), Fraction(start_time, av.time_base))
        self._window = start, end = part.window(self._time_base)
        first = self._peeked(_within(self._from(start), start, end))
        _check_size(first.item.width, first.item.height, max_pixels)
        self._converter = _Converter(first.item)
        self.format = self._converter.format(first.item, stream, first.time)
        self.n_frames = part.n_frames(self._total_s(), self._rate)
        self._media.begin(None if end is None else (end - start) * self._time_base)

    def _total_s(self) -> Fraction | None:
        """Length of the clip in seconds, None if it is unknown."""
        stream = self._stream
        if stream.frames:
            return stream.frames / self._rate
        if stream.duration and stream.time_base:
            return stream.duration * stream.time_base
        return Fraction(self._container.duration, av.time_base) if self._container.duration else None

    def _from(self, start: int) -> Iterator[_Timed]:
        """Decode from the key frame before `start` in ticks, or from the beginning of the clip."""
        if start > 0 and self._can_seek and self._zero is not None:
            try:
                self._container.seek(int((self._zero + start * self._time_base) * av.time_base))
            except av.FFmpegError:
                return self._timed()
            with suppress(av.FFmpegError):
                frames = self._timed()
                first = next(frames, None)
                if first is not None and first.time <= start:
                    return chain([first], frames)
            self._media.clear()
            self._container.seek(int(self._zero * av.time_base))
        return self._timed()

    def _timed(self) -> Iterator[_Timed]:
        """Yield decoded frames with their times, which rise."""
        step = 1 / (self._rate * self._time_base)
        last, expected = -1, Fraction(0)
        for frame in self._decoded():
            if frame.pts is not None and frame.time_base:
                seconds = frame.pts * frame.time_base
                if self._zero is None or (last < 0 and seconds < self._zero):
                    self._zero = seconds
                expected = (seconds - self._zero) / self._time_base
            self._media.cut(self._zero or Fraction(0), self._window[0] * self._time_base)
            last = max(last + 1, round(expected))
            duration = frame.duration * frame.time_base / self._time_base if frame.time_base else 0
            yield _Timed(frame, last, max(1, round(duration or step)))
            expected += step

    def _decoded(self) -> Iterator[VideoFrame]:
        """Decode the packets of the video, and set those of other streams aside.

        Packets before the first frame may fail: recordings of broadcasts begin within a group of pictures.
        """
        self._packets = self._demuxed()
        has_begun, failure = False, None
        for packet in self._packets:
            if packet.stream_index != self._stream.index:
                self._media.add(packet)
                continue
            try:
                frames: list[Any] = packet.decode()
            except av.FFmpegError as error:
                if has_begun:
                    raise
                failure = error
                continue
            has_begun = has_begun or bool(frames)
            yield from frames
        if failure is not None and not has_begun:
            raise failure

    def _demuxed(self) -> Generator[Any, None, None]:
        for packet in self._container.demux(self._stream, *self._media.streams):
            if packet.pts is not None and packet.time_base:
                self._reached = max(self._reached, (packet.pts + (packet.duration or 0)) * packet.time_base)
            yield packet
        self._check_end()

    def _check_end(self) -> None:
        """Warn of a file that ends early, since FFmpeg takes damage of a container for its end."""
        stated = Fraction(self._container.duration or 0, av.time_base)
        if self._container.format.name.startswith(STATING_DURATION) and self._reached + TOLERANCE_S < stated:
            warnings.warn(
                f"the file is incomplete or damaged: it ends after {float(self._reached):.1f} of {float(stated):.1f} s",
                stacklevel=2,
            )

    def __next__(self) -> SourceFrame:
        try:
            return super().__next__()
        except StopIteration:
            with _readable():
                self._finish_media()
            raise

    def _finish_media(self) -> None:
        """Copy what belongs to the last frames, although it comes behind them in the file."""
        end = self._window[1]
        if end is not None and self._zero is not None and self._media.streams:
            limit = self._zero + end * self._time_base + MEDIA_MARGIN_S
            for packet in self._packets:
                if packet.dts is not None and packet.dts * packet.time_base > limit:
                    break
                if packet.stream_index != self._stream.index:
                    self._media.add(packet)
        self._media.close()

    def take_media(self) -> bytes:
        return self._media.take()

    def close(self) -> None:
        self._media.close()
        self._packets.close()
        self._container.close()

    def _pixels(self, item: Any) -> NDArray[np.integer]:
        samples = self._converter.samples(item)
        if samples.ndim == 3 and samples.shape[2] == 4:
            samples = self._on_white(samples)
        return self._converter.upright(samples)


def open_container(file: "str | BinaryIO | Pipe") -> InputContainer:
    """Open a container with PyAV, which must not follow references to other protocols than files."""
    try:
        options = {"protocol_whitelist": "file"}
        container = av.open(file, "r", container_options=options, metadata_errors="replace")
    except av.FFmpegError as error:
        raise ImageError(f"not a video that can be read: {error.strerror or error}") from error
    if container.format.name in NOT_VIDEO_FORMATS:
        container.close()
        raise ImageError("not a video that can be read: it is a text")
    return container


def _video_of(container: InputContainer) -> VideoStream:
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        raise ImageError("not a video that can be read: it has no video stream")
    if streams[0].codec_context is None:
        raise ImageError("there is no decoder for the codec of this video")
    if len(streams) > 1:
        warnings.warn(f"only the first of {len(streams)} video streams is read", stacklevel=4)
    return streams[0]


def _prepare(stream: VideoStream) -> None:
    stream.thread_type = "AUTO"
    if stream.codec_context.name not in OWN_SITING:
        stream.codec_context.options = dict(DEFAULT_SITING)


def _time_base_of(stream: VideoStream) -> Fraction:
    base = stream.time_base
    fits = base is not None and 0 < base.numerator <= MAX_TERM and base.denominator <= MAX_TERM
    return base if base is not None and fits else Fraction(1, av.time_base)


def _rate_of(stream: VideoStream) -> Fraction:
    return _limited(stream.average_rate or stream.guessed_rate, DEFAULT_RATE)


def _limited(fraction: Fraction | None, default: Fraction) -> Fraction:
    """A fraction whose terms fit the header; `default` if it is missing, not positive, or out of all proportion."""
    limited = (fraction or default).limit_denominator(2**16)
    return limited if Fraction(1, 2**11) <= limited <= 2**11 else default


class _Converter:
    """Convert decoded frames to upright samples of one size, as RGB, RGB with alpha, or grey."""

    def __init__(self, first: VideoFrame) -> None:
        kind = first.format
        self.is_rgb = kind.is_rgb or kind.has_palette or kind.name.startswith("xyz")
        self.is_grey = not self.is_rgb and len([part for part in kind.components if not part.is_alpha]) == 1
        self.has_alpha = kind.has_palette or any(part.is_alpha for part in kind.components)
        self.depth = min(max(MIN_DEPTH, *(part.bits for part in kind.components)), MAX_DEPTH)
        self.is_quarter_turn, self._flips = _orientation(first)
        self._size = first.width, first.height
        self._reformatter = VideoReformatter()
        self._warned: set[str] = set()

    def format(self, first: VideoFrame, stream: VideoStream, start: int) -> ClipFormat:
        """The format of a clip that begins with a frame at `start` in ticks."""
        width, height = reversed(self._size) if self.is_quarter_turn else self._size
        aspect = _limited(stream.sample_aspect_ratio, Fraction(1))
        return ClipFormat(
            *(width, height, _time_base_of(stream), _rate_of(stream), start),
            layout=Layout.GREY if self.is_grey else Layout.RGB,
            bit_depth=self.depth,
            chroma=Chroma.YUV444 if self.is_rgb or self.is_grey else _chroma_of(first.format),
            full_range=self.is_rgb or self._is_full_range(first),
            primaries=first.color_primaries or UNSPECIFIED,
            transfer=first.color_trc or UNSPECIFIED,
            matrix=0 if self.is_rgb else UNSPECIFIED if self.is_grey else _matrix_of(first),
            sample_aspect=1 / aspect if self.is_quarter_turn else aspect,
        )

    def samples(self, frame: VideoFrame) -> NDArray[np.integer]:
        """Samples of a frame as decoded: [H, W, 3], [H, W, 4] with alpha, or [H, W] if grey without alpha."""
        if (frame.width, frame.height) != self._size:
            self._warn("size", "frames of another size are scaled to that of the first one")
        if frame.interlaced_frame:
            self._warn("fields", "the video is interlaced: its frames are kept as they are")
        if frame.is_corrupt:
            self._warn("damage", "the video is damaged: some frames are what the decoder makes of it")
        return self._grey(frame) if self.is_grey and not self.has_alpha else self._colours(frame)

    def upright(self, samples: NDArray[np.integer]) -> NDArray[np.integer]:
        """Turn samples [H, W, 3] or [H, W] as the file says."""
        if self.is_grey and samples.ndim == 3:
            samples = samples[:, :, 0]
        if self.is_quarter_turn:
            samples = samples.swapaxes(0, 1)
        down, across = self._flips
        return np.ascontiguousarray(samples[:: -1 if down else 1, :: -1 if across else 1])

    def _colours(self, frame: VideoFrame) -> NDArray[np.integer]:
        depth_16 = self.depth > MIN_DEPTH
        name = ("rgba64le" if depth_16 else "rgba") if self.has_alpha else ("rgb48le" if depth_16 else "rgb24")
        samples: NDArray[Any] = self._reformat(frame, name).to_ndarray()
        if self.is_rgb or not depth_16:
            return samples
        return np.take(scale_table(white_16(self.depth, self._is_full_range(frame)), MAX_16), samples)

    def _grey(self, frame: VideoFrame) -> NDArray[np.integer]:
        name = "gray" if self.depth == MIN_DEPTH else f"gray{self.depth}le"
        samples: NDArray[Any] = self._reformat(frame, name).to_ndarray()
        return np.take(grey_table(self.depth, self._is_full_range(frame)), samples)

    def _reformat(self, frame: VideoFrame, name: str) -> VideoFrame:
        is_full = self.is_grey or self._is_full_range(frame)
        return self._reformatter.reformat(
            frame,
            *(*self._size, name),
            src_colorspace=None if self.is_rgb or self.is_grey else SWSCALE_MATRICES[_matrix_of(frame)],
            interpolation=SCALING,
            src_color_range=ColorRange.JPEG if is_full else ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
            threads=1,
        )

    def _is_full_range(self, frame: VideoFrame) -> bool:
        """Whether the samples have the full range. Those of RGB do, and grey ones without a tag."""
        is_untagged_full = self.is_grey or frame.format.name.startswith("yuvj")
        return self.is_rgb or (frame.color_range == ColorRange.JPEG if frame.color_range else is_untagged_full)

    def _warn(self, key: str, line: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            warnings.warn(line, stacklevel=2)


def white_16(depth: int, full_range: bool) -> int:
    """White in the 16-bit RGB that swscale makes of YUV of more than 8 bits."""
    return ((1 << depth) - 1) << (16 - depth) if full_range else LIMITED_WHITE_16


@cache
def scale_table(old_peak: int, new_peak: int) -> NDArray[np.uint16]:
    """Table of 16-bit samples that scales `old_peak` to `new_peak`."""
    scaled: NDArray[np.float64] = np.rint(np.arange(MAX_16 + 1) * (new_peak / old_peak))
    return np.minimum(scaled, MAX_16).astype(np.uint16)


@cache
def grey_table(depth: int, full_range: bool) -> NDArray[np.integer]:
    """Table from grey samples of `depth` bits to 8 bits if they have 8, otherwise 16, of the full range."""
    peak, step = (1 << depth) - 1, 1 << (depth - MIN_DEPTH)
    low, span = (0, peak) if full_range else (16 * step, 219 * step)
    dtype = np.uint8 if depth == MIN_DEPTH else np.uint16
    top = np.iinfo(dtype).max
    full: NDArray[np.float64] = np.rint((np.arange(peak + 1) - low) * (top / span))
    return full.clip(0, top).astype(dtype)


def _matrix_of(frame: VideoFrame) -> int:
    """Code point of the matrix of a YUV frame; the usual one of its size if it has none."""
    matrix = frame.colorspace
    if matrix in SWSCALE_MATRICES:
        return matrix
    if matrix not in (0, UNSPECIFIED, 3):
        raise ImageError(f"colours with the matrix of code point {matrix} are not supported")
    return usual_matrix(frame.height, frame.color_primaries)


def usual_matrix(height: int, primaries: int) -> int:
    """Code point of the matrix of a video that states none."""
    return BT709 if height >= HD_PX else BT601_PAL if primaries == BT601_PAL else BT601


def _chroma_of(kind: VideoFormat) -> Chroma:
    probe = VideoFormat(kind.name, 16, 16)
    sides = probe.chroma_width(), probe.chroma_height()
    return Chroma.YUV444 if sides == (16, 16) else Chroma.YUV422 if sides == (8, 16) else Chroma.YUV420


def _orientation(frame: VideoFrame) -> tuple[bool, tuple[bool, bool]]:
    """Whether to exchange the axes of a frame, and then whether to flip it vertically and horizontally.

    The display matrix maps x, y to a x + c y, b x + d y; angles other than multiples of 90 degrees are ignored.
    """
    side_data: Any = frame.side_data
    matrix = side_data.get(SideDataType.DISPLAYMATRIX)
    if matrix is None:
        return False, (False, False)
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        return True, (b < 0, c < 0)
    return False, (d < 0, a < 0)


class _MediaCopy:
    """Copy packets of audio and subtitles into a Matroska stream, with times from the beginning of the part to read.

    Packets are kept until `begin`.
    """

    def __init__(self, streams: list[Any]) -> None:
        self.streams = streams
        self._queue: list[Packet[Any]] | None = []
        self._firsts: dict[int, Packet[Any]] = {}
        self._zero = self._start = Fraction(0)
        self._end: Fraction | None = None
        self._sink = _Sink()
        self._muxer: OutputContainer | None = None
        self._copies: dict[int, Any] = {}
        self._last: dict[int, tuple[int, int]] = {}
        """Time and duration of the last packet of a stream."""

    def clear(self) -> None:
        """Forget the packets that are kept."""
        self._queue = []

    def cut(self, zero: Fraction, start: Fraction) -> None:
        """Leave out what comes before `start`; `zero`: the time from which `start` counts; both in seconds."""
        self._zero, self._start = zero, start

    def begin(self, duration: Fraction | None) -> None:
        """Begin the copy, which ends after `duration` seconds."""
        self._end = duration
        queue, self._queue = self._queue or [], None
        if self.streams:
            self._open()
        for packet in queue:
            self.add(packet)

    def _open(self) -> None:
        muxer = _matroska(self._sink)
        for stream in self.streams:
            first = self._firsts.get(stream.index)
            if can_copy(stream, _matroska(_Sink()), first):
                self._copies[stream.index] = add_copy(muxer, stream, first)
            else:
                warn_left_out(stream, "Matroska cannot hold it")
        if self._copies:
            muxer.start_encoding()
            self._muxer = muxer

    def add(self, packet: "Packet[Any]") -> None:
        """Copy a packet, or keep it until `begin`."""
        index, time_base = packet.stream_index, packet.time_base
        if not packet.size or not time_base:
            return
        time = self._time(packet, time_base)
        is_early = self._start > 0 and time < 0
        if self._queue is not None:
            self._firsts.setdefault(index, packet)
            self._queue += [] if is_early else [packet]
        elif not is_early and index in self._copies and (self._end is None or time * time_base < self._end):
            self._write(packet, time)

    def _time(self, packet: "Packet[Any]", time_base: Fraction) -> int:
        """Time of a packet in its ticks; that of its decoding, or the end of the packet before, if it has none."""
        shift = round((self._zero + self._start) / time_base)
        stamps = [stamp - shift for stamp in (packet.pts, packet.dts) if stamp is not None]
        return stamps[0] if stamps else sum(self._last.get(packet.stream_index, (0, 0)))

    def _write(self, packet: "Packet[Any]", time: int) -> None:
        index = packet.stream_index
        time = max(time, self._last.get(index, (time, 0))[0])
        self._last[index] = time, packet.duration or 0
        packet.dts = packet.pts = time
        packet.stream = self._copies[index]
        try:
            if self._muxer is not None:
                self._muxer.mux(packet)
        except av.FFmpegError as error:
            warn_left_out(self._copies.pop(index), f"a packet cannot be copied: {error.strerror or error}")

    def take(self) -> bytes:
        """The bytes that were written since the last call."""
        return self._sink.take()

    def close(self) -> None:
        """Write the end of the stream."""
        muxer, self._muxer = self._muxer, None
        if muxer is not None:
            muxer.close()


class _Sink:
    """A file in memory that PyAV writes to and cannot seek in."""

    def __init__(self) -> None:
        self._data = bytearray()

    def write(self, data: bytes) -> int:
        self._data += data
        return len(data)

    def take(self) -> bytes:
        data = bytes(self._data)
        self._data.clear()
        return data


def _matroska(sink: _Sink) -> OutputContainer:
    """A muxer whose bytes depend on nothing but the packets. It keeps the negative times of an encoder's delay."""
    muxer = av.open(sink, "w", format="matroska", container_options={"avoid_negative_ts": "disabled"})
    muxer.flags |= BITEXACT
    return muxer


def can_copy(stream: Any, trial: OutputContainer, first: "Packet[Any] | None" = None) -> bool:
    """Whether a container can hold the packets of a stream. `trial`: a muxer of that kind, which is used up."""
    try:
        with trial:
            add_copy(trial, stream, first)
            trial.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    return True


def add_copy(muxer: OutputContainer, stream: Any, first: "Packet[Any] | None" = None) -> Any:
    """Add a stream for the packets of another one, the first of which is `first` if known."""
    copy = muxer.add_stream_from_template(stream)
    copy.metadata.update({key: value for key, value in stream.metadata.items() if key in ("language", "title")})
    copy.disposition = stream.disposition
    context = copy.codec_context
    if context.name == "aac" and not context.extradata and first is not None:
        context.extradata = _aac_configuration(bytes(first)[:4])
    return copy


def _aac_configuration(header: bytes) -> bytes | None:
    """AudioSpecificConfig (ISO 14496-3) of the header of an ADTS packet; None for another packet."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xF0 != 0xF0:
        return None
    profile, rate, channels = header[2] >> 6, header[2] >> 2 & 15, (header[2] & 1) << 2 | header[3] >> 6
    return ((profile + 1) << 11 | rate << 7 | channels << 3).to_bytes(2, "big")


def warn_left_out(stream: Any, reason: str) -> None:
    """Warn that a stream of audio or subtitles is not copied."""
    codec = stream.codec_context.name if stream.codec_context is not None else "unknown"
    warnings.warn(f"{stream.type} stream {stream.index} ({codec}) is left out: {reason}", stacklevel=2)
