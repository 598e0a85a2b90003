"""Tar shards in the layout of WebDataset: encode or decode the pictures, and keep everything else.

Files that stand one after another and share a key are a sample: `n01/7.jpg` and `n01/7.cls` have the key `n01/7`, and
the extensions `jpg` and `cls`. A picture that fails costs its sample.
"""

import bz2
import gzip
import hashlib
import lzma
import tarfile
import zlib
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from io import BytesIO
from math import inf, isfinite
from typing import Any, BinaryIO

from fsspec import AbstractFileSystem

from ulcodec.errors import ImageError
from ulcodec.io.places import NewFile, Place, RemoteFile, open_place, state_at
from ulcodec_cli.plan import Pair
from ulcodec_cli.work import Job, Outcome, Task, work

PICTURE_EXTENSIONS = {"jpg", "jpeg", "png", "webp", "avif", "tif", "tiff", "bmp", "gif", "jxl", "heic", "heif", "jp2",
                      "ppm", "pgm", "pnm"}  # fmt: skip
"""Extensions of what is encoded unless others are chosen. Those with a dot inside, as `seg.png`, are often masks."""

DAMAGE = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError)

PORTION_BYTES = 2**25
"""Bytes of samples that are read at most before their pictures are finished and they are written."""

COMPRESSED: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
"""Readers by the first bytes of a file. Those of `tarfile` itself do not check the contents."""

Choose = Callable[[str, Sequence[str]], Collection[str]]
"""Chooses extensions of a sample, which has a key; raises ImageError if it cannot tell which."""


def to_encode(members: Collection[str] | None, key: str, extensions: Sequence[str]) -> Collection[str]:
    """Choose what to encode of a sample: `members`, by default its one picture. Raises ImageError for several."""
    if members is not None:
        return members
    pictures = [extension for extension in dict.fromkeys(extensions) if extension in PICTURE_EXTENSIONS]
    if len(pictures) > 1:
        names = ", ".join(pictures)
        raise ImageError(f"{key} has several pictures ({names}): choose with --members, as --members {pictures[0]}")
    return pictures


def to_decode(key: str, extensions: Sequence[str]) -> Collection[str]:
    """Choose what to decode of a sample: all `.ulc` files."""
    return [extension for extension in extensions if extension.rpartition(".")[2] == "ulc"]


@dataclass(frozen=True)
class Member:
    """A file of a shard. `data` is None for a link or a device. A file without an extension has no key."""

    info: tarfile.TarInfo
    data: bytes | None

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def stem(self) -> tuple[str, str]:
        """The key and the extension, with its case: all behind the first dot of the name."""
        folder, slash, name = self.name.rpartition("/")
        key, _, extension = name.partition(".")
        return f"{folder}{slash}{key}", extension if key else ""

    @property
    def extension(self) -> str:
        return self.stem[1].lower()

    def with_suffix(self, suffix: str) -> str:
        """The name with another last extension."""
        return self.name.rpartition(".")[0] + suffix


@dataclass
class Sample:
    """Members of one key, and what became of its pictures.

    `names`: those of the results; `n_left`: pictures still to come; `contents`, `reports`: results of the others.
    """

    members: list[Member]
    names: dict[str, str] = field(default_factory=dict)
    n_left: int = 0
    has_failed: bool = False
    contents: dict[str, bytes] = field(default_factory=dict)
    reports: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Totals:
    """What is known of the pictures of a shard together. `report`: that of the last one."""

    n_pictures: int = 0
    n_pixels: int = 0
    n_bytes: int = 0
    psnrs_db: list[float] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)

    def add(self, report: dict[str, Any]) -> None:
        """Count a picture."""
        self.n_pictures += 1
        self.n_pixels += report["width"] * report["height"]
        self.n_bytes += report["output_bytes"]
        if isfinite(report.get("psnr_db", inf)):
            self.psnrs_db.append(report["psnr_db"])
        self.report = report

    def measures(self) -> dict[str, float]:
        """Bits per pixel, and the mean PSNR of the pictures that are not exact, as far as they were measured."""
        measured: dict[str, float] = {}
        if "bits_per_pixel" in self.report:
            measured["bits_per_pixel"] = 8 * self.n_bytes / self.n_pixels
        if "psnr_db" in self.report:
            measured["psnr_db"] = sum(self.psnrs_db) / len(self.psnrs_db) if self.psnrs_db else inf
        return measured


class StrictInfo(tarfile.TarInfo):
    """A header that must be sound: without this, a damaged one would look like the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "StrictInfo":
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the block of zeros at the end
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error) if buf else "it has no end") from error


def uncompressed(stream: BinaryIO) -> AbstractContextManager[BinaryIO]:
    """A stream, or what it contains if it is compressed."""
    start = stream.read(max(map(len, COMPRESSED)))
    stream.seek(0)
    reader = next((reader for magic, reader in COMPRESSED.items() if start.startswith(magic)), nullcontext)
    return reader(stream)


def samples_of(stream: BinaryIO) -> Iterator[Sample]:
    """Read the samples of a shard. Folders are left out."""
    sample = Sample([])
    with uncompressed(stream) as contents, tarfile.open(fileobj=contents, mode="r|", tarinfo=StrictInfo) as shard:
        for info in shard:
            shard.members = []  # type: ignore[attr-defined]  # tarfile would keep all headers
            if info.isdir():
                continue
            file = shard.extractfile(info) if info.isreg() else None
            member = Member(info, None if file is None else file.read())
            if sample.members and member.stem[0] != sample.members[0].stem[0]:
                yield sample
                sample = Sample([])
            sample.members.append(member)
        while rest := shard.fileobj.read(2**20):  # that of tarfile, which has read ahead
            if rest.strip(b"\0"):
                raise tarfile.ReadError("there is more behind its end")
    if sample.members:
        yield sample


class Members(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Pictures of a shard, and their results, in memory."""

    protocol = ("tar", "memory")  # the first is for names, the second says that writes are whole
    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self.contents: dict[str, bytes] = {}

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        return self.contents[path]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        self.contents[path] = value


class Counted:
    """A file that counts and hashes what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.n_bytes, self.digest = file, 0, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.n_bytes += len(data)
        self.digest.update(data)
        return self.file.write(data)


class Recoding:
    """A shard on its way: samples that wait for the results of their pictures, and what is known of those done.

    `choose`: which members of a sample are worked on; `suffix`: extension of the results. `kept`: extensions of
    pictures that are not encoded.
    """

    def __init__(self, task: Task, source: Place, shard: tarfile.TarFile, choose: Choose, suffix: str) -> None:
        self.task, self.source, self.shard, self.choose, self.suffix = task, source, shard, choose, suffix
        self.system = Members()
        self.waiting: deque[Sample] = deque()
        self.owners: dict[str, Sample] = {}
        self.names: set[str] = set()
        self.kept: set[str] = set()
        self.has_ended = False
        self.totals = Totals()
        self.failed: list[tuple[str, str]] = []

    @property
    def is_encoding(self) -> bool:
        """Whether pictures become `.ulc` files, so that those that do not are worth a word."""
        return self.suffix == ".ulc"

    def run(self, stream: BinaryIO) -> None:
        """Work through the shard. Raises ImageError for a damaged one, or one without pictures."""
        try:
            samples = samples_of(stream)
            while not self.has_ended:
                for outcome in work(self.task, self.pairs(samples)):
                    self.take(outcome)
                self.write_finished()
        except DAMAGE as error:
            raise ImageError(f"a damaged tar archive: {error}") from error
        if self.totals.n_pictures:
            return
        if self.failed:
            source, reason = self.failed[0]
            raise ImageError(f"no picture is left, {len(self.failed)} failed, the first at {source}: {reason}")
        hint = "; --members says which files are pictures" if self.is_encoding else ""
        raise ImageError(f"no pictures to work on in this shard{hint}")

    def pairs(self, samples: Iterator[Sample]) -> Iterator[Pair]:
        """Read a portion of the samples; give the pictures of each, and where in memory their results go."""
        n_bytes = 0
        for sample in samples:
            self.write_finished()
            self.waiting.append(sample)
            chosen = self.choose(sample.members[0].stem[0], [member.extension for member in sample.members])
            pictures = [member for member in sample.members if member.extension in chosen]
            sample.names = {member.name: member.with_suffix(self.suffix) for member in pictures}
            for member in sample.members:
                name = sample.names.get(member.name, member.name)
                if name in self.names:
                    raise ImageError(f"two files of the new shard would be named {name}")
                self.names.add(name)
                is_picture = member.extension.rpartition(".")[2] in PICTURE_EXTENSIONS
                if self.is_encoding and is_picture and member not in pictures:
                    self.kept.add(member.extension)
                n_bytes += len(member.data or b"")
                if member.data is None:
                    self.fail(sample, self.place(member.name), "is a link or a device, not a file")
            if not sample.has_failed:
                sample.n_left = len(pictures)
                self.owners |= {member.name: sample for member in pictures}
                self.system.contents |= {member.name: member.data or b"" for member in pictures}
                yield from ((self.place(name), self.place(result)) for name, result in sample.names.items())
            if n_bytes >= PORTION_BYTES:
                return
        self.has_ended = True

    def place(self, name: str) -> RemoteFile:
        """A member as a place: its text is the URL at which it can be read."""
        return RemoteFile(self.system, name, f"::{self.source}")

    def take(self, outcome: Outcome) -> None:
        """Note what became of a picture."""
        assert isinstance(outcome.source, RemoteFile)
        assert isinstance(outcome.target, RemoteFile)
        sample = self.owners.pop(outcome.source.path)
        del self.system.contents[outcome.source.path]
        sample.n_left -= 1
        if outcome.result is None:
            self.fail(sample, outcome.source, outcome.error or "")
        else:
            sample.reports.append(outcome.result)
            sample.contents[outcome.source.path] = self.system.contents.pop(outcome.target.path)

    def fail(self, sample: Sample, source: Place, reason: str) -> None:
        sample.has_failed = True
        self.failed.append((str(source), reason))

    def write_finished(self) -> None:
        """Write the samples at the front whose pictures are all there, without those that have failed."""
        while self.waiting and not self.waiting[0].n_left:
            sample = self.waiting.popleft()
            if sample.has_failed:
                continue
            for report in sample.reports:
                self.totals.add(report)
            for member in sample.members:
                data = sample.contents.get(member.name, member.data)
                assert data is not None
                info = tarfile.TarInfo(sample.names.get(member.name, member.name))
                mtime = member.info.mtime
                info.size, info.mode, info.mtime = len(data), member.info.mode, int(mtime) if isfinite(mtime) else 0
                info.uid, info.gid = member.info.uid, member.info.gid
                info.uname, info.gname = member.info.uname, member.info.gname
                self.shard.addfile(info, BytesIO(data))
            self.shard.members = []  # type: ignore[attr-defined]  # see `samples_of`


def recode(task: Task, job: Job, choose: Choose, suffix: str) -> dict[str, Any]:
    """Work on the pictures of a shard, write the new shard, and report it. Samples that fail are left out.

    Raises ImageError if nothing is left, or for a damaged shard.
    """
    output = NewFile(job.target)
    try:
        counted: Any = Counted(output.file)
        with open_place(job.source) as stream, tarfile.open(fileobj=counted, mode="w|") as shard:
            recoding = Recoding(task, job.source, shard, choose, suffix)
            recoding.run(stream)
        output.commit()
    except BaseException:
        output.abort()
        raise
    totals, state = recoding.totals, state_at(job.source)
    return {
        "output": str(job.target),
        "source_bytes": (state and state.size) or 0,
        "output_bytes": counted.n_bytes,
        "pictures": totals.n_pictures,
        "model": totals.report["model"],
        "fingerprint": totals.report["fingerprint"],
        "sha256": counted.digest.hexdigest(),
        **totals.measures(),
        "failed": recoding.failed,
        "kept": recoding.kept,
        "line": f"{job.target}: {totals.n_pictures} pictures, {counted.n_bytes} bytes",
    }
