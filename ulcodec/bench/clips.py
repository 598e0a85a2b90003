"""Clips of benchmarks: the first frames of videos, in the one form in which all codecs get them.

A prepared clip is a Matroska file in 8-bit 4:2:0 of limited range with even sides. It is uncompressed, so that reading
it takes no part of an encoder's time. Samples that have this form already are not changed.
"""

import hashlib
import os
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange
from numpy.typing import NDArray

from ulcodec.bench.pictures import SUFFIXES
from ulcodec.errors import BenchmarkError, ImageError
from ulcodec.io.clip_kinds import HEAD_BYTES, is_video
from ulcodec.io.picture import Picture
from ulcodec.io.video_source import SWSCALE_MATRICES, open_container, open_video, usual_matrix
from ulcodec.metrics.video import Planes, to_yuv420

Pixels = NDArray[np.uint8]
PIXEL_FORMAT = "yuv420p"
MIN_SIDE = 16
"""Smallest side of a clip: that of a macroblock."""
CONVERTED, CROPPED = "converted to 8-bit 4:2:0", "cropped to even sides"


class Clip(NamedTuple):
    """A prepared clip.

    `file`: the Matroska file; `matrix`: coefficients of ITU-T H.273; `sha256`: of its samples; `changes`: what was
    changed in the source.
    """

    name: str
    file: Path
    width: int
    height: int
    n_frames: int
    frame_rate: Fraction
    matrix: int
    sha256: str
    changes: tuple[str, ...]

    def bpp(self, n_bytes: int) -> float:
        """Bits per pixel of a file with all frames."""
        return 8 * n_bytes / (self.width * self.height * self.n_frames)


class Frames(NamedTuple):
    """Frames of a clip: `yuv` in 4:2:0, each uint8 [3 H / 2, W]; the same as `rgb`, each uint8 [H, W, 3]."""

    yuv: list[Pixels]
    rgb: list[Pixels]


def find_clips(paths: Sequence[Path]) -> list[Path]:
    """Find the videos among files and in folders, sorted by name in a folder; none if there are pictures.

    Raises OSError for a path that does not exist, BenchmarkError for videos beside pictures, or beside other files if
    these are named, and for two videos of one name.
    """
    videos, others = [], []
    for path in paths:
        is_folder = path.is_dir()
        for file in sorted(path.iterdir()) if is_folder else [path]:
            if is_folder and not file.is_file():
                continue
            if is_video_file(file):
                videos.append(file)
            elif not is_folder or file.suffix.lower() in SUFFIXES:
                others.append(file)
    if videos and others:
        raise BenchmarkError(f"expected only videos or only pictures, got {videos[0].name} and {others[0].name}")
    names = [file.name for file in videos]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BenchmarkError(f"two clips have the name {twice[0]}: rename one of them")
    return videos


def is_video_file(path: Path) -> bool:
    with open(path, "rb") as file:
        return is_video(file.read(HEAD_BYTES), path.name)


def prepare_clip(path: Path, folder: Path, n_frames: int) -> Clip:
    """Write the first frames of a video as a prepared clip in a folder. Raises ImageError, with the name of the file.

    The frame rate is the nominal one. Frames of another form are converted from RGB as `ulcodec.io.video_source` reads
    them; the last row or column of odd sides is left out.
    """
    try:
        with open_video(path) as video:
            layout = video.format
            matrix = layout.matrix if layout.matrix in SWSCALE_MATRICES else usual_matrix(layout.height, 0)
            frames = plain_frames(path, n_frames)
            changes = [] if frames else [CONVERTED]
            if not frames:
                pictures = (Picture(frame.pixels).pixels_8 for frame in islice(video, n_frames))
                frames = [rounded(to_yuv420(pixels, matrix)) for pixels in pictures]
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    rows, columns = frames[0][0].shape
    height, width = rows // 2 * 2, columns // 2 * 2
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"{path}: clips need sides of at least {MIN_SIDE} px, got {columns}x{rows}")
    if (rows, columns) != (height, width):
        changes.append(CROPPED)
    yuv = [joined(planes, width, height) for planes in frames]
    file = folder / f"{path.name}.mkv"
    write_frames(file, yuv, layout.frame_rate, matrix)
    sha256 = hashlib.sha256(b"".join(map(bytes, yuv))).hexdigest()
    return Clip(printable(path.name), file, width, height, len(yuv), layout.frame_rate, matrix, sha256, tuple(changes))


def printable(name: str) -> str:
    """A file name as text that can be written: bytes that are not UTF-8 are replaced."""
    return os.fsencode(name).decode(errors="replace")


def plain_frames(path: Path, n_frames: int) -> list[list[Pixels]] | None:
    """Read the planes of the first frames of a video; None unless all are upright 8-bit 4:2:0 of limited range."""
    with open_container(f"file:{path}") as container:
        stream = next(video for video in container.streams.video if not video.disposition & Disposition.attached_pic)
        try:
            frames = list(islice(container.decode(stream), n_frames))
        except av.FFmpegError:  # `VideoSource` reads what can be read, or says what is wrong
            return None
    if not frames:
        return None
    size = frames[0].width, frames[0].height
    return [planes_of(frame) for frame in frames] if all(is_plain(frame, size) for frame in frames) else None


def is_plain(frame: VideoFrame, size: tuple[int, int]) -> bool:
    side_data: Any = frame.side_data
    is_limited = frame.color_range != ColorRange.JPEG
    is_upright = side_data.get(SideDataType.DISPLAYMATRIX) is None
    return frame.format.name == PIXEL_FORMAT and is_limited and is_upright and (frame.width, frame.height) == size


def planes_of(frame: Any) -> list[Pixels]:
    """The planes of a frame in 8-bit 4:2:0."""
    return [np.frombuffer(plane, np.uint8).reshape(plane.height, -1)[:, : plane.width] for plane in frame.planes]


def rounded(planes: Planes) -> list[Pixels]:
    """Round planes to 8 bits."""
    return [plane.round().clip(0, 255).astype(np.uint8) for plane in planes]


def joined(planes: Sequence[Pixels], width: int, height: int) -> Pixels:
    """One array uint8 [3 H / 2, W] of the upper left part of planes in 4:2:0."""
    luma, *chroma = planes
    parts = [luma[:height, :width], *(plane[: height // 2, : width // 2] for plane in chroma)]
    return np.concatenate([part.ravel() for part in parts]).reshape(-1, width)


def split(yuv: Pixels) -> Planes:
    """The planes of an array of `joined`."""
    width, height = yuv.shape[1], yuv.shape[0] * 2 // 3
    luma, *chroma = np.split(yuv.astype(np.float64).ravel(), [width * height, width * height * 5 // 4])
    return Planes(luma.reshape(height, width), *(plane.reshape(height // 2, width // 2) for plane in chroma))


def write_frames(file: Path, yuv: Sequence[Pixels], frame_rate: Fraction, matrix: int) -> None:
    """Write frames in 4:2:0, each uint8 [3 H / 2, W], as an uncompressed Matroska file."""
    with av.open(str(file), "w", format="matroska", container_options={"allow_raw_vfw": "1"}) as container:
        stream: Any = container.add_stream("rawvideo", rate=frame_rate, options={"chroma_sample_location": "left"})
        stream.width, stream.height, stream.pix_fmt = yuv[0].shape[1], yuv[0].shape[0] * 2 // 3, PIXEL_FORMAT
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, ColorRange.MPEG
        for number, samples in enumerate(yuv):
            frame = VideoFrame.from_ndarray(samples, format=PIXEL_FORMAT)
            frame.pts, frame.time_base = number, 1 / frame_rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def read_rgb(file: Path) -> list[Pixels]:
    """Read a prepared clip as RGB, each frame uint8 [H, W, 3]."""
    with open_video(file) as video:
        return [Picture(frame.pixels).pixels_8 for frame in video]


@lru_cache(maxsize=1)
def frames_of(clip: Clip) -> Frames:
    """The frames of a prepared clip; those of the last one stay in memory."""
    with av.open(str(clip.file)) as container:
        yuv = [frame.to_ndarray() for frame in container.decode(video=0)]
    return Frames(yuv, read_rgb(clip.file))
