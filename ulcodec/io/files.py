"""Write files atomically."""

import os
import secrets
from contextlib import suppress
from pathlib import Path


def atomic_write(path: Path, data: bytes) -> None:
    """Write a file as a whole or not at all: a temporary sibling is renamed once its bytes are on the disk.

    A replaced file passes on its mode, and its owner and group where the system permits. Links are followed; devices
    and pipes are written directly. Raises OSError, which names `path`.
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
