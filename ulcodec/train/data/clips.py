"""Read training clips one stretch of frames at a time, so that memory does not grow with their number or length."""

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
    """Frames that follow each other, with sides that are whole positions of the hyper-latent, and their scene."""

    scene: str
    frames: Frames


def clips_of_run(settings: RunSettings, left_out: LeftOut) -> Iterator[Clip]:
    """Read the clips of a run in order. `left_out` counts the files that are not used, by reason."""
    return islice(_clips(settings, left_out), settings.limit_pictures)


def _clips(settings: RunSettings, left_out: LeftOut) -> Iterator[Clip]:
    random = np.random.default_rng(settings.seed)
    for name, source in videos_of(settings.data, left_out):
        try:
            for frames in stretches_of(source, settings.crop_px, random, left_out):
                yield Clip(scene_of(name), frames)
        except (ImageError, OSError):
            left_out[UNREADABLE] += 1


def scene_of(name: str) -> str:
    """Return the name of a clip's scene: the path without extension, up to the last `-` in the name of the file."""
    path = PurePosixPath(name.rpartition(":")[2])  # without the name of the shard
    return str(path.with_name(path.stem.rpartition("-")[0] or path.stem))


def stretches_of(source: VideoInput, least_px: int, random: np.random.Generator, left_out: LeftOut) -> Iterator[Frames]:
    """Read stretches of at least two frames of a video. A `random` crop limits their size.

    `left_out` counts the video if its frames are too small, or only one. Raises ImageError for damaged data, and
    OSError.
    """
    with _opened(source) as video:
        sides = video.format.height, video.format.width
        if min(sides) < least_px:
            left_out[TOO_SMALL] += 1
            return
        largest = (max(side, least_px) for side in largest_sides(*sides))
        crop = tuple(_span(*lengths, random) for lengths in zip(sides, largest, strict=True))
        n_stretches = 0
        while len(frames := _read(video, crop)) > 1:
            yield np.stack(frames)
            n_stretches += 1
            _skip(video, STRETCH_INTERVAL - STRETCH_FRAMES)
        if not n_stretches:
            left_out[TOO_SHORT] += 1


def largest_sides(height_px: int, width_px: int) -> tuple[int, int]:
    """Return the largest height and width for frames of a size."""
    return (SHORT_SIDE_PX, LONG_SIDE_PX) if height_px <= width_px else (LONG_SIDE_PX, SHORT_SIDE_PX)


def _span(side_px: int, largest_px: int, random: np.random.Generator) -> slice:
    """Draw a part of a side, of whole positions of the hyper-latent."""
    kept = min(side_px, largest_px) // HYPER_PATCH_PX * HYPER_PATCH_PX
    start = int(random.integers(side_px - kept + 1))
    return slice(start, start + kept)


def _opened(source: VideoInput) -> VideoSource:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # audio and transparency do not matter here
        return open_video(source)


def _read(video: VideoSource, crop: tuple[slice, ...]) -> list[NDArray[np.uint8]]:
    """Read the frames of a stretch, or those that are left: crops uint8 [H, W, 3]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [_rgb(frame.pixels[crop]) for frame in islice(video, STRETCH_FRAMES)]


def _skip(video: VideoSource, count: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        deque(islice(video, count), maxlen=0)


def _rgb(samples: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Convert a view of samples to a copy uint8 [H, W, 3]."""
    pixels = Picture(samples).pixels_8
    return pixels.copy() if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)
