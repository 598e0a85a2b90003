"""Write files atomically."""

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


def atomic_write(path: Path, data: bytes) -> None:
    """Write a file as a whole or not at all, see `AtomicFile`. Raises OSError, which names `path`."""
    output = AtomicFile(path)
    try:
        with output.errors():
            output.file.write(data)
        output.commit()
    except BaseException:
        output.abort()
        raise


class AtomicFile:
    """A file that is there as a whole or not at all: a temporary sibling is renamed once its bytes are on the disk.

    `file`: where to write; `commit` or `abort` ends it. A replaced file passes on its mode, and its owner and group
    where the system permits. Links are followed; devices and pipes are written directly. Raises OSError, which names
    `path`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sibling: Path | None = None
        with self.errors():
            self._target = Path(os.path.realpath(path))
            if self._target.exists() and not self._target.is_file():
                self.file: BinaryIO = self._target.open("wb")
                return
            self._sibling = self._target.with_name(f"{temporary_name()}.tmp")
            opener = private if self._target.exists() else None
            self.file = open(self._sibling, "xb", opener=opener)  # noqa: SIM115 (`commit` and `abort` close it)
            try:
                keep_permissions(self._target, self._sibling)
            except BaseException:
                self.abort()
                raise

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Name the file in an OSError."""
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def commit(self) -> None:
        """Give the complete file its name."""
        with self.errors():
            self.file.flush()
            if self._sibling is not None:
                os.fsync(self.file.fileno())
            self.file.close()
            if self._sibling is not None:
                os.replace(self._sibling, self._target)

    def abort(self) -> None:
        """Remove the unfinished file."""
        with suppress(OSError):
            self.file.close()
        if self._sibling is not None:
            self._sibling.unlink(missing_ok=True)


def private(path: str, flags: int) -> int:
    """Opener of new files that only the owner can read."""
    return os.open(path, flags, 0o600)


def temporary_name() -> str:
    """A unique hidden name, without its ending."""
    return f".ulcodec-{secrets.token_hex(8)}"


def keep_permissions(source: Path, target: Path) -> None:
    """Copy owner, group and mode of `source` to `target`, if `source` exists and the system permits."""
    try:
        status = source.stat()
    except FileNotFoundError:
        return
    if hasattr(os, "chown"):
        for owner, group in ((-1, status.st_gid), (status.st_uid, -1)):
            with suppress(PermissionError):
                os.chown(target, owner, group)
    with suppress(PermissionError):
        os.chmod(target, status.st_mode & 0o777)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file of any size, in hexadecimal digits. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()
