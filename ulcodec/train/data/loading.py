"""Load training pictures into memory: decode each once, split into training and validation."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np

from ulcodec.errors import TrainingError
from ulcodec.io.locations import Source
from ulcodec.io.sources import LeftOut, decode_rgb, pictures_of, usable
from ulcodec.train.data.pictures import PictureSet, pack
from ulcodec.train.limits import RunSettings


def read_pictures(files: Iterable[tuple[str, bytes]], min_side_px: int, left_out: LeftOut) -> Iterator[np.ndarray]:
    """Decode the usable pictures among named files: uint8 [H, W, 3] with both sides at least `min_side_px`.

    `left_out` counts the others.
    """
    remaining = iter(files)
    with ThreadPoolExecutor() as pool:
        while chunk := list(islice(remaining, 64)):
            decoded = pool.map(decode_rgb, (data for _, data in chunk))
            yield from usable(decoded, left_out, min_side_px)


def pictures_of_run(settings: RunSettings, left_out: LeftOut) -> tuple[PictureSet, PictureSet]:
    """Load the pictures of a run, see `load_pictures`."""
    return load_pictures(
        settings.data,
        min_side_px=settings.crop_px,
        validation_share=settings.validation_share,
        limit=settings.limit_pictures,
        left_out=left_out,
    )


def held_out_every(validation_share: float) -> int:
    """Interval between pictures that are held out."""
    return max(2, round(1 / validation_share))


def load_pictures(
    sources: Iterable[Source],
    *,
    min_side_px: int,
    validation_share: float,
    limit: int | None = None,
    left_out: LeftOut | None = None,
) -> tuple[PictureSet, PictureSet]:
    """Decode every picture once; return the sets for training and for validation.

    Every `1 / validation_share`-th usable picture goes to validation, at least one. Pictures with a side below
    `min_side_px`, with transparency, or unreadable are skipped; `left_out` counts them. Raises TrainingError if fewer
    than two pictures remain.
    """
    counted = LeftOut() if left_out is None else left_out
    pictures = list(islice(read_pictures(pictures_of(sources, counted), min_side_px, counted), limit))
    if len(pictures) < 2:
        message = f"found {len(pictures)} pictures with sides of at least {min_side_px} px; need two or more"
        raise TrainingError(counted.after(message))
    every = held_out_every(validation_share)
    held_out = [p for i, p in enumerate(pictures) if i % every == 0]
    return pack([p for i, p in enumerate(pictures) if i % every]), pack(held_out)
