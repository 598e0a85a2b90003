"""Where pictures are read from: folders, and tar shards on disk or at any URL that fsspec opens."""

import tarfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

import fsspec
import numpy as np
from fsspec.core import url_to_fs

from ulcodec.errors import ImageError, TrainingError
from ulcodec.images import load_image

PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".ppm"}

Source = Path | str
"""A folder (searched in depth), a picture or a tar shard; a text is the URL of a shard, or of several by `*`."""

READING_ERRORS = (OSError, KeyError, ValueError, ImportError, tarfile.TarError)
"""What fsspec and tarfile raise; ImportError and ValueError are for protocols without a driver."""


def as_source(text: str) -> Source:
    return text if "://" in text else Path(text)


def expand_sources(sources: Iterable[Source]) -> list[Source]:
    """Folders that hold tar shards, and URLs with `*`, stand for their shards. Raises TrainingError."""
    expanded: list[Source] = []
    for source in sources:
        if isinstance(source, Path):
            expanded.extend((sorted(source.glob("*.tar")) or [source]) if source.is_dir() else [source])
        elif "*" not in source:
            expanded.append(source)
        else:
            expanded.extend(expand_url(source))
    return expanded


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


def picture_files(source: Source) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of the pictures in a folder (sorted) or a tar shard, or of one picture. Raises TrainingError."""
    if isinstance(source, Path) and source.is_dir():
        for file in sorted(source.rglob("*")):
            if file.suffix.lower() in PICTURE_SUFFIXES and file.is_file():
                yield str(file), file.read_bytes()
        return
    try:
        if isinstance(source, Path) and source.suffix.lower() in PICTURE_SUFFIXES:
            yield str(source), source.read_bytes()
            return
        with open_shard(source) as handle, tarfile.open(fileobj=handle, mode="r|*") as shard:
            for member in shard:
                if Path(member.name).suffix.lower() not in PICTURE_SUFFIXES:
                    continue
                if (content := shard.extractfile(member)) is not None:
                    yield f"{source}:{member.name}", content.read()
    except READING_ERRORS as error:
        raise TrainingError(f"cannot read training data {source}: {error}") from error


def decode_rgb(data: bytes) -> np.ndarray | None:
    """uint8 [H, W, 3], or None for what cannot be decoded or coded, or is partly transparent."""
    try:
        picture = load_image(data)
    except ImageError:
        return None
    if picture.alpha is not None:
        return None
    pixels = picture.pixels_8
    return pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)


def read_pictures(sources: Iterable[Source], limit: int | None = None) -> list[np.ndarray]:
    """The first pictures of files, folders (searched in depth) and tar shards; what cannot be read is left out."""
    files = chain.from_iterable(map(picture_files, expand_sources(sources)))
    return list(islice((pixels for _, data in files if (pixels := decode_rgb(data)) is not None), limit))
