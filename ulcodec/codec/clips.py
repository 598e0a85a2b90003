"""Frames to encode: the interface of a clip, and clips of pictures that a caller has."""

import math
from collections.abc import Iterable, Iterator, Sized
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, cast

from numpy.typing import NDArray
from PIL import Image

from ulcodec.codec.inputs import ImageLike, as_picture
from ulcodec.errors import ImageError
from ulcodec.format.container import MAX_PIXELS, Layout
from ulcodec.format.sequence import MAX_TERM, ClipFormat

FLOAT_DENOMINATOR = 1001
"""Largest denominator of a frame rate that is given as a float: that of 29.97 = 30000/1001."""

ClipSource = str | Path | bytes | BinaryIO | Iterable[ImageLike]
"""What `Codec.encode_video` encodes."""


class TimedFrame(Protocol):
    """A frame of a clip: `pixels` as in `ulcodec.codec.video.VideoFrame`, and its `time` in ticks."""

    @property
    def pixels(self) -> NDArray[Any]: ...
    @property
    def time(self) -> int: ...


class Clip(Protocol):
    """Frames in the order of display, to be read once.

    `n_frames`: their expected number, None if unknown; `end`: end of the last frame in ticks, once all were read.
    `take_media` returns the bytes of the Matroska stream that have become available since its last call.
    """

    @property
    def format(self) -> ClipFormat: ...
    @property
    def n_frames(self) -> int | None: ...
    @property
    def end(self) -> int | None: ...
    def __iter__(self) -> Iterator[TimedFrame]: ...
    def take_media(self) -> bytes: ...
    def close(self) -> None: ...


class ListedFrame(NamedTuple):
    """A frame of a `ListedClip`."""

    pixels: NDArray[Any]
    time: int


class ListedClip:
    """Pictures without alpha, all alike in size, depth and channels, as a clip of a constant frame rate.

    `images`: as `Codec.encode` takes them; they are read one by one. Raises ImageError if there are none, or if they
    differ.
    """

    def __init__(self, images: Iterable[ImageLike], frame_rate: Fraction | float, max_pixels: int) -> None:
        pictures = (as_picture(image, max_pixels) for image in images)
        first = next(pictures, None)
        if first is None:
            raise ImageError("a clip has at least one frame")
        self.pictures = chain([first], pictures)
        rate = exact_rate(frame_rate)
        height, width = first.pixels.shape[:2]
        layout = Layout.GREY if first.pixels.ndim == 2 else Layout.RGB
        self.format = ClipFormat(width, height, 1 / rate, rate, layout=layout, bit_depth=first.bit_depth, matrix=0)
        self.shape, self.dtype = first.pixels.shape, first.pixels.dtype
        self.n_frames = len(images) if isinstance(images, Sized) else None
        self.end: int | None = None

    def __iter__(self) -> Iterator[ListedFrame]:
        for time, picture in enumerate(self.pictures):
            if picture.alpha is not None:
                raise ImageError(f"frame {time} has an alpha channel; clips have none")
            if (picture.pixels.shape, picture.pixels.dtype) != (self.shape, self.dtype):
                found = f"{picture.pixels.dtype} {list(picture.pixels.shape)}"
                raise ImageError(f"frame {time} is {found}, and the first one {self.dtype} {list(self.shape)}")
            yield ListedFrame(picture.pixels.copy(), time)  # a caller may use one array for all frames
            self.end = time + 1

    def take_media(self) -> bytes:
        return b""

    def close(self) -> None:
        """Do nothing: the pictures are the caller's."""


def exact_rate(frame_rate: Fraction | float) -> Fraction:
    """A frame rate as a fraction; a float becomes the nearest one of a small denominator. Raises ImageError."""
    if isinstance(frame_rate, float):
        is_number = math.isfinite(frame_rate) and frame_rate > 0
        frame_rate = Fraction(frame_rate).limit_denominator(FLOAT_DENOMINATOR) if is_number else Fraction(0)
    rate = Fraction(frame_rate)
    if not (0 < rate.numerator <= MAX_TERM and rate.denominator <= MAX_TERM):
        raise ImageError(f"a frame rate is above 0, with terms of at most {MAX_TERM}, got {frame_rate}")
    return rate


def open_clip(
    source: ClipSource,
    frame_rate: Fraction | float,
    *,
    start_s: float = 0.0,
    duration_s: float | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Clip:
    """Open a clip, see `Codec.encode_video`. Raises ImageError, and OSError for a file that cannot be read."""
    if isinstance(source, bytearray | memoryview):
        source = bytes(source)
    if isinstance(source, Image.Image) or getattr(source, "ndim", 4) < 4:
        raise ImageError("a clip is a list of pictures, or an array of 4 dimensions, and this is one picture")
    if isinstance(source, str | Path | bytes) or hasattr(source, "read"):
        from ulcodec.io.video_source import VideoInput, open_video

        return open_video(cast(VideoInput, source), start_s=start_s, duration_s=duration_s, max_pixels=max_pixels)
    if start_s or duration_s is not None:
        raise ValueError("start_s and duration_s are for videos; take a slice of the pictures")
    return ListedClip(cast(Iterable[ImageLike], source), frame_rate, max_pixels)
