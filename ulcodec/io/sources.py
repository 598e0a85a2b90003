"""Read pictures and videos from folders, and from tar shards on disk or at any URL that fsspec opens."""

import os
import tarfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeVar

import fsspec
import numpy as np
from fsspec.core import url_to_fs

from ulcodec.errors import ImageError, TrainingError
from ulcodec.io.clip_kinds import VIDEO_SUFFIXES
from ulcodec.io.locations import SHARD_SUFFIX, Source
from ulcodec.io.pictures import load_image, readable_extensions

TOO_SMALL, TRANSPARENT, UNREADABLE, UNREADABLE_FOLDER = "too small", "transparent", "unreadable", "unreadable folders"

READING_ERRORS = (OSError, KeyError, ValueError, ImportError, tarfile.TarError)
"""Errors of fsspec and tarfile; ImportError and ValueError come from protocols without a driver."""

Content = TypeVar("Content")


class LeftOut(Counter[str]):
    """Numbers of skipped files and folders by reason."""

    def __str__(self) -> str:
        return ", ".join(f"{count} {reason}" for reason, count in sorted(self.items()))

    def after(self, line: str) -> str:
        """Append the numbers to a line, if anything was skipped."""
        return f"{line}; left out: {self}" if self else line


def expand_sources(sources: Iterable[Source], suffixes: Collection[str] | None = None) -> list[Source]:
    """Replace folders and URLs with `*` by their tar shards. A folder that holds files, or no shards, stays.

    `suffixes`: extensions of these files, by default those of pictures. Raises TrainingError.
    """
    chosen = readable_extensions() if suffixes is None else suffixes
    expanded: list[Source] = []
    for source in sources:
        if isinstance(source, Path):
            expanded.extend(expand_folder(source, chosen) if source.is_dir() else [source])
        elif "*" not in source:
            expanded.append(source)
        else:
            expanded.extend(expand_url(source))
    return expanded


def expand_folder(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """List the tar shards in a folder, in depth, and the folder itself unless it holds nothing else."""
    files = files_in(folder, LeftOut())
    shards = [file for file in files if file.suffix.lower() == SHARD_SUFFIX]
    return [*shards, folder] if not shards or any(file.suffix.lower() in suffixes for file in files) else shards


def files_in(folder: Path, left_out: LeftOut) -> list[Path]:
    """List the files in a folder, in depth, sorted. `left_out` counts folders that cannot be read."""

    def count(error: OSError) -> None:
        left_out[UNREADABLE_FOLDER] += 1

    walk = os.walk(folder, onerror=count)
    return sorted(Path(parent) / name for parent, _, names in walk for name in names)


def files_of_kind(folder: Path, suffixes: Collection[str], left_out: LeftOut) -> Iterator[Path]:
    """Find the files with some extensions in a folder, see `files_in`. Broken links are among them; pipes are not."""
    for file in files_in(folder, left_out):
        # Reading a pipe would block. `os.path` takes what lies in a closed folder as missing, where `Path` may raise.
        if file.suffix.lower() in suffixes and (os.path.isfile(file) or not os.path.exists(file)):
            yield file


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
    return _files_of(sources, readable_extensions(), Path.read_bytes, left_out)


def videos_of(
    sources: Iterable[Source], left_out: LeftOut, suffixes: Collection[str] = VIDEO_SUFFIXES
) -> Iterator[tuple[str, Path | bytes]]:
    """Find the videos of several sources: names, and paths or, from shards, bytes. Errors as `pictures_of`."""
    return _files_of(sources, suffixes, _checked_path, left_out)


def _checked_path(path: Path) -> Path | bytes:
    """Return a path. Raises OSError if it cannot be opened."""
    with open(path, "rb"):
        return path


def _files_of(
    sources: Iterable[Source], suffixes: Collection[str], read: Callable[[Path], Content], left_out: LeftOut
) -> Iterator[tuple[str, Content | bytes]]:
    """Read the files of several sources, see `_source_files`. Raises TrainingError for an unreadable source."""
    named = list(sources)
    for source in expand_sources(named, suffixes):
        try:
            yield from _source_files(source, suffixes, read, left_out)
        except TrainingError:
            if source in named or isinstance(source, str):
                raise
            left_out[UNREADABLE] += 1


def picture_files(source: Source, left_out: LeftOut) -> Iterator[tuple[str, bytes]]:
    """Read the pictures in a folder (sorted) or a tar shard, or one picture: names and bytes.

    `left_out` counts unreadable files in a folder. Raises TrainingError if the source cannot be read.
    """
    return _source_files(source, readable_extensions(), Path.read_bytes, left_out)


def video_files(source: Source, left_out: LeftOut) -> Iterator[tuple[str, Path | bytes]]:
    """Find the videos in a folder (sorted) or a tar shard, or one video: names, and paths or bytes.

    Errors as `picture_files`.
    """
    return _source_files(source, VIDEO_SUFFIXES, _checked_path, left_out)


def _source_files(
    source: Source, suffixes: Collection[str], read: Callable[[Path], Content], left_out: LeftOut
) -> Iterator[tuple[str, Content | bytes]]:
    """Read the files with some extensions in a folder (sorted) or a tar shard, or one such file.

    Returns names, and what `read` makes of a path, or the bytes of a member of a shard. Errors as `picture_files`.
    """
    if isinstance(source, Path) and source.is_dir():
        for file in files_of_kind(source, suffixes, left_out):
            try:
                content = read(file)
            except OSError:
                left_out[UNREADABLE] += 1
            else:
                yield str(file), content
        return
    try:
        if isinstance(source, Path) and source.suffix.lower() in suffixes:
            yield str(source), read(source)
            return
        with open_shard(source) as handle, tarfile.open(fileobj=handle, mode="r|*") as shard:
            for member in shard:
                if Path(member.name).suffix.lower() not in suffixes:
                    continue
                if (opened := shard.extractfile(member)) is not None:
                    yield f"{source}:{member.name}", opened.read()
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
    return picture.rgb_8


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
