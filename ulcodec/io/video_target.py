"""Write clips with PyAV: MP4, MOV, Matroska and WebM, with copied audio and subtitles, and uncompressed YUV4MPEG2."""

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from fractions import Fraction
from functools import cache, cached_property
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

import av
import numpy as np
from av.codec import Codec
from av.codec.context import Flags as CodecFlags
from av.container import InputContainer, OutputContainer
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, VideoReformatter
from numpy.typing import NDArray

from ulcodec.errors import ImageError
from ulcodec.format.cicp import UNSPECIFIED
from ulcodec.format.container import Layout
from ulcodec.format.sequence import MIN_DEPTH, Chroma, ClipFormat
from ulcodec.io.files import AtomicFile
from ulcodec.io.video_source import (
    MAX_16,
    SCALING,
    SWSCALE_MATRICES,
    Pipe,
    add_copy,
    can_copy,
    scale_table,
    usual_matrix,
    warn_left_out,
    white_16,
)

Y4M = "yuv4mpegpipe"
CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", ".y4m": Y4M}
"""FFmpeg's name of the container of an extension."""
ENCODERS: Mapping[str, tuple[str, ...]] = {
    "mp4": ("libx264",),
    "mov": ("libx264",),
    "matroska": ("ffv1",),
    "webm": ("libvpx-vp9", "libsvtav1"),
}
"""Default encoders of a container, the first that is available counts."""
DEFAULT_CRF: Mapping[str, float] = {
    "libx264": 17,
    "libx264rgb": 17,
    "libx265": 18,
    "libvpx-vp9": 18,
    "libsvtav1": 18,
}
CRF_ENCODERS = {*DEFAULT_CRF, "libaom-av1", "libvpx"}
ENCODER_OPTIONS: Mapping[str, Mapping[str, str]] = {
    "ffv1": {"level": "3", "slicecrc": "1"},
    "libvpx-vp9": {"row-mt": "1", "cpu-used": "2"},
    "libx265": {"x265-params": "log-level=none"},
}
MATROSKA, MP4 = ("matroska", "webm"), ("mp4", "mov")
"""Related containers. Matroska keeps the negative times of an audio encoder's delay."""
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
"""Options of MP4 for a file that cannot seek."""
ODD_SIZES = frozenset({"ffv1", "ffvhuff", "libvpx", "libvpx-vp9", "rawvideo", Y4M})
"""Encoders that take subsampled chroma of odd sides."""
MIN_X265_PX = 64
"""Width from which x265 works. Version 4.2 corrupts memory for narrower videos."""
MIN_SLICED_PX = 8
"""Side from which the encoder of FFV1 can make slices."""
WITHOUT_ASPECT = frozenset({"libvpx", "libvpx-vp9", "libsvtav1", "utvideo"})
"""Encoders that leave the aspect of a pixel to the container. PyAV cannot set that of Matroska."""
DEPTHS, Y4M_DEPTHS = (8, 9, 10, 12, 14, 16), (8, 10, 12, 16)
CHROMA_NAMES = {Chroma.YUV444: "yuv444p", Chroma.YUV422: "yuv422p", Chroma.YUV420: "yuv420p"}
CHROMA_STEPS = {"yuv444p": (1, 1), "yuv422p": (2, 1), "yuv420p": (2, 2)}
"""Pixels of a chroma sample, across and down."""
Y4M_NAMES = {"gray": "mono", "yuv444p": "444", "yuv422p": "422", "yuv420p": "420"}
SVT_LOG, SVT_LOG_FATAL = "SVT_LOG", "0"
TICK_MS = Fraction(1, 1000)


class VideoTarget:
    """A clip that is being written, and a context manager, which removes an unfinished file after an exception."""

    def __init__(self, output: "_Output", format: ClipFormat) -> None:
        self._output, self._format = output, format
        self._is_done = False

    def write(self, pixels: NDArray[np.integer], time: int, duration: int) -> None:
        """Append a frame, in order of display.

        `pixels`: uint8 [H, W, 3], or [H, W] if grey; uint16 of the full range if the format has more than 8 bits;
        `time`, `duration`: ticks. Raises ImageError if it cannot be encoded, OSError if it cannot be written,
        ValueError for pixels of another format.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Write what is left, and give the file its name. Raises like `write`."""
        if self._is_done:
            return
        try:
            with self._output.errors():
                self._finish()
            self._output.commit()
        except BaseException:
            self.abort()
            raise
        self._is_done = True

    def abort(self) -> None:
        """Give up, and remove the file."""
        self._is_done = True
        self._output.abort()

    def _finish(self) -> None:
        """Write what is left."""

    def __enter__(self) -> "VideoTarget":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def open_target(
    path: Path | BinaryIO,
    format: ClipFormat,
    *,
    media: BinaryIO | None = None,
    encoder: str | None = None,
    crf: float | None = None,
    container: str | None = None,
) -> VideoTarget:
    """Begin a clip of a format at a path, or in a binary file object, for which `container` is needed.

    `media`: a Matroska stream of audio and subtitles, as of `VideoSource.take_media`; `encoder`, `container`: names of
    FFmpeg, by default those of the extension; `crf`: constant rate factor of the encoder. A path is written under a
    temporary name. A UserWarning reports what is left out. Raises ImageError if the clip cannot be encoded, OSError if
    it cannot be written.
    """
    name = _container_name(path, container)
    output = _Output(path)
    try:
        if name == Y4M:
            if media is not None:
                warnings.warn("audio and subtitles are left out: a .y4m file holds none", stacklevel=2)
            return _Y4mTarget(output, format)
        return _EncodedTarget(output, format, name, _encoding(name, format, encoder, crf), media)
    except BaseException:
        output.abort()
        raise


def _container_name(path: Path | BinaryIO, container: str | None) -> str:
    known = sorted(set(CONTAINERS.values()))
    if container is None:
        suffix = Path(path).suffix.lower() if isinstance(path, (str, Path)) else ""
        container = CONTAINERS.get(suffix)
        if container is None:
            raise ImageError(f"the extension {suffix!r} is not that of a video: use one of {', '.join(CONTAINERS)}")
    if container not in known:
        raise ImageError(f"the container {container!r} is not supported: use one of {', '.join(known)}")
    return container


class _Encoding(NamedTuple):
    """Encoder, its options, and FFmpeg's name of the pixel format."""

    encoder: str
    options: dict[str, str]
    pixel_format: str


def _encoding(container: str, format: ClipFormat, encoder: str | None, crf: float | None) -> _Encoding:
    codec, pixel_format = _choice(container, format, (encoder,) if encoder else ENCODERS[container])
    if codec.name == "libx265" and format.width < MIN_X265_PX:
        raise ImageError(f"the encoder 'libx265' needs a width of {MIN_X265_PX} pixels, not {format.width}")
    options = {"chroma_sample_location": "left", **ENCODER_OPTIONS.get(codec.name, {})}
    if crf is None:
        crf = DEFAULT_CRF.get(codec.name)
    elif codec.name not in CRF_ENCODERS:
        raise ImageError(f"the encoder {codec.name!r} has no CRF: leave it out")
    if crf is not None:
        options["crf"] = str(crf)
    if codec.name == "ffv1" and min(format.width, format.height) < MIN_SLICED_PX:
        options["slices"] = "1"
    return _Encoding(codec.name, options, pixel_format)


def _choice(container: str, format: ClipFormat, names: tuple[str, ...]) -> tuple[Codec, str]:
    """The encoder that keeps most of a clip, the first of equals, and its pixel format."""
    choices = []
    for codec in _video_encoders(names):
        taken = [kind.name for kind in codec.video_formats or ()]
        wanted = list(_pixel_formats(format, codec.name, container))
        choices += [(place, codec, name) for place, name in enumerate(wanted) if name in taken or not taken][:1]
    if not choices:
        sides = f"{format.width}x{format.height}"
        raise ImageError(f"no encoder {' or '.join(map(repr, names))} takes the colours of this video at {sides}")
    _, codec, name = min(choices, key=lambda choice: choice[0])
    return codec, name


def _video_encoders(names: tuple[str, ...]) -> list[Codec]:
    """Those of some encoders of videos that this build of FFmpeg has."""
    codecs = []
    for name in names:
        with suppress(av.FFmpegError, ValueError):
            codecs.append(Codec(name, "w"))
    codecs = [codec for codec in codecs if codec.type == "video"]
    if not codecs:
        raise ImageError(f"no encoder of videos is called {' or '.join(map(repr, names))}")
    return codecs


def _pixel_formats(format: ClipFormat, encoder: str, container: str) -> Iterator[str]:
    """Pixel formats for a clip, the best first: more than enough bits before fewer, its chroma before another."""
    deeper = [depth for depth in DEPTHS if depth >= format.bit_depth]
    for depth in (*deeper, *reversed([depth for depth in DEPTHS if depth < format.bit_depth])):
        for name in _layouts(format, encoder, container):
            yield name if depth == MIN_DEPTH else f"{name}{depth}le"
            if name == "gbrp" and depth == MIN_DEPTH:
                yield from ("bgr0", "rgb24", "bgr24")


def _layouts(format: ClipFormat, encoder: str, container: str) -> Iterator[str]:
    """Pixel formats without their depth. Few players show RGB, grey or 4:4:4: these are for archives."""
    is_grey, is_rgb = format.layout is Layout.GREY, format.matrix == 0
    exact = ("gray",) if is_grey else ("gbrp",) if is_rgb else ()
    if container == "matroska" or (container == Y4M and is_grey):
        yield from exact
    chroma = Chroma.YUV420 if container != Y4M and (is_grey or is_rgb) else format.chroma
    for name in dict.fromkeys((CHROMA_NAMES[chroma], "yuv444p", "yuv422p", "yuv420p")):
        across, down = CHROMA_STEPS[name]
        if encoder in ODD_SIZES or (format.width % across == 0 and format.height % down == 0):
            yield name
    if container != Y4M:
        yield from ("gray", "gbrp") if is_grey else ("gbrp",)


class _FrameMaker:
    """Convert pixels to frames of a pixel format. Chroma is sited as in MPEG-2 and H.264: left."""

    def __init__(self, format: ClipFormat, pixel_format: str) -> None:
        kind = av.VideoFormat(pixel_format)
        self.is_rgb, self.is_grey = kind.is_rgb, len(kind.components) == 1
        self.full_range = self.is_rgb or (format.full_range and format.matrix != 0)
        usual = format.matrix if format.matrix in SWSCALE_MATRICES else usual_matrix(format.height, format.primaries)
        self.matrix = 0 if self.is_rgb else UNSPECIFIED if self.is_grey else usual
        self._depth = kind.components[0].bits
        self._format, self._pixel_format = format, pixel_format
        self._reformatter = VideoReformatter()

    def frame(self, pixels: NDArray[np.integer]) -> VideoFrame:
        """A frame of pixels [H, W, 3] or [H, W] without a time. Raises ValueError for pixels of another format."""
        format = self._format
        shape = (format.height, format.width) + ((3,) if format.layout is Layout.RGB else ())
        dtype = np.uint8 if format.bit_depth == MIN_DEPTH else np.uint16
        if pixels.shape != shape or pixels.dtype != dtype:
            raise ValueError(f"pixels must be {np.dtype(dtype)} {shape}, got {pixels.dtype} {pixels.shape}")
        frame = self._grey(pixels) if self.is_grey else self._colours(pixels)
        frame.color_primaries, frame.color_trc = format.primaries, format.transfer
        return frame

    def _grey(self, pixels: NDArray[np.integer]) -> VideoFrame:
        table = _grey_levels(int(np.iinfo(pixels.dtype).max), self._depth, self.full_range)
        samples = np.take(table, pixels)
        frame = self._tagged(VideoFrame.from_ndarray(samples, self._pixel_format))
        frame.color_range = ColorRange.JPEG if self.full_range else ColorRange.MPEG
        return frame

    def _colours(self, pixels: NDArray[np.integer]) -> VideoFrame:
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[:, :, None], 3, axis=2)
        if self._depth == MIN_DEPTH:
            pixels = pixels if pixels.dtype == np.uint8 else scale_table(MAX_16, 255)[pixels].astype(np.uint8)
        elif pixels.dtype == np.uint8:
            pixels = pixels.astype(np.uint16) * 257
        if self._depth > MIN_DEPTH and not self.is_rgb:
            pixels = scale_table(MAX_16, white_16(self._depth, self.full_range))[pixels]
        return self._reformatter.reformat(
            self._tagged(VideoFrame.from_ndarray(np.ascontiguousarray(pixels), self._rgb_name)),
            format=self._pixel_format,
            dst_colorspace=None if self.is_rgb else SWSCALE_MATRICES[self.matrix],
            interpolation=SCALING,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.JPEG if self.full_range else ColorRange.MPEG,
            threads=1,
        )

    def _tagged(self, frame: VideoFrame) -> VideoFrame:
        """Tag the place of chroma samples, which swscale would centre, and the aspect. PyAV has only filters for it."""
        source, sink = self._tags
        source.push(frame)
        tagged: VideoFrame = sink.pull()
        return tagged

    @cached_property
    def _tags(self) -> tuple[Any, Any]:
        format, self._graph = self._format, Graph()
        source = self._graph.add_buffer(
            width=format.width,
            height=format.height,
            format=av.VideoFormat(self._pixel_format if self.is_grey else self._rgb_name),
            time_base=format.time_base,
        )
        filters = [
            self._graph.add("setparams", "chroma_location=left"),
            self._graph.add("setsar", f"{format.sample_aspect.numerator}/{format.sample_aspect.denominator}"),
            self._graph.add("buffersink"),
        ]
        for before, after in pairwise([source, *filters]):
            before.link_to(after)
        self._graph.configure()
        return source, filters[-1]

    @property
    def _rgb_name(self) -> str:
        return "rgb24" if self._depth == MIN_DEPTH else "rgb48le"


@cache
def _grey_levels(peak: int, depth: int, full_range: bool) -> NDArray[np.integer]:
    """Table from grey samples of the full range, 0 to `peak`, to samples of `depth` bits."""
    step = 1 << (depth - MIN_DEPTH)
    low, span = (0, (1 << depth) - 1) if full_range else (16 * step, 219 * step)
    levels: NDArray[np.float64] = np.rint(low + np.arange(peak + 1) * (span / peak))
    return levels.astype(np.uint8 if depth == MIN_DEPTH else np.uint16)


class _MuxerFile:
    """What a muxer writes to: a file, until its first error. The muxer may go on, and the error is raised later."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None
        self.is_discarded = False
        self.name = getattr(file, "name", "")

    def write(self, data: bytes) -> int:
        if self.error is None and not self.is_discarded:
            try:
                self._file.write(data)
            except OSError as error:
                self.error = error
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return 0 if self.is_discarded else self._file.seek(offset, whence)

    def tell(self) -> int:
        return 0 if self.is_discarded else self._file.tell()

    def seekable(self) -> bool:
        return self._file.seekable()


class _Output:
    """The file of a target. A path gets its name when the file is complete."""

    def __init__(self, path: Path | BinaryIO) -> None:
        self._atomic: AtomicFile | None = None
        if isinstance(path, (str, Path)):
            self._atomic = AtomicFile(Path(path))
            self.file = self._atomic.file
        else:
            self.file = path
        self.muxer_file = _MuxerFile(self.file)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn errors of PyAV into ImageError, name the file in an OSError, and raise that of the muxer's file."""
        with nullcontext() if self._atomic is None else self._atomic.errors():
            try:
                yield
            except av.FFmpegError as error:
                raise ImageError(f"the video cannot be written: {error.strerror or error}") from error
            if self.muxer_file.error is not None:
                raise self.muxer_file.error

    def commit(self) -> None:
        """Give the complete file its name."""
        with self.errors():
            self.file.flush()
        if self._atomic is not None:
            self._atomic.commit()

    def abort(self) -> None:
        """Remove the unfinished file."""
        self.muxer_file.is_discarded = True
        if self._atomic is not None:
            self._atomic.abort()


class _EncodedTarget(VideoTarget):
    """A clip that PyAV encodes."""

    def __init__(
        self, output: _Output, format: ClipFormat, container: str, encoding: _Encoding, media: BinaryIO | None
    ) -> None:
        super().__init__(output, format)
        self._maker = _FrameMaker(format, encoding.pixel_format)
        with output.errors():
            self._muxer = _muxer(output.muxer_file, container, format.time_base)
            self._stream = self._add_video(encoding)
            self._media = None if media is None else _MediaFeed(media, self._muxer, container)
            with starting_encoder(encoding.encoder):
                self._muxer.start_encoding()
        if format.sample_aspect != 1 and container in MATROSKA and encoding.encoder in WITHOUT_ASPECT:
            warnings.warn(f"the file does not state that pixels have the aspect {format.sample_aspect}", stacklevel=3)

    def _add_video(self, encoding: _Encoding) -> Any:
        format = self._format
        try:
            stream: Any = self._muxer.add_stream(
                encoding.encoder,
                rate=format.frame_rate,
                options=encoding.options,
                width=format.width,
                height=format.height,
                time_base=format.time_base,
            )
        except ValueError as error:
            raise ImageError(f"the video cannot be written: {error}") from error
        stream.pix_fmt = encoding.pixel_format
        context = stream.codec_context
        context.color_range = ColorRange.JPEG if self._maker.full_range else ColorRange.MPEG
        context.colorspace = self._maker.matrix
        context.color_primaries, context.color_trc = format.primaries, format.transfer
        context.sample_aspect_ratio = format.sample_aspect
        context.flags |= CodecFlags.frame_duration
        return stream

    def write(self, pixels: NDArray[np.integer], time: int, duration: int) -> None:
        frame = self._maker.frame(pixels)
        frame.pts, frame.time_base, frame.duration = time, self._format.time_base, duration
        with self._output.errors():
            if self._media is not None:
                self._media.feed(self._format.seconds(time))
            self._muxer.mux(self._stream.encode(frame))

    def _finish(self) -> None:
        self._muxer.mux(self._stream.encode(None))
        if self._media is not None:
            self._media.feed(None)
        self._muxer.close()

    def abort(self) -> None:
        super().abort()
        with suppress(Exception):
            self._muxer.close()


def _muxer(file: _MuxerFile, container: str, time_base: Fraction) -> OutputContainer:
    options = {"avoid_negative_ts": "disabled"} if container in MATROSKA else {}
    if container in MP4:
        options["movie_timescale"] = str(max(1000, time_base.denominator))
        options |= {} if file.seekable() else FRAGMENTS
    return av.open(file, "w", format=container, container_options=options)


@contextmanager
def starting_encoder(encoder: str) -> Iterator[None]:
    """Context in which an encoder starts. Keeps SVT-AV1 from printing, and from real-time scheduling.

    SVT-AV1 reads its log level from the environment. In processes of root it gives its threads, and the one that
    starts it, the highest real-time priority (SCHED_FIFO, 99): other processes, and those started later, may then wait
    for ever.
    """
    if encoder != "libsvtav1":
        yield
        return
    before = os.environ.get(SVT_LOG)
    if before is None:
        os.environ[SVT_LOG] = SVT_LOG_FATAL
    try:
        with usual_scheduling():
            yield
    finally:
        if before is None:
            del os.environ[SVT_LOG]


@contextmanager
def usual_scheduling() -> Iterator[None]:
    """Give this thread the scheduling that it had, and the same to the threads that start inside (Linux only)."""
    if not hasattr(os, "sched_setscheduler"):
        yield
        return
    policy, parameters, threads = os.sched_getscheduler(0), os.sched_getparam(0), _threads()
    try:
        yield
    finally:
        for thread in (0, *(_threads() - threads)):
            with suppress(OSError):  # it has ended
                os.sched_setscheduler(thread, policy, parameters)


def _threads() -> set[int]:
    """Return the numbers of this process's threads, where the system lists them."""
    with suppress(OSError):
        return {int(thread) for thread in os.listdir("/proc/self/task")}
    return set()


def _media_input(media: BinaryIO) -> InputContainer | None:
    """Open a Matroska stream; None if it is empty, has no packets, or cannot be read."""
    stream = Pipe(media)
    try:
        return av.open(stream, "r", format="matroska", metadata_errors="replace") if stream.head else None
    except av.EOFError:
        return None
    except av.FFmpegError as error:
        warnings.warn(f"audio and subtitles cannot be read and are left out: {error.strerror or error}", stacklevel=2)
        return None


class _MediaFeed:
    """Copy audio and subtitles of a Matroska stream, up to the time of the video."""

    def __init__(self, media: BinaryIO, muxer: OutputContainer, container: str) -> None:
        self._muxer, self._is_mp4 = muxer, container in MP4
        self._input = _media_input(media)
        self._copies: dict[int, Any] = {}
        self._ends: dict[int, Fraction] = {}
        self._last: dict[int, int] = {}
        streams = [*self._input.streams.audio, *self._input.streams.subtitles] if self._input else []
        for stream in streams:
            if can_copy(stream, av.open(BytesIO(), "w", format=container)):
                self._copies[stream.index] = add_copy(muxer, stream)
            else:
                warn_left_out(stream, f"{container} cannot hold it")
        copied = [stream for stream in streams if stream.index in self._copies]
        self._packets: Iterator[Any] = self._input.demux(copied) if self._input and copied else iter(())
        self._next: Any = None

    def feed(self, time_s: Fraction | None) -> None:
        """Copy the packets up to a time in seconds, or all that are left."""
        while (packet := self._next or self._read()) is not None:
            if time_s is not None and packet.pts * packet.time_base > time_s:
                self._next = packet
                return
            self._next = None
            self._copy(packet)

    def _read(self) -> Any:
        """The next packet, None at the end of the stream."""
        try:
            return next((packet for packet in self._packets if packet.pts is not None and packet.size), None)
        except av.FFmpegError as error:
            warnings.warn(f"audio and subtitles end early: {error.strerror or error}", stacklevel=2)
            self._packets = iter(())
            return None

    def _copy(self, packet: Any) -> None:
        index = packet.stream_index
        if index not in self._copies:
            return
        if self._is_mp4:
            self._exact(packet)
            packet.pts = max(packet.pts, self._last.get(index, packet.pts - 1) + 1)
        self._last[index] = packet.dts = packet.pts
        packet.stream = self._copies[index]
        try:
            self._muxer.mux(packet)
        except av.FFmpegError as error:
            warn_left_out(self._copies.pop(index), f"a packet cannot be copied: {error.strerror or error}")

    def _exact(self, packet: Any) -> None:
        """Replace Matroska's milliseconds by samples, where the codec has a fixed number of them in a packet."""
        context = packet.stream.codec_context
        n_samples, rate = getattr(context, "frame_size", 0), getattr(context, "sample_rate", 0)
        if not (n_samples and rate):
            return
        stated, following = packet.pts * packet.time_base, self._ends.get(packet.stream_index)
        time = following if following is not None and abs(following - stated) <= TICK_MS else stated
        self._ends[packet.stream_index] = time + Fraction(n_samples, rate)
        packet.time_base = Fraction(1, rate)
        packet.pts, packet.duration = round(time * rate), n_samples


class _Y4mTarget(VideoTarget):
    """A clip of uncompressed frames at a constant rate. Frames are repeated or dropped to keep the time."""

    def __init__(self, output: _Output, format: ClipFormat) -> None:
        super().__init__(output, format)
        layout = next(_layouts(format, Y4M, Y4M))
        depth = next(depth for depth in Y4M_DEPTHS if depth >= format.bit_depth)
        self._maker = _FrameMaker(format, layout if depth == MIN_DEPTH else f"{layout}{depth}le")
        self._n_written, self._first_slot = 0, 0
        self._last = b""
        self._has_dropped = False
        self._put(_y4m_header(format, layout, depth, self._maker.full_range))

    def write(self, pixels: NDArray[np.integer], time: int, duration: int) -> None:
        if not self._last:
            self._first_slot = self._slot(time)
        frame = b"FRAME\n" + b"".join(_plane_rows(self._maker.frame(pixels)))
        while self._last and self._n_written < self._slot(time) - self._first_slot:
            self._put_frame(self._last)
        n_missing = self._slot(time + duration) - self._first_slot - self._n_written
        if n_missing <= 0 and not self._has_dropped:
            warnings.warn("a .y4m file has a constant rate: frames that follow too closely are dropped", stacklevel=2)
            self._has_dropped = True
        for _ in range(n_missing):
            self._put_frame(frame)
        self._last = frame

    def _slot(self, time: int) -> int:
        """Number of frames at the constant rate up to a time in ticks, rounded."""
        return int(self._format.seconds(time) * self._format.frame_rate + Fraction(1, 2))

    def _put_frame(self, frame: bytes) -> None:
        self._put(frame)
        self._n_written += 1

    def _put(self, data: bytes) -> None:
        with self._output.errors():
            self._output.file.write(data)


def _y4m_header(format: ClipFormat, layout: str, depth: int, full_range: bool) -> bytes:
    name = Y4M_NAMES[layout]
    if depth > MIN_DEPTH:
        colour = f"{name}{depth}" if layout == "gray" else f"{name}p{depth}"
    else:
        colour = "420mpeg2" if layout == "yuv420p" else name
    rate, aspect = format.frame_rate, format.sample_aspect
    return (
        f"YUV4MPEG2 W{format.width} H{format.height} F{rate.numerator}:{rate.denominator} Ip"
        f" A{aspect.numerator}:{aspect.denominator} C{colour} XCOLORRANGE={'FULL' if full_range else 'LIMITED'}\n"
    ).encode()


def _plane_rows(frame: VideoFrame) -> Iterator[bytes]:
    """The samples of the planes of a frame, without padding."""
    for plane, part in zip(frame.planes, frame.format.components, strict=True):
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
        yield rows[:, : plane.width * (1 if part.bits == MIN_DEPTH else 2)].tobytes()
