"""Where pictures are read from: folders, and tar shards on disk or at any URL that fsspec opens."""

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
"""What fsspec and tarfile raise; ImportError and ValueError are for protocols without a driver."""


class LeftOut(Counter[str]):
    """How many files and folders were left out, by the reason."""

    def __str__(self) -> str:
        return ", ".join(f"{count} {reason}" for reason, count in sorted(self.items()))

    def after(self, line: str) -> str:
        """The line, and what was left out, if anything was."""
        return f"{line}; left out: {self}" if self else line


def expand_sources(sources: Iterable[Source]) -> list[Source]:
    """Folders and URLs with `*` stand for their tar shards; a folder stays, behind them, if it holds pictures or none.

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
    """The tar shards in a folder, searched in depth, and the folder itself unless it holds nothing else."""
    files = files_in(folder, LeftOut())
    shards = [file for file in files if file.suffix.lower() == SHARD_SUFFIX]
    pictures = readable_extensions()
    return [*shards, folder] if not shards or any(file.suffix.lower() in pictures for file in files) else shards


def files_in(folder: Path, left_out: LeftOut) -> list[Path]:
    """Files of a folder and those below it, sorted; folders that cannot be read are counted as left out."""

    def leave_out(error: OSError) -> None:
        left_out[UNREADABLE_FOLDER] += 1

    found = os.walk(folder, onerror=leave_out)
    return sorted(Path(parent) / name for parent, _, names in found for name in names)


def expand_url(url: str) -> list[str]:
    try:
        system, pattern = url_to_fs(url)
        found = sorted(system.unstrip_protocol(path) for path in system.glob(pattern))
    except READING_ERRORS as error:
        raise TrainingError(f"cannot list training data {url}: {error}") from error
    if not found:
        raise TrainingError(f"no training data at {url}")
    return found


def open_shard(source: Source) -> AbstractContextManager[IO[bytes]]:
    if isinstance(source, Path):
        return open(source, "rb")
    remote: Any = fsspec.open(source, "rb")
    opened: AbstractContextManager[IO[bytes]] = remote
    return opened


def pictures_of(sources: Iterable[Source], left_out: LeftOut) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of the pictures of several sources.

    What cannot be read in a folder is left out. Raises TrainingError for a source of its own that cannot be read.
    """
    given = list(sources)
    for source in expand_sources(given):
        try:
            yield from picture_files(source, left_out)
        except TrainingError:
            if source in given or isinstance(source, str):
                raise
            left_out[UNREADABLE] += 1


def picture_files(source: Source, left_out: LeftOut) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of the pictures in a folder (sorted) or a tar shard, or of one picture.

    What cannot be read in a folder is left out. Raises TrainingError if the source cannot be read.
    """
    suffixes = readable_extensions()
    if isinstance(source, Path) and source.is_dir():
        for file in files_in(source, left_out):
            # A pipe would be waited for; a link that leads nowhere is a file that cannot be read.
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
    """uint8 [H, W, 3], or why it is left out: it cannot be decoded or coded, or is partly transparent."""
    try:
        picture = load_image(data)
    except ImageError:
        return UNREADABLE
    if picture.alpha is not None:
        return TRANSPARENT
    pixels = picture.pixels_8
    return pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)


def usable(decoded: Iterable[np.ndarray | str], left_out: LeftOut, min_side_px: int = 1) -> Iterator[np.ndarray]:
    """Pictures with both sides at least `min_side_px`; the others are counted as left out."""
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
    """The first pictures of files, folders (searched in depth) and tar shards.

    What cannot be read, or is partly transparent, is counted in `left_out`.
    """
    counted = LeftOut() if left_out is None else left_out
    decoded = (decode_rgb(data) for _, data in pictures_of(sources, counted))
    return list(islice(usable(decoded, counted), limit))
