"""Files of a collection at paths and URLs: searching, states, whole writes."""

import io
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from ulcodec.errors import LocationError
from ulcodec.io import places
from ulcodec.io.places import (
    RemoteFile,
    State,
    is_pattern,
    place_at,
    read_bytes,
    read_many,
    search,
    state_of,
    write_bytes,
)

FILES = {"a.png": b"a", "b.txt": b"b", "in/c.JPG": b"cc", "in/deep/d.png": b"ddd"}
EXTENSIONS = {".png", ".jpg"}


def in_memory(_: Path) -> str:
    root = f"memory://{uuid4().hex}"
    for name, data in FILES.items():
        fsspec.filesystem("memory").pipe_file(f"{root}/{name}", data)
    return f"{root}/{{}}"


def on_disk(folder: Path) -> str:
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return f"file://{folder}/{{}}"


def in_zip(folder: Path) -> str:
    with zipfile.ZipFile(folder / "all.zip", "w") as archive:
        for name, data in FILES.items():
            archive.writestr(name, data)
    return f"zip://{{}}::file://{folder}/all.zip"


def in_tar(folder: Path) -> str:
    with tarfile.open(folder / "all.tar", "w") as archive:
        for name, data in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return f"tar://{{}}::file://{folder}/all.tar"


STORES = [in_memory, on_disk, in_zip, in_tar]


def found(url: str, recursive: bool = False) -> dict[str, bytes]:
    """Search a URL; return the contents of the files found by their relative paths."""
    folders = list(search(url, EXTENSIONS, recursive, pytest.fail))
    return {folder.path_of(file): read_bytes(file) for folder in folders for file in folder.files}


@pytest.mark.parametrize("store", STORES)
def test_search_finds_files_in_folders_and_by_patterns(store: Callable[[Path], str], tmp_path: Path) -> None:
    url = store(tmp_path)
    everything = {"a.png": b"a", "in/c.JPG": b"cc", "in/deep/d.png": b"ddd"}
    assert found(url.format("")) == {"a.png": b"a"}
    assert found(url.format(""), recursive=True) == everything
    assert found(url.format("**")) == everything
    assert found(url.format("*")) == {"a.png": b"a"}
    assert found(url.format("in/**")) == {"c.JPG": b"cc", "deep/d.png": b"ddd"}
    assert found(url.format("**/*.png")) == {"a.png": b"a", "in/deep/d.png": b"ddd"}
    assert found(url.format("in/*/?.png")) == {"deep/d.png": b"ddd"}
    assert found(url.format("**/[c-d].*")) == {"in/c.JPG": b"cc", "in/deep/d.png": b"ddd"}


def test_large_folders_come_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    root = f"memory://{uuid4().hex}"
    for number in range(5):
        fsspec.filesystem("memory").pipe_file(f"{root}/in/{number}.png", b"")
    monkeypatch.setattr(places, "PORTION", 2)
    folders = list(search(f"{root}/**", EXTENSIONS, False, pytest.fail))
    assert [[folder.path_of(file) for file in folder.files] for folder in folders] == [
        ["in/0.png", "in/1.png"], ["in/2.png", "in/3.png"], ["in/4.png"]
    ]  # fmt: skip


@pytest.mark.parametrize("store", STORES)
def test_urls_name_the_files_found(store: Callable[[Path], str], tmp_path: Path) -> None:
    [first, *_] = search(store(tmp_path).format("**"), EXTENSIONS, False, pytest.fail)
    [file] = first.files
    again = place_at(str(file)) if isinstance(file, RemoteFile) else file
    assert (read_bytes(again), again.name, again.suffix) == (b"a", "a.png", ".png")


def test_files_on_this_machine_are_paths(tmp_path: Path) -> None:
    assert place_at(on_disk(tmp_path).format("a.png")) == tmp_path / "a.png"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense://a", "nonsense"),
        ("memory://no-such-folder/**", "No such file"),
        ("zip://*.png::file:///no/such.zip", "No such file"),
    ],
)
def test_url_that_cannot_be_searched_is_an_error(url: str, words: str) -> None:
    with pytest.raises(LocationError, match=words):
        list(search(url, EXTENSIONS, False, pytest.fail))


def test_broken_archive_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "bad.zip").write_bytes(b"not a zip")
    with pytest.raises(LocationError, match=r"bad\.zip"):
        place_at(f"zip://a.png::file://{tmp_path}/bad.zip")


def test_folder_that_cannot_be_listed_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = on_disk(tmp_path).format("**")
    ls = LocalFileSystem.ls

    def ls_with_refusal(self: LocalFileSystem, path: str, **options: Any) -> Any:
        if path.endswith("/in"):
            raise PermissionError(13, "Permission denied", path)
        return ls(self, path, **options)

    monkeypatch.setattr(LocalFileSystem, "ls", ls_with_refusal)
    failed: list[tuple[str, str]] = []
    folders = list(search(url, EXTENSIONS, False, lambda *failure: failed.append(failure)))
    assert [file.name for folder in folders for file in folder.files] == ["a.png"]
    assert failed == [(f"file://{tmp_path}/in", "Permission denied")]


def test_names_beside_and_below() -> None:
    file = place_at("memory://album/inner/a.png")
    assert isinstance(file, RemoteFile)
    assert str(file.with_suffix(".ulc")) == "memory:///album/inner/a.ulc"
    assert str(file.with_name("b.png")) == "memory:///album/inner/b.png"
    assert str(file.folder.below("x/y.png")) == "memory:///album/inner/x/y.png"


class Disk(LocalFileSystem):
    """A file system in which unfinished files can be seen, and which may break while one is written."""

    protocol = "disk"
    breaks = False
    cachable = False

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        Path(path).write_bytes(value[:1] if self.breaks else value)
        if self.breaks:
            raise OSError("the line is dead")


@pytest.fixture
def disk() -> Iterator[type[Disk]]:
    yield Disk
    Disk.breaks = False


def test_files_appear_whole_or_not_at_all(disk: type[Disk], tmp_path: Path) -> None:
    file = RemoteFile(disk(), str(tmp_path / "folder" / "a.ulc"))
    write_bytes(file, b"old")
    disk.breaks = True
    with pytest.raises(OSError, match="dead"):
        write_bytes(file, b"new")
    assert {path.name: path.read_bytes() for path in (tmp_path / "folder").iterdir()} == {"a.ulc": b"old"}
    disk.breaks = False
    write_bytes(file, b"new")
    assert {path.name: path.read_bytes() for path in (tmp_path / "folder").iterdir()} == {"a.ulc": b"new"}


def test_upload_copies_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"contents")
    file = place_at(f"memory://{uuid4().hex}/a")
    assert isinstance(file, RemoteFile)
    file.upload(tmp_path / "a")
    assert (file.read(), file.exists(), file.with_name("b").exists()) == (b"contents", True, False)


def test_query_of_a_web_server_is_no_pattern() -> None:
    assert not is_pattern("https://host/a.png?size=5&tag=*")
    assert is_pattern("https://host/*.png")
    assert is_pattern("s3://bucket/?.png")


def test_archives_are_not_written(tmp_path: Path) -> None:
    file = place_at(in_zip(tmp_path).format("new.png"))
    assert isinstance(file, RemoteFile)
    with pytest.raises(LocationError, match="can be read, not written"):
        file.check_writable()


def test_many_files_are_read_with_an_error_for_each_that_is_not_there() -> None:
    folder = place_at(in_memory(Path()).format(""))
    assert isinstance(folder, RemoteFile)
    found, missing = read_many([folder.below("a.png"), folder.below("z.png")])
    assert found == b"a"
    assert isinstance(missing, FileNotFoundError)
    assert read_many([]) == []


@pytest.mark.parametrize(
    ("info", "state"),
    [
        ({"size": 5, "mtime": 7.5}, State(5, "7.5", 7.5)),
        ({"size": 5, "LastModified": "1970-01-01T00:00:09Z", "ETag": '"x"'}, State(5, '"x"', 9.0)),
        ({"size": 5, "date_time": (1970, 1, 1, 0, 1, 0), "CRC": 77}, State(5, "77", 60.0)),
        ({"size": None, "updated": "yesterday"}, State(None, None, None)),
    ],
)
def test_states_from_listings(info: dict[str, Any], state: State) -> None:
    assert state_of(info) == state


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_states_of_paths_change_with_the_contents(tmp_path: Path) -> None:
    from ulcodec.io.places import state_at

    (tmp_path / "a").write_bytes(b"1")
    before = state_at(tmp_path / "a")
    os.utime(tmp_path / "a", (1, 1))
    assert before != state_at(tmp_path / "a") == State(1, "1000000000", 1.0)
    assert state_at(tmp_path / "b") is None
