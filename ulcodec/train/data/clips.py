"""Read training clips one stretch of frames at a time, so that memory does not grow with their number or length.

A stretch is frames that follow each other. All its frames have the same crop.
"""

import warnings
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from ulcodec.errors import ImageError
from ulcodec.io.picture import Picture
from ulcodec.io.resampling import resampled, resampled_sides
from ulcodec.io.sources import TOO_SMALL, UNREADABLE, LeftOut, videos_of
from ulcodec.io.video_source import VideoInput, VideoSource, open_video
from ulcodec.model.config import HYPER_PATCH_PX
from ulcodec.train.limits import RunSettings

TOO_SHORT = "too short"
STRETCH_FRAMES, STRETCH_INTERVAL = 33, 250
"""A long video gives this many frames out of each interval of frames."""

SHORT_SIDE_PX, LONG_SIDE_PX = 384, 640
"""Largest sides of frames. Larger ones are cropped."""

Frames = NDArray[np.uint8]
"""Frames of a clip, one after the other: uint8 [N, H, W, 3]."""


@dataclass(frozen=True)
class Clip:
    """Frames that follow each other, and their scene."""

    scene: str
    frames: Frames


@dataclass(frozen=True)
class StretchSettings:
    """What is read of a video: at least `n_frames` frames, of sides from `least_px` up, in multiples of `step_px`.

    `resize_px`: frames are first given this short side.
    """

    least_px: int
    n_frames: int = 2
    step_px: int = HYPER_PATCH_PX
    resize_px: int | None = None

    def sides(self, height_px: int, width_px: int) -> tuple[int, int]:
        """Return the sides of frames before the crop."""
        return (height_px, width_px) if self.resize_px is None else resampled_sides(height_px, width_px, self.resize_px)


def clips_of_run(settings: RunSettings, left_out: LeftOut) -> Iterator[Clip]:
    """Read the clips of a run in order. `left_out` counts the files that are not used, by reason."""
    return islice(_clips(settings, left_out), settings.limit_pictures)


def _clips(settings: RunSettings, left_out: LeftOut) -> Iterator[Clip]:
    random = np.random.default_rng(settings.seed)
    for name, source in videos_of(settings.data, left_out):
        yield from clips_in(name, source, StretchSettings(settings.crop_px), random, left_out)


def clips_in(
    name: str, source: VideoInput, settings: StretchSettings, random: np.random.Generator, left_out: LeftOut
) -> Iterator[Clip]:
    """Read the stretches of a video as clips. `left_out` counts videos that cannot be used."""
    try:
        for frames in stretches_of(source, settings, random, left_out):
            yield Clip(scene_of(name), frames)
    except (ImageError, OSError):
        left_out[UNREADABLE] += 1


def scene_of(name: str) -> str:
    """Return the name of a clip's scene: the path without extension, up to the last `-` in the name of the file."""
    path = PurePosixPath(name.rpartition(":")[2])  # without the name of the shard
    return str(path.with_name(path.stem.rpartition("-")[0] or path.stem))


def stretches_of(
    source: VideoInput, settings: StretchSettings, random: np.random.Generator, left_out: LeftOut
) -> Iterator[Frames]:
    """Read stretches of a video. A `random` crop limits their size.

    `left_out` counts the video if its frames are too small or too few. Raises ImageError for damaged data, and OSError.
    """
    with _opened(source) as video:
        sides = settings.sides(video.format.height, video.format.width)
        if min(sides) < settings.least_px:
            left_out[TOO_SMALL] += 1
            return
        largest = (max(side, settings.least_px) for side in largest_sides(*sides))
        crop = tuple(_span(*lengths, settings.step_px, random) for lengths in zip(sides, largest, strict=True))
        n_read, n_stretches = max(STRETCH_FRAMES, settings.n_frames), 0
        while len(frames := _read(video, n_read, sides, crop)) >= settings.n_frames:
            yield np.stack(frames)
            n_stretches += 1
            _skip(video, STRETCH_INTERVAL - n_read)
        if not n_stretches:
            left_out[TOO_SHORT] += 1


def largest_sides(height_px: int, width_px: int) -> tuple[int, int]:
    """Return the largest height and width for frames of a size."""
    return (SHORT_SIDE_PX, LONG_SIDE_PX) if height_px <= width_px else (LONG_SIDE_PX, SHORT_SIDE_PX)


def _span(side_px: int, largest_px: int, step_px: int, random: np.random.Generator) -> slice:
    """Draw a part of a side, a multiple of `step_px`."""
    kept = min(side_px, largest_px) // step_px * step_px
    start = int(random.integers(side_px - kept + 1))
    return slice(start, start + kept)


def _opened(source: VideoInput) -> VideoSource:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # audio and transparency do not matter here
        return open_video(source)


def _read(video: VideoSource, count: int, sides: tuple[int, int], crop: tuple[slice, ...]) -> list[NDArray[np.uint8]]:
    """Read the frames of a stretch, or those that are left: crops uint8 [H, W, 3] of frames of `sides`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [_cropped(frame.pixels, sides, crop) for frame in islice(video, count)]


def _cropped(samples: NDArray[np.integer], sides: tuple[int, int], crop: tuple[slice, ...]) -> NDArray[np.uint8]:
    """Convert a crop of samples to a copy uint8 [H, W, 3]."""
    has_sides = samples.shape[:2] == sides
    window = Picture(samples[crop]).rgb_8 if has_sides else resampled(Picture(samples).rgb_8, sides)[crop]
    copy: NDArray[np.uint8] = window.copy()
    return copy


def _skip(video: VideoSource, count: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        deque(islice(video, max(count, 0)), maxlen=0)
