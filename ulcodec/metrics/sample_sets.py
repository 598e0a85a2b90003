"""Read sets of pictures and of clips for FID and FVD, one after another, from the sources of `ulcodec.io.sources`."""

import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ulcodec.errors import BenchmarkError, ImageError
from ulcodec.io.clip_kinds import ANIMATION_SUFFIXES, VIDEO_SUFFIXES
from ulcodec.io.locations import Source
from ulcodec.io.picture import Picture
from ulcodec.io.sources import UNREADABLE, LeftOut, decode_rgb, pictures_of, usable, videos_of
from ulcodec.io.video_source import VideoInput, open_video
from ulcodec.metrics.feature_networks import FeatureNetwork
from ulcodec.metrics.frechet import FeatureStatistics

Pixels = NDArray[np.uint8]
Item = TypeVar("Item")

TOO_SHORT = "too short"


def picture_statistics(
    sources: Iterable[Source],
    network: FeatureNetwork,
    *,
    size_px: int | None = None,
    limit: int | None = None,
    left_out: LeftOut | None = None,
) -> FeatureStatistics:
    """Compute the statistics of the features of pictures, for FID.

    `size_px`: fit them to this side first. `limit`: only the first pictures. `left_out` counts the others. Raises
    BenchmarkError for fewer than two pictures, and TrainingError for an unreadable source.
    """
    counted = LeftOut() if left_out is None else left_out
    decoded = (decode_rgb(data) for _, data in pictures_of(sources, counted))
    pictures = (fit(pixels, size_px) for pixels in usable(decoded, counted))
    return _checked(network.statistics(islice(pictures, limit)), "FID", "pictures", counted)


def clip_statistics(
    sources: Iterable[Source],
    network: FeatureNetwork,
    *,
    n_frames: int,
    size_px: int | None = None,
    limit: int | None = None,
    left_out: LeftOut | None = None,
) -> FeatureStatistics:
    """Compute the statistics of the features of clips, one of `n_frames` frames from each video, for FVD.

    The place of a clip in its video is random, but depends only on the number of the video in the set and its length.
    So a set and its reconstruction give the same places. Options and errors as `picture_statistics`.
    """
    counted = LeftOut() if left_out is None else left_out
    clips = (fit_clip(frames, size_px) for frames in read_clips(sources, n_frames, counted))
    return _checked(network.statistics(islice(clips, limit)), "FVD", f"videos of {n_frames} frames", counted)


def _checked(statistics: FeatureStatistics, measure: str, items: str, left_out: LeftOut) -> FeatureStatistics:
    if statistics.n < 2:
        raise BenchmarkError(left_out.after(f"{measure} needs two or more {items} in each set, got {statistics.n}"))
    return statistics


def read_clips(sources: Iterable[Source], n_frames: int, left_out: LeftOut) -> Iterator[list[Pixels]]:
    """Read a clip of `n_frames` frames, uint8 [H, W, 3], from each video. `left_out` counts videos without one."""
    videos = videos_of(sources, left_out, VIDEO_SUFFIXES | ANIMATION_SUFFIXES)
    for number, (_, source) in enumerate(videos):
        try:
            frames = read_clip(source, n_frames, np.random.default_rng(number))
        except (ImageError, OSError):
            left_out[UNREADABLE] += 1
            continue
        if frames is None:
            left_out[TOO_SHORT] += 1
        else:
            yield frames


def read_clip(source: VideoInput, n_frames: int, rng: np.random.Generator) -> list[Pixels] | None:
    """Read `n_frames` consecutive frames from a random place of a video; None if it has fewer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # audio and transparency do not matter here
        with open_video(source) as video:
            frames = random_window((frame.pixels for frame in video), n_frames, rng)
    return None if frames is None else [Picture(samples).rgb_8 for samples in frames]


def random_window(items: Iterable[Item], count: int, rng: np.random.Generator) -> list[Item] | None:
    """Draw `count` consecutive items, each place with the same probability; None if there are fewer items.

    One pass that keeps at most twice `count` items (reservoir sampling), since videos do not state their length
    reliably.
    """
    window: deque[Item] = deque(maxlen=count)
    drawn = None
    for number, item in enumerate(items, 1):
        window.append(item)
        n_places = number - count + 1
        if n_places > 0 and rng.integers(n_places) == 0:
            drawn = list(window)
    return drawn


def fit_clip(frames: list[Pixels], size_px: int | None) -> Pixels:
    """Fit the frames of a clip, and stack them: uint8 [T, H, W, 3]."""
    return np.stack([fit(pixels, size_px) for pixels in frames])


def fit(pixels: Pixels, size_px: int | None) -> Pixels:
    """Resize the shorter side to `size_px` with a Lanczos filter, and crop the centre to a square; None: no change."""
    if size_px is None:
        return pixels
    return np.asarray(ImageOps.fit(Image.fromarray(pixels), (size_px, size_px), Image.Resampling.LANCZOS))
