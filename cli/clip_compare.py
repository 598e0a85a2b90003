"""The distance of a clip from its original, for `ulcodec compare`."""

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ulcodec.errors import FormatError, ImageError
from ulcodec.progress import share
from ulcodec_cli.clip_decode import is_sequence_file
from ulcodec_cli.clip_encode import ClipInput, read_input
from ulcodec_cli.common import ModelOptions, load_codec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ulcodec.codec.clips import TimedFrame
    from ulcodec.codec.video import VideoFrame
    from ulcodec.format.sequence import ClipFormat

EXACT_DB = 100.0
"""PSNR that an exact frame counts with in a mean."""


def is_moving(source: Path) -> bool:
    """Whether a file is a video, an animation or a sequence."""
    return source.is_file() and (is_sequence_file(source) or isinstance(read_input(source), ClipInput))


def compare_clips(original: Path, other: Path, model: ModelOptions, max_pixels: int) -> dict[str, Any]:
    """Measure the frames of two clips; each figure is the mean of the frames' own.

    Raises ImageError for clips of different sizes or numbers of frames.
    """
    with ExitStack() as stack:
        clip, n_frames, frames = open_frames(original, model, max_pixels, stack)
        other_clip, _, others = open_frames(other, model, max_pixels, stack)
        if (clip.width, clip.height) != (other_clip.width, other_clip.height):
            sizes = f"{clip.width}x{clip.height} and {other_clip.width}x{other_clip.height}"
            raise ImageError(f"clips of different sizes: {sizes}")
        figures: list[dict[str, float]] = []
        for number, (a, b) in enumerate(zip_longest(frames, others)):
            if a is None or b is None:
                shorter, longer = (original, other) if a is None else (other, original)
                raise ImageError(f"{longer} has more frames than {shorter}, which has {number}")
            n_left = (n_frames or 0) - number
            with share(1 / n_left if n_left > 0 else 0.0, f"frame {number}"):
                figures.append(measure_frames(a, b, clip.matrix))
    n_bytes = other.stat().st_size
    n_frames = len(figures)
    return {
        "width": clip.width,
        "height": clip.height,
        "n_frames": n_frames,
        "file_bytes": n_bytes,
        "bits_per_pixel": 8 * n_bytes / (clip.n_pixels * n_frames),
        **{name: mean_of([frame[name] for frame in figures]) for name in figures[0]},
    }


def mean_of(values: list[float]) -> float:
    """Mean of figures; an exact frame, whose PSNR is infinite, counts as `EXACT_DB` unless all are exact."""
    if all(map(math.isinf, values)):
        return math.inf
    return sum(EXACT_DB if math.isinf(value) else value for value in values) / len(values)


def measure_frames(a: "NDArray[Any]", b: "NDArray[Any]", matrix: int) -> dict[str, float]:
    """Measure two frames of one size at 8 bits."""
    import numpy as np

    from ulcodec.io.picture import Picture
    from ulcodec.metrics import MS_SSIM_MIN_SIDE, ms_ssim, psnr_db
    from ulcodec.metrics.video import plane_psnr, to_yuv420

    is_grey = a.ndim == b.ndim == 2
    a, b = (np.broadcast_to(np.atleast_3d(Picture(pixels).pixels_8), (*pixels.shape[:2], 3)) for pixels in (a, b))
    planes = plane_psnr(to_yuv420(a, matrix), to_yuv420(b, matrix))
    values = {"psnr_db": psnr_db(a, b), "yuv_psnr_db": planes.y if is_grey else planes.yuv}
    if min(a.shape[:2]) >= MS_SSIM_MIN_SIDE:
        values["ms_ssim"] = ms_ssim(a, b)
    return values


def open_frames(
    source: Path, model: ModelOptions, max_pixels: int, stack: ExitStack
) -> "tuple[ClipFormat, int | None, Iterator[NDArray[Any]]]":
    """Open a clip: its format, the number of its frames if it is known, and their samples."""
    from ulcodec.io.video_source import open_video

    with named(source):
        if is_sequence_file(source):
            codec = load_codec(model.directory_for(source), model)
            video = stack.enter_context(codec.decode_video(source, max_pixels=max_pixels))
            return video.format, video.n_frames, samples_of(source, video)
        clip = stack.enter_context(open_video(source, max_pixels=max_pixels))
        return clip.format, clip.n_frames, samples_of(source, clip)


def samples_of(source: Path, frames: "Iterable[TimedFrame | VideoFrame]") -> "Iterator[NDArray[Any]]":
    """Iterate over the samples of frames."""
    with named(source):
        for frame in frames:
            yield frame.pixels


@contextmanager
def named(source: Path) -> Iterator[None]:
    """Put the name of a file in front of its errors."""
    try:
        yield
    except (FormatError, ImageError) as error:
        raise type(error)(f"{source}: {error}") from error
