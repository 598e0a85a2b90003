"""Readers of training data: how files become pictures or clips, and these a set. `clip_reader` reads clips."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, Generic

import numpy as np

from ulcodec.io.locations import Source
from ulcodec.io.pictures import readable_extensions
from ulcodec.io.resampling import resampled, resampled_sides
from ulcodec.io.sources import (
    LeftOut,
    decode_rgb,
    picture_files,
    pictures_of,
    usable,
)
from ulcodec.train.data.crops import Set
from ulcodec.train.data.pictures import PictureSet, join, pack

Files = Iterable[tuple[str, Any]]
"""Names and contents."""

Example = tuple[str, np.ndarray]
"""A picture uint8 [H, W, 3] or a clip uint8 [T, H, W, 3], with its scene. Whole scenes are held out."""

READ_AHEAD = 64


class Reader(ABC, Generic[Set]):
    """Reads one kind of training data.

    `noun` names it in the plural, and `what` describes what is usable; `of_scenes` completes "two or more".
    """

    noun: str
    what: str
    of_scenes = ""
    suffixes: Collection[str]

    @abstractmethod
    def files(self, sources: Iterable[Source], left_out: LeftOut) -> Files:
        """Find the files of several sources. Errors as `ulcodec.io.sources.pictures_of`."""

    @abstractmethod
    def shard_files(self, source: Source, left_out: LeftOut) -> Files:
        """Find the files of one source. Errors as `ulcodec.io.sources.picture_files`."""

    @abstractmethod
    def examples(self, files: Files, left_out: LeftOut, limit: int | None = None) -> Iterator[Example]:
        """Decode the usable ones among files, in order, at most `limit`. `left_out` counts the others."""

    @abstractmethod
    def pack(self, examples: list[np.ndarray]) -> Set:
        """Make a set of pictures or clips."""

    @abstractmethod
    def join(self, sets: list[Set]) -> Set:
        """Join sets."""


class PictureReader(Reader[PictureSet]):
    """Reads pictures with both sides at least `min_side_px`. With `resize_px`, each is first given this short side."""

    noun = "pictures"

    def __init__(self, min_side_px: int, resize_px: int | None = None):
        self.min_side_px, self.resize_px = min_side_px, resize_px
        self.what = "pictures" if resize_px else f"pictures with sides of at least {min_side_px} px"
        self.suffixes = readable_extensions()

    def files(self, sources: Iterable[Source], left_out: LeftOut) -> Files:
        return pictures_of(sources, left_out)

    def shard_files(self, source: Source, left_out: LeftOut) -> Files:
        return picture_files(source, left_out)

    def examples(self, files: Files, left_out: LeftOut, limit: int | None = None) -> Iterator[Example]:
        return islice(self._pictures(files, left_out), limit)

    def _pictures(self, files: Files, left_out: LeftOut) -> Iterator[Example]:
        remaining, number = iter(files), 0
        with ThreadPoolExecutor() as pool:
            while chunk := list(islice(remaining, READ_AHEAD)):
                decoded = pool.map(self.decode, (data for _, data in chunk))
                for pixels in usable(decoded, left_out, self.min_side_px):
                    yield str(number), pixels
                    number += 1

    def decode(self, data: bytes) -> np.ndarray | str:
        """Decode a picture; or return the reason to skip it."""
        pixels = decode_rgb(data)
        if self.resize_px is None or isinstance(pixels, str):
            return pixels
        height, width = pixels.shape[:2]
        return resampled(pixels, resampled_sides(height, width, self.resize_px))

    def pack(self, examples: list[np.ndarray]) -> PictureSet:
        return pack(examples)

    def join(self, sets: list[PictureSet]) -> PictureSet:
        return join(sets)


def split(examples: Iterable[Example], every: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Divide pictures or clips into those for training and those held out: every `every`-th scene, from the first."""
    scenes: dict[str, int] = {}
    parts: tuple[list[np.ndarray], list[np.ndarray]] = [], []
    for scene, example in examples:
        parts[scenes.setdefault(scene, len(scenes)) % every == 0].append(example)
    return parts
