"""Training pictures: decoded once, held as uint8 in one tensor, cropped at random on the training device.

All of them, or a few shards at a time of those that do not fit.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np

from ulcodec.errors import TrainingError
from ulcodec.io.locations import Source
from ulcodec.io.sources import LeftOut, decode_rgb, pictures_of, usable
from ulcodec.train.data.pictures import PictureSet, pack


def read_pictures(files: Iterable[tuple[str, bytes]], min_side_px: int, left_out: LeftOut) -> Iterator[np.ndarray]:
    """The usable ones among named files, decoded: uint8 [H, W, 3] with both sides at least `min_side_px`.

    The others are counted in `left_out`.
    """
    remaining = iter(files)
    with ThreadPoolExecutor() as pool:
        while chunk := list(islice(remaining, 64)):
            decoded = pool.map(decode_rgb, (data for _, data in chunk))
            yield from usable(decoded, left_out, min_side_px)


def held_out_every(validation_share: float) -> int:
    """Every how many pictures one is held out."""
    return max(2, round(1 / validation_share))


def load_pictures(
    sources: Iterable[Source],
    *,
    min_side_px: int,
    validation_share: float,
    limit: int | None = None,
    left_out: LeftOut | None = None,
) -> tuple[PictureSet, PictureSet]:
    """Decode every picture once and split: returns (training, validation).

    Every `1 / validation_share`-th usable picture goes to validation (at least one). Pictures with a side below
    `min_side_px` are left out, those with transparency, and what cannot be read; `left_out` counts them. Raises
    TrainingError if fewer than two pictures remain.
    """
    counted = LeftOut() if left_out is None else left_out
    pictures = list(islice(read_pictures(pictures_of(sources, counted), min_side_px, counted), limit))
    if len(pictures) < 2:
        found = f"found {len(pictures)} pictures with sides of at least {min_side_px} px; need two or more"
        raise TrainingError(counted.after(found))
    every = held_out_every(validation_share)
    held_out = [p for i, p in enumerate(pictures) if i % every == 0]
    return pack([p for i, p in enumerate(pictures) if i % every]), pack(held_out)
