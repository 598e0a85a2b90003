"""Build tar shards of training pictures from folders of photographs."""

import hashlib
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from ulcodec.errors import ImageError, MissingPackageError, TrainingError
from ulcodec.io.artefacts import artefact_reduction
from ulcodec.io.locations import Source
from ulcodec.io.pictures import load_image, open_image, readable_extensions
from ulcodec.io.resampling import resampled
from ulcodec.io.sources import TOO_SMALL, UNREADABLE, LeftOut, decode_rgb, files_of_kind, pictures_of
from ulcodec.progress import tracked
from ulcodec.train.data.near_duplicates import KnownPictures, hashes
from ulcodec.train.data.shard_files import Row, ShardWriter, bits_of, hex_of, read_tables
from ulcodec.train.limits import MOST_CROP_PX, MOST_REDUCTION, MOST_SEED, check_number, check_whole

NEAR_DUPLICATE = "near-duplicate"
MEGABYTE = 10**6

CHUNK = 64
"""Files that are read at a time."""

SPEED = 9
"""Speed of the AVIF encoder: a ninth of the time of its default, 6, for 5 % more bytes."""


@dataclass(frozen=True)
class ShardSettings:
    """What photographs become shards, and how.

    `folders`: searched in depth. `exclude`: pictures whose near-duplicates are left out. Photographs are reduced by
    `least_reduction` or more: until artefacts of compression are gone (`ulcodec.io.artefacts`), and the longer side is
    at most `longest_side_px`. Then the shorter side must be at least `shortest_side_px`. `quality`: of AVIF, 4:4:4.
    `shard_mb`: largest shard, in 10^6 bytes. `seed` decides the order.
    """

    folders: tuple[Path, ...]
    out: Path
    exclude: tuple[Source, ...] = ()
    longest_side_px: int = 896
    shortest_side_px: int = 256
    least_reduction: float = 1.0
    quality: int = 85
    shard_mb: int = 42
    seed: int = 0

    def check(self) -> None:
        """Raise TrainingError for settings that cannot run."""
        check_whole("the shortest side", self.shortest_side_px, 1, MOST_CROP_PX)
        check_whole("the longest side", self.longest_side_px, self.shortest_side_px, MOST_CROP_PX)
        check_number("the least reduction", self.least_reduction, above=0, most=MOST_REDUCTION)
        check_whole("the quality", self.quality, 0, 100)
        check_whole("the size of a shard in megabytes", self.shard_mb, 1, 10**6)
        check_whole("the seed", self.seed, 0, MOST_SEED)


class Reduced(NamedTuple):
    """A photograph, reduced: uint8 [H, W, 3], and the hashes of its orientations, bool [8, 256]."""

    pixels: NDArray[np.uint8]
    orientations: NDArray[np.bool_]


class Built(NamedTuple):
    """Numbers of new shards and of pictures in them, and of files left out.

    `n_compared`: excluded pictures. `n_unreadable`: excluded pictures that could not be read. `n_older`: pictures of
    older shards that are near-duplicates of excluded ones.
    """

    n_shards: int
    n_pictures: int
    left_out: LeftOut
    n_compared: int
    n_unreadable: int
    n_older: int


def build_shards(settings: ShardSettings) -> Built:
    """Add shards of the photographs in folders to a folder of shards, without near-duplicates, in random order.

    Files in the tables of shards that are there are not read again, whatever the settings were. So an interrupted run
    keeps its finished shards, and the same call goes on. Of near-duplicates, the first in the order stays. Raises
    TrainingError for settings that cannot run, folders without photographs, sources of excluded pictures without
    pictures, or tables that do not fit; MissingPackageError without AVIF; OSError if a shard cannot be written.
    """
    settings.check()
    if not features.check("avif"):
        raise MissingPackageError("this build of Pillow cannot write AVIF: pip install --upgrade pillow")
    left_out = LeftOut()
    paths = photographs_in(settings.folders, left_out)
    settings.out.mkdir(parents=True, exist_ok=True)
    rows, number = read_tables(settings.out)
    known = KnownPictures()
    for row in rows:
        if row.member:
            known.add(row.file, bits_of(row.hash))
    remaining = in_random_order(paths - {row.file for row in rows}, settings.seed)
    writer = ShardWriter(settings.out, number, settings.shard_mb * MEGABYTE)
    with ThreadPoolExecutor(os.cpu_count()) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of metadata and bit depths, which training does not read either
        excluded = excluded_pictures(settings.exclude, pool)
        near = {known.near_duplicate(orientations) for _, orientations in excluded if orientations is not None} - {None}
        for name, orientations in excluded:
            if orientations is not None:
                known.add(name, orientations[0])
        try:
            for chunk in tracked([remaining[first : first + CHUNK] for first in range(0, len(remaining), CHUNK)]):
                for row, data in stored(pool.map(partial(examined, settings), chunk), known, settings.quality, pool):
                    if data is None:
                        left_out[row.left_out] += 1
                    if row.left_out != UNREADABLE:  # it may be readable the next time
                        writer.add(row, data)
            writer.commit()
        except BaseException:
            writer.abort()
            raise
    n_unreadable = sum(orientations is None for _, orientations in excluded)
    n_compared = len(excluded) - n_unreadable
    return Built(writer.n_shards, writer.n_pictures, left_out, n_compared, n_unreadable, len(near))


def photographs_in(folders: Sequence[Path], left_out: LeftOut) -> set[str]:
    """Find the pictures in folders, in depth: absolute paths. `left_out` counts folders that cannot be read.

    Raises TrainingError for a path that is not a folder, and if there is no picture.
    """
    suffixes = readable_extensions()
    found: set[str] = set()
    for folder in folders:
        if not folder.is_dir():
            raise TrainingError(f"{folder} is not a folder of photographs")
        found.update(map(str, files_of_kind(folder.resolve(), suffixes, left_out)))
    if not found:
        raise TrainingError(f"found no photographs in {', '.join(map(str, folders))}")
    return found


def in_random_order(files: set[str], seed: int) -> list[str]:
    """Sort files in an order that the seed decides, for each file by itself."""
    return sorted(files, key=lambda file: hashlib.sha256(str(seed).encode() + b" " + os.fsencode(file)).digest())


def excluded_pictures(
    sources: Sequence[Source], pool: ThreadPoolExecutor
) -> list[tuple[str, NDArray[np.bool_] | None]]:
    """Hash the orientations of the pictures of sources, with their names; None for unreadable ones.

    Raises TrainingError for a source that cannot be read, or has no pictures.
    """
    excluded: list[tuple[str, NDArray[np.bool_] | None]] = []
    for source in sources:
        left_out, n_before = LeftOut(), len(excluded)
        files = pictures_of([source], left_out)
        while chunk := list(islice(files, CHUNK)):
            names, contents = zip(*chunk, strict=True)
            excluded += zip(names, pool.map(hashes_of, contents), strict=True)
        excluded += [(str(source), None)] * left_out.total()
        if len(excluded) == n_before:
            raise TrainingError(f"no pictures to exclude in {source}")
    return excluded


def hashes_of(data: bytes) -> NDArray[np.bool_] | None:
    """Hash the orientations of a picture, without its alpha; None if it cannot be read."""
    try:
        return hashes(load_image(data).rgb_8)
    except ImageError:
        return None


def examined(settings: ShardSettings, file: str) -> tuple[Row, Reduced | None]:
    """Read a photograph and reduce it, or tell in its row why it is left out."""
    try:
        data = Path(file).read_bytes()
    except OSError:
        return Row(file, left_out=UNREADABLE), None
    pixels = decode_rgb(data)
    if isinstance(pixels, str):
        return Row(file, left_out=pixels), None
    height, width = pixels.shape[:2]
    reduction = max(
        artefact_reduction(open_image(data)), settings.least_reduction, max(height, width) / settings.longest_side_px
    )
    row = Row(file, width=width, height=height, reduction=round(reduction, 3))
    sides = round(height / reduction), round(width / reduction)
    if min(sides) < settings.shortest_side_px:
        return row._replace(left_out=TOO_SMALL), None
    reduced = pixels if reduction == 1 else resampled(pixels, sides)
    return row, Reduced(reduced, hashes(reduced))


def stored(
    photographs: Iterator[tuple[Row, Reduced | None]], known: KnownPictures, quality: int, pool: ThreadPoolExecutor
) -> list[tuple[Row, bytes | None]]:
    """Compress the photographs that are not near-duplicates of known ones, which they join."""
    chosen: list[tuple[Row, NDArray[np.uint8] | None]] = []
    for row, reduced in photographs:
        if reduced is not None and (near := known.near_duplicate(reduced.orientations)) is not None:
            row, reduced = row._replace(left_out=NEAR_DUPLICATE, near=near), None
        if reduced is not None:
            known.add(row.file, reduced.orientations[0])
            row = row._replace(hash=hex_of(reduced.orientations[0]))
        chosen.append((row, None if reduced is None else reduced.pixels))
    files = pool.map(partial(avif, quality), (pixels for _, pixels in chosen))
    return [(row, data) for (row, _), data in zip(chosen, files, strict=True)]


def avif(quality: int, pixels: NDArray[np.uint8] | None) -> bytes | None:
    """Compress a picture uint8 [H, W, 3], if there is one, with chroma of full resolution."""
    if pixels is None:
        return None
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    image.save(file, "AVIF", quality=quality, subsampling="4:4:4", speed=SPEED, max_threads=1)
    return file.getvalue()
