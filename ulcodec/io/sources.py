"""Read pictures from folders, and from tar shards on disk or at any URL that fsspec opens."""

import os
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import IO, Any

import fsspec
import numpy as np
from fsspec.core import url_to_fs

from ulcodec.errors import ImageError, TrainingError
from ulcodec.io.locations import SHARD_SUFFIX, Source
from ulcodec.io.pictures import load_image, readable_extensions

TOO_SMALL, TRANSPARENT, UNREADABLE, UNREADABLE_FOLDER = "too small", "transparent", "unreadable", "unreadable folders"

READING_ERRORS = (OSError, KeyError, ValueError, ImportError, tarfile.TarError)
"""Errors of fsspec and tarfile; ImportError and ValueError come from protocols without a driver."""


class LeftOut(Counter[str]):
    """Numbers of skipped files and folders by reason."""

    def __str__(self) -> str:
        return ", ".join(f"{count} {reason}" for reason, count in sorted(self.items()))

    def after(self, line: str) -> str:
        """Append the numbers to a line, if anything was skipped."""
        return f"{line}; left out: {self}" if self else line


def expand_sources(sources: Iterable[Source]) -> list[Source]:
    """Replace folders and URLs with `*` by their tar shards. A folder that holds pictures, or no shards, stays.

    Raises TrainingError.
    """
    expanded: list[Source] = []
    for source in sources:
        if isinstance(source, Path):
            expanded.extend(expand_folder(source) if source.is_dir() else [source])
        elif "*" not in source:
            expanded.append(source)
        else:
            expanded.extend(expand_url(source))
    return expanded


def expand_folder(folder: Path) -> list[Path]:
    """List the tar shards in a folder, in depth, and the folder itself unless it holds nothing else."""
    files = files_in(folder, LeftOut())
    shards = [file for file in files if file.suffix.lower() == SHARD_SUFFIX]
    pictures = readable_extensions()
    return [*shards, folder] if not shards or any(file.suffix.lower() in pictures for file in files) else shards


def files_in(folder: Path, left_out: LeftOut) -> list[Path]:
    """List the files in a folder, in depth, sorted. `left_out` counts folders that cannot be read."""

    def count(error: OSError) -> None:
        left_out[UNREADABLE_FOLDER] += 1

    walk = os.walk(folder, onerror=count)
    return sorted(Path(parent) / name for parent, _, names in walk for name in names)


def expand_url(url: str) -> list[str]:
    try:
        system, pattern = url_to_fs(url)
        urls = sorted(system.unstrip_protocol(path) for path in system.glob(pattern))
    except READING_ERRORS as error:
        raise TrainingError(f"cannot list training data {url}: {error}") from error
    if not urls:
        raise TrainingError(f"no training data at {url}")
    return urls


def open_shard(source: Source) -> AbstractContextManager[IO[bytes]]:
    if isinstance(source, Path):
        return open(source, "rb")
    remote: Any = fsspec.open(source, "rb")
    opened: AbstractContextManager[IO[bytes]] = remote
    return opened


def pictures_of(sources: Iterable[Source], left_out: LeftOut) -> Iterator[tuple[str, bytes]]:
    """Read the pictures of several sources: names and bytes.

    `left_out` counts unreadable files in folders. Raises TrainingError for an unreadable source.
    """
    named = list(sources)
    for source in expand_sources(named):
        try:
            yield from picture_files(source, left_out)
        except TrainingError:
            if source in named or isinstance(source, str):
                raise
            left_out[UNREADABLE] += 1


def picture_files(source: Source, left_out: LeftOut) -> Iterator[tuple[str, bytes]]:
    """Read the pictures in a folder (sorted) or a tar shard, or one picture: names and bytes.

    `left_out` counts unreadable files in a folder. Raises TrainingError if the source cannot be read.
    """
    suffixes = readable_extensions()
    if isinstance(source, Path) and source.is_dir():
        for file in files_in(source, left_out):
            # Reading a pipe would block. A broken link counts as an unreadable file.
            if file.suffix.lower() not in suffixes or (file.exists() and not file.is_file()):
                continue
            try:
                data = file.read_bytes()
            except OSError:
                left_out[UNREADABLE] += 1
            else:
                yield str(file), data
        return
    try:
        if isinstance(source, Path) and source.suffix.lower() in suffixes:
            yield str(source), source.read_bytes()
            return
        with open_shard(source) as handle, tarfile.open(fileobj=handle, mode="r|*") as shard:
            for member in shard:
                if Path(member.name).suffix.lower() not in suffixes:
                    continue
                if (content := shard.extractfile(member)) is not None:
                    yield f"{source}:{member.name}", content.read()
    except READING_ERRORS as error:
        raise TrainingError(f"cannot read training data {source}: {error}") from error


def decode_rgb(data: bytes) -> np.ndarray | str:
    """Decode a picture to uint8 [H, W, 3]; or return the reason to skip it: unreadable, or partly transparent."""
    try:
        picture = load_image(data)
    except ImageError:
        return UNREADABLE
    if picture.alpha is not None:
        return TRANSPARENT
    pixels = picture.pixels_8
    return pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)


def usable(decoded: Iterable[np.ndarray | str], left_out: LeftOut, min_side_px: int = 1) -> Iterator[np.ndarray]:
    """Filter pictures with both sides at least `min_side_px`; `left_out` counts the others."""
    for pixels in decoded:
        if isinstance(pixels, str):
            left_out[pixels] += 1
        elif min(pixels.shape[:2]) < min_side_px:
            left_out[TOO_SMALL] += 1
        else:
            yield pixels


def read_pictures(
    sources: Iterable[Source], limit: int | None = None, left_out: LeftOut | None = None
) -> list[np.ndarray]:
    """Read the first pictures of files, folders (searched in depth) and tar shards, uint8 [H, W, 3].

    `left_out` counts pictures that are unreadable or partly transparent.
    """
    counted = LeftOut() if left_out is None else left_out
    decoded = (decode_rgb(data) for _, data in pictures_of(sources, counted))
    return list(islice(usable(decoded, counted), limit))
