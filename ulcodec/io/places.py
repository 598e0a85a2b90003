"""Files of a collection: paths on this machine, and files of any file system that fsspec opens."""

import os
import re
import tempfile
from calendar import timegm
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from ulcodec.errors import LocationError
from ulcodec.io.files import AtomicFile, atomic_write, temporary_name

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

MAGIC = re.compile(r"[*?\[]")
"""Characters that make a URL a pattern."""

READ_ONLY = {"http", "https", "zip", "tar", "libarchive", "github", "git"}
"""Protocols whose files are read only. fsspec can write to archives, but neither whole nor from several processes."""

WHOLE_WRITES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci", "memory"}
"""Protocols of stores in which a file appears when all of its bytes have arrived."""

TAGS = ("ETag", "etag", "md5Hash", "CRC")
TIMES = ("LastModified", "last_modified", "mtime", "updated", "modified", "created", "date_time")
"""Keys of listings, in the order of preference."""


PORTION = 10_000
"""Files of a folder that are handed on at a time."""


class State(NamedTuple):
    """What a listing says of a file.

    `size`: bytes; `tag`: changes with the contents; `modified_s`: seconds since 1970; each None if the file system
    does not say it.
    """

    size: int | None
    tag: str | None
    modified_s: float | None


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file that fsspec reads and writes, which may not exist.

    `path`: as the file system names it, with slashes; `outside`: what its URL has behind the path, such as
    "::s3://bucket/archive.zip"; `state`: None if the file is not known to exist.
    """

    system: "AbstractFileSystem"
    path: str
    outside: str = ""
    state: State | None = None

    def __str__(self) -> str:
        return f"{self.system.unstrip_protocol(self.path)}{self.outside}"

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.path).suffix

    @property
    def folder(self) -> "RemoteFile":
        """The folder that the file is in."""
        return RemoteFile(self.system, self.path.rpartition("/")[0], self.outside)

    def with_suffix(self, suffix: str) -> "RemoteFile":
        """The file beside this one with another extension."""
        return self.with_name(PurePosixPath(self.name).with_suffix(suffix).name)

    def with_name(self, name: str) -> "RemoteFile":
        """The file of this name beside this one."""
        return self.folder.below(name) if "/" in self.path else RemoteFile(self.system, name, self.outside)

    def below(self, relative: str) -> "RemoteFile":
        """The file at a path relative to this one, which is a folder."""
        return RemoteFile(self.system, f"{self.path.rstrip('/')}/{relative}", self.outside)

    def listed(self) -> "RemoteFile":
        """The same file with its state. Raises LocationError if there is none."""
        try:
            info = self.system.info(self.path)
        except Exception as error:  # drivers raise anything
            raise LocationError(f"{self}: {reason_of(error)}") from error
        return RemoteFile(self.system, self.path, self.outside, state_of(info))

    def exists(self) -> bool:
        """Whether there is a file, by asking the file system."""
        try:
            return bool(self.system.isfile(self.path))
        except Exception as error:
            raise LocationError(f"{self}: {reason_of(error)}") from error

    def check_writable(self) -> None:
        """Raise LocationError if files of this kind can only be read."""
        if protocols := protocols_of(self.system) & READ_ONLY:
            raise LocationError(f"{self}: files at {min(protocols)}:// can be read, not written")

    def read(self) -> bytes:
        """Read the file. Raises OSError, or what the driver of the file system raises."""
        data: bytes = self.system.cat_file(self.path)
        return data

    def write(self, data: bytes) -> None:
        """Write the file as a whole or not at all. Raises as `read`."""
        self._put(lambda path: self.system.pipe_file(path, data))

    def upload(self, file: Path) -> None:
        """Copy a file of this machine here, as `write` does."""
        self._put(lambda path: self.system.put_file(str(file), path))

    def _put(self, put: Callable[[str], object]) -> None:
        if protocols_of(self.system) & WHOLE_WRITES:
            put(self.path)
            return
        if self.folder.path:
            self.system.makedirs(self.folder.path, exist_ok=True)
        sibling = self.with_name(f"{temporary_name()}.tmp").path
        try:
            put(sibling)
            self.system.mv(sibling, self.path)
        except BaseException:
            with suppress(Exception):
                self.system.rm_file(sibling)
            raise


Place = Path | RemoteFile


class NewFile:
    """A file that is written on this machine, and appears at its place as a whole at `commit`.

    `file`: where to write; `commit` or `abort` ends it. Raises OSError, or LocationError if the place is read only.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self._atomic: AtomicFile | None = None
        if isinstance(place, Path):
            self._atomic = AtomicFile(place)
            self.file: BinaryIO = self._atomic.file
            return
        place.check_writable()
        handle, name = tempfile.mkstemp()
        self.file = os.fdopen(handle, "w+b")
        self._temporary = Path(name)

    def commit(self) -> None:
        """Give the complete file its place. Raises OSError or LocationError."""
        if self._atomic is not None:
            self._atomic.commit()
            return
        self.file.close()
        assert isinstance(self.place, RemoteFile)
        try:
            self.place.upload(self._temporary)
        except Exception as error:  # drivers raise anything
            raise LocationError(f"cannot be written: {reason_of(error)}") from error
        finally:
            self._temporary.unlink()

    def abort(self) -> None:
        """Remove what was written so far."""
        if self._atomic is not None:
            self._atomic.abort()
            return
        with suppress(OSError):
            self.file.close()
        self._temporary.unlink(missing_ok=True)


def state_at(place: Place) -> State | None:
    """Look up the state of a path, or return that of a remote file as it was listed; None if there is no file."""
    if not isinstance(place, Path):
        return place.state
    try:
        status = place.stat()
    except OSError:
        return None
    return State(status.st_size, str(status.st_mtime_ns), status.st_mtime_ns / 1e9)


def read_bytes(place: Place) -> bytes:
    """Read a file. Raises as `RemoteFile.read`."""
    return place.read_bytes() if isinstance(place, Path) else place.read()


def open_place(place: Place) -> AbstractContextManager[BinaryIO]:
    """Open a file to read it from the front to the end. Raises as `RemoteFile.read`."""
    if isinstance(place, Path):
        return place.open("rb")
    opened: AbstractContextManager[BinaryIO] = place.system.open(place.path, "rb")
    return opened


def write_bytes(place: Place, data: bytes) -> None:
    """Write a file as a whole or not at all. Raises as `RemoteFile.read`."""
    if isinstance(place, Path):
        atomic_write(place, data)
    else:
        place.write(data)


def place_at(url: str) -> Place:
    """The file, or folder, at a URL; a path if it is on this machine. Raises LocationError if its driver is missing."""
    system, path = open_system(url)
    return place_of(system, path, outside_of(url))


def is_folder(place: Place) -> bool:
    """Whether there is a folder at a place."""
    try:
        return place.is_dir() if isinstance(place, Path) else bool(place.system.isdir(place.path))
    except Exception as error:
        raise LocationError(f"{place}: {reason_of(error)}") from error


def is_pattern(url: str) -> bool:
    """Whether a URL has a `*`, `?` or `[`, in the part that names files. On a web server, `?` begins a query."""
    protocol, _, path = url.partition("::")[0].partition("://")
    return MAGIC.search(path.partition("?")[0] if protocol in ("http", "https") else path) is not None


class Folder(NamedTuple):
    """Files of one folder. `relative`: path of the folder from where the search began, "" there."""

    relative: str
    files: list[Place]

    def path_of(self, file: Place) -> str:
        """Path of a file of the folder from where the search began."""
        return f"{self.relative}/{file.name}" if self.relative else file.name


def search(
    url: str, extensions: Collection[str], recursive: bool, failed: Callable[[str, str], object]
) -> Iterator[Folder]:
    """Search a folder, or the folders of a pattern such as s3://bucket/photos/**, for files with one of `extensions`.

    Yields one folder after another, a large one in portions, so that memory holds one listing. A pattern decides by
    itself which folders it takes: `*` stays within one, `**` does not. `failed` takes a folder that cannot be listed,
    and the reason. Raises LocationError if the first folder cannot be listed.
    """
    from fsspec.utils import glob_translate

    system, path = open_system(url)
    matches = None
    if is_pattern(url):
        matches = re.compile(glob_translate(path)).match
        path = path[: next(iter(MAGIC.finditer(path))).start()].rpartition("/")[0]
        recursive = True
    outside = outside_of(url)
    for folder, infos in walk(system, path, recursive, failed):
        chosen = [
            info
            for info in infos
            if PurePosixPath(info["name"]).suffix.lower() in extensions and (matches is None or matches(info["name"]))
        ]
        for start in range(0, len(chosen), PORTION):
            portion = chosen[start : start + PORTION]
            files = [place_of(system, info["name"], outside, state_of(info)) for info in portion]
            yield Folder(folder[len(path) :].strip("/"), files)


def walk(
    system: "AbstractFileSystem", path: str, recursive: bool, failed: Callable[[str, str], object]
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """List folders, parents first and sorted by name: path, and the listed files. See `search`."""
    folders = [path.rstrip("/") or path]
    while folders:
        folder = folders.pop()
        try:
            listed = list_folder(system, folder)
        except Exception as error:
            if folder.strip("/") == path.strip("/"):
                raise LocationError(f"{system.unstrip_protocol(folder)}: {reason_of(error)}") from error
            failed(system.unstrip_protocol(folder), reason_of(error))
            continue
        yield folder, [info for info in listed if info["type"] == "file"]
        if recursive:
            folders += [info["name"].rstrip("/") for info in reversed(listed) if info["type"] == "directory"]


def list_folder(system: "AbstractFileSystem", folder: str) -> list[dict[str, Any]]:
    """List a folder, sorted by name, without itself. Its listing is not kept."""
    listed = system.ls(folder, detail=True)
    with suppress(Exception):
        system.invalidate_cache(folder)
    entries = [info for info in listed if info["name"].strip("/") != folder.strip("/")]
    return sorted(entries, key=lambda info: str(info["name"]))


def states_in(folder: RemoteFile) -> dict[str, State]:
    """Look up the states of all files in a folder, by name; empty if there is no such folder."""
    try:
        listed = list_folder(folder.system, folder.path)
    except FileNotFoundError:
        return {}
    return {info["name"].rpartition("/")[2]: state_of(info) for info in listed if info["type"] == "file"}


def open_system(url: str) -> "tuple[AbstractFileSystem, str]":
    """Open the file system of a URL; return it with the path there. Raises LocationError."""
    from fsspec.core import url_to_fs

    try:
        system, path = url_to_fs(url)
    except Exception as error:
        raise LocationError(f"{url}: {reason_of(error)}") from error
    return system, path


def outside_of(url: str) -> str:
    """What a chained URL, such as zip://a.png::s3://bucket/b.zip, has behind its first path."""
    _, separator, rest = url.partition("::")
    return separator + rest


def place_of(system: "AbstractFileSystem", path: str, outside: str, state: State | None = None) -> Place:
    from fsspec.implementations.local import LocalFileSystem

    is_here = isinstance(system, LocalFileSystem) and not outside
    return Path(path) if is_here else RemoteFile(system, path, outside, state)


def read_many(files: Collection[RemoteFile]) -> list[bytes | Exception]:
    """Read files of one file system, at the same time where it can. Returns the error of a file that cannot be read."""
    if not files:
        return []
    system = next(iter(files)).system
    contents = system.cat([file.path for file in files], on_error="return")
    return [contents[file.path] for file in files]


def protocols_of(system: "AbstractFileSystem") -> set[str]:
    """Names of a file system's protocol."""
    return {system.protocol} if isinstance(system.protocol, str) else set(system.protocol)


def state_of(info: Mapping[str, Any]) -> State:
    """Read the state of a file from what fsspec's file systems list, each in its own words."""
    modified_s = next((seconds for key in TIMES if (seconds := seconds_of(info.get(key))) is not None), None)
    tag = next((str(info[key]) for key in TAGS if info.get(key) is not None), None)
    size = info.get("size")
    if tag is None and modified_s is not None:
        tag = repr(modified_s)
    return State(size if isinstance(size, int) else None, tag, modified_s)


def seconds_of(time: Any) -> float | None:
    """Convert a time of a listing to seconds since 1970, None if it is not known. Times without a zone are in UTC."""
    if isinstance(time, str):
        try:
            time = datetime.fromisoformat(time.replace("Z", "+00:00"))
        except ValueError:
            return None
    if isinstance(time, datetime):
        return (time if time.tzinfo else time.replace(tzinfo=timezone.utc)).timestamp()
    if isinstance(time, tuple):
        return float(timegm(time))
    return float(time) if isinstance(time, int | float) else None


def reason_of(error: Exception) -> str:
    """What went wrong, in one line, for an error that does not name the file."""
    if isinstance(error, FileNotFoundError):
        return "No such file or directory"
    strerror = error.strerror if isinstance(error, OSError) else None
    return " ".join((strerror or str(error) or type(error).__name__).split())
