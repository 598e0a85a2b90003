"""Atomic writes, and the permissions of replaced files."""

import os
import stat
from pathlib import Path

import pytest

from ulcodec.io import files
from ulcodec.io.files import atomic_write


def test_atomic_write_replaces_files_and_follows_links(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    atomic_write(link, b"new")
    assert target.read_bytes() == b"new"
    assert link.is_symlink()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link", "target"]


def test_atomic_write_respects_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        atomic_write(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_atomic_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"old")

    def disk_full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        atomic_write(target, b"new")
    assert caught.value.filename == str(target)
    assert target.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_atomic_write_error_names_the_target(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        atomic_write(tmp_path / "none" / "a", b"")
    assert caught.value.filename == str(tmp_path / "none" / "a")
    with pytest.raises(IsADirectoryError):
        atomic_write(tmp_path, b"")


def test_atomic_write_writes_to_a_device() -> None:
    atomic_write(Path(os.devnull), b"anything")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o755])
def test_replaced_file_keeps_its_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int) -> None:
    """The new file has its permissions before its content, so that private content is never readable by others."""
    target = tmp_path / "a"
    target.write_bytes(b"old")
    target.chmod(mode)
    keep_permissions, states = files.keep_permissions, []

    def record_state(source: Path, sibling: Path) -> None:
        states.append((stat.S_IMODE(sibling.stat().st_mode) & ~mode & 0o077, sibling.stat().st_size))
        keep_permissions(source, sibling)

    monkeypatch.setattr(files, "keep_permissions", record_state)
    atomic_write(target, b"new")
    assert (target.read_bytes(), stat.S_IMODE(target.stat().st_mode)) == (b"new", mode)
    assert states == [(0, 0)]


def test_replaced_file_keeps_its_owner_if_permitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, requests = tmp_path / "a", []
    target.write_bytes(b"old")

    def refuse(path: Path, owner: int, group: int) -> None:
        requests.append((owner, group))
        raise PermissionError

    monkeypatch.setattr(os, "chown", refuse, raising=False)
    atomic_write(target, b"new")
    assert requests == [(-1, target.stat().st_gid), (target.stat().st_uid, -1)]
    assert target.read_bytes() == b"new"
