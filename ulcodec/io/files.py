"""Files that are written whole or not at all."""

import os
import secrets
from contextlib import suppress
from pathlib import Path


def atomic_write(path: Path, data: bytes) -> None:
    """Write a whole file or none: a temporary sibling takes the name only when its bytes are on the disk.

    A file that is replaced hands on its mode, and its owner and group where the system lets it. A link is followed; a
    device or pipe is written directly. Raises OSError, which names `path`.
    """
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(data)
        else:
            _replace(target, data)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _replace(target: Path, data: bytes) -> None:
    sibling = target.with_name(f"{temporary_name()}.tmp")
    try:
        with open(sibling, "xb", opener=private if target.exists() else None) as file:
            keep_permissions(target, sibling)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(sibling, target)
    except BaseException:
        sibling.unlink(missing_ok=True)
        raise


def private(path: str, flags: int) -> int:
    """An opener whose new files no one else may read."""
    return os.open(path, flags, 0o600)


def temporary_name() -> str:
    """A name, without its ending, that is hidden and no one else's."""
    return f".ulcodec-{secrets.token_hex(8)}"


def keep_permissions(source: Path, target: Path) -> None:
    """Give `target` the owner and group, where the system permits it, and the mode of `source` if that exists."""
    try:
        found = source.stat()
    except FileNotFoundError:
        return
    if hasattr(os, "chown"):
        for owner, group in ((-1, found.st_gid), (found.st_uid, -1)):
            with suppress(PermissionError):
                os.chown(target, owner, group)
    with suppress(PermissionError):
        os.chmod(target, found.st_mode & 0o777)
