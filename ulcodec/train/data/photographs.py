"""Build tar shards of training pictures from folders of photographs.

Each shard has a table beside it, `photos-00000.csv` for `photos-00000.tar`. The table lists the files that were read
for the shard, and what became of them. A folder of shards can grow: files in its tables are not read again.
"""

import csv
import hashlib
import io
import tarfile
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from ulcodec.errors import ImageError, MissingPackageError, TrainingError
from ulcodec.io.artefacts import artefact_reduction
from ulcodec.io.files import AtomicFile, atomic_write
from ulcodec.io.locations import SHARD_SUFFIX, Source
from ulcodec.io.pictures import load_image, open_image, readable_extensions
from ulcodec.io.resampling import resampled
from ulcodec.io.sources import TOO_SMALL, UNREADABLE, LeftOut, decode_rgb, files_in, pictures_of
from ulcodec.progress import tracked
from ulcodec.train.data.near_duplicates import HASH_BITS, KnownPictures, hashes
from ulcodec.train.limits import MOST_CROP_PX, MOST_REDUCTION, MOST_SEED, check_number, check_whole

NEAR_DUPLICATE = "near-duplicate"
TABLE_SUFFIX = ".csv"

CHUNK = 64
"""Files that are read at a time."""

SPEED = 9
"""Speed of the AVIF encoder: a ninth of the time of its default, 6, for 5 % more bytes."""


@dataclass(frozen=True)
class ShardSettings:
    """What photographs become shards, and how.

    `folders`: searched in depth. `exclude`: pictures whose near-duplicates are left out. Photographs are reduced by
    `reduction` or more: until artefacts of compression are gone (`ulcodec.io.artefacts`), and the longer side is at
    most `longest_side_px`. Then the shorter side must be at least `shortest_side_px`. `quality`: of AVIF, 4:4:4.
    `shard_bytes`: largest shard. `seed` decides the order.
    """

    folders: tuple[Path, ...]
    out: Path
    exclude: tuple[Source, ...] = ()
    longest_side_px: int = 896
    shortest_side_px: int = 256
    reduction: float = 1.0
    quality: int = 85
    shard_bytes: int = 42_000_000
    seed: int = 0

    def check(self) -> None:
        """Raise TrainingError for settings that cannot run."""
        check_whole("the shortest side", self.shortest_side_px, 1, MOST_CROP_PX)
        check_whole("the longest side", self.longest_side_px, self.shortest_side_px, MOST_CROP_PX)
        check_number("the reduction", self.reduction, above=0, most=MOST_REDUCTION)
        check_whole("the quality", self.quality, 0, 100)
        check_whole("the size of a shard in bytes", self.shard_bytes, 1_000_000, 2**40)
        check_whole("the seed", self.seed, 0, MOST_SEED)


class Row(NamedTuple):
    """A file in a table: its name in the shard, or the reason why it is left out.

    `near`: the picture of which a file is a near-duplicate. `width`, `height`: in pixels, before the reduction; 0 for
    files that cannot be used. `hash`: of the upright picture, 64 hexadecimal digits; empty for files left out.
    """

    file: str
    member: str = ""
    left_out: str = ""
    near: str = ""
    width: int = 0
    height: int = 0
    reduction: float = 1.0
    hash: str = ""


class Reduced(NamedTuple):
    """A photograph, reduced: uint8 [H, W, 3], and the hashes of its orientations, bool [8, 256]."""

    pixels: NDArray[np.uint8]
    orientations: NDArray[np.bool_]


class Built(NamedTuple):
    """Numbers of new shards and of pictures in them; the files that are left out; pictures not compared with."""

    n_shards: int
    n_pictures: int
    left_out: LeftOut
    not_compared: LeftOut


class ShardWriter:
    """Writes pictures to shards of limited size, each with its table, as whole files."""

    def __init__(self, folder: Path, number: int, most_bytes: int):
        self.folder, self.number, self.most_bytes = folder, number, most_bytes
        self.n_shards = self.n_pictures = 0
        self.rows: list[Row] = []
        self._file: AtomicFile | None = None
        self._shard: tarfile.TarFile | None = None

    def add(self, row: Row, data: bytes | None) -> None:
        """Add a picture, or the row of a file that is left out. Raises OSError."""
        if data is not None:
            if self._shard is not None and self._shard.offset + tarfile.BLOCKSIZE + len(data) > self.most_bytes:
                self.commit()
            if self._shard is None or self._file is None:
                self._file = AtomicFile(shard_path(self.folder, self.number))
                self._shard = tarfile.open(fileobj=self._file.file, mode="w")  # noqa: SIM115 (`commit` closes it)
            row = row._replace(member=f"{self.number:05d}-{len(self.rows):05d}.avif")
            member = tarfile.TarInfo(row.member)
            member.size = len(data)
            with self._file.errors():
                self._shard.addfile(member, io.BytesIO(data))
            self.n_pictures += 1
        self.rows.append(row)

    def commit(self) -> None:
        """End the shard, if it has pictures. Raises OSError."""
        if self._shard is None or self._file is None:
            return
        with self._file.errors():
            self._shard.close()
        self._file.commit()
        self._file = self._shard = None
        write_table(shard_path(self.folder, self.number).with_suffix(TABLE_SUFFIX), self.rows)
        self.rows = []
        self.number += 1
        self.n_shards += 1

    def abort(self) -> None:
        """Remove the unfinished shard."""
        if self._file is not None:
            self._file.abort()


def build_shards(settings: ShardSettings) -> Built:
    """Add shards of the photographs in folders to a folder of shards, without near-duplicates, in random order.

    An interrupted run keeps its finished shards, and the same call goes on. Raises TrainingError for settings that
    cannot run, missing folders, or tables that do not fit; MissingPackageError without AVIF; OSError if a shard cannot
    be written.
    """
    settings.check()
    if not features.check("avif"):
        raise MissingPackageError("this build of Pillow cannot write AVIF: pip install --upgrade pillow")
    left_out, not_compared, known = LeftOut(), LeftOut(), KnownPictures()
    paths = photographs_in(settings.folders, left_out)
    settings.out.mkdir(parents=True, exist_ok=True)
    done, n_tables = read_tables(settings.out, known)
    remaining = sorted(paths - done, key=lambda path: hashlib.sha256(f"{settings.seed} {path}".encode()).digest())
    writer = ShardWriter(settings.out, n_tables, settings.shard_bytes)
    with ThreadPoolExecutor() as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of metadata and bit depths, which training does not read either
        compare_with(known, settings.exclude, not_compared, pool)
        try:
            for chunk in tracked([remaining[first : first + CHUNK] for first in range(0, len(remaining), CHUNK)]):
                for row, data in stored(pool.map(partial(examined, settings), chunk), known, settings.quality, pool):
                    writer.add(row, data)
                    if data is None:
                        left_out[row.left_out] += 1
            writer.commit()
        except BaseException:
            writer.abort()
            raise
    return Built(writer.n_shards, writer.n_pictures, left_out, not_compared)


def photographs_in(folders: Sequence[Path], left_out: LeftOut) -> set[str]:
    """Find the pictures in folders, in depth. Raises TrainingError for a path that is not a folder."""
    suffixes, found = readable_extensions(), set()
    for folder in folders:
        if not folder.is_dir():
            raise TrainingError(f"{folder} is not a folder of photographs")
        for file in files_in(folder, left_out):
            if file.suffix.lower() in suffixes and file.is_file():  # reading a pipe would block
                found.add(str(file))
    return found


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"photos-{number:05d}{SHARD_SUFFIX}"


def read_tables(folder: Path, known: KnownPictures) -> tuple[set[str], int]:
    """Read the tables in a folder of shards: return the files in them, and the number of tables.

    Remembers the pictures of the shards. Raises TrainingError for a damaged table, and for a shard without one.
    """
    done: set[str] = set()
    tables = sorted(folder.glob(f"photos-*{TABLE_SUFFIX}"))
    for number, table in enumerate(tables):
        if table.stem != shard_path(folder, number).stem:
            raise TrainingError(f"{table} is not the table of shard {number}: shards are numbered without gaps")
        for row in read_table(table):
            done.add(row.file)
            if row.member:
                known.add(row.file, bits_of(row.hash))
    if (unfinished := shard_path(folder, len(tables))).exists():
        raise TrainingError(f"{unfinished} has no table beside it: remove it, or choose another folder")
    return done, len(tables)


def read_table(path: Path) -> list[Row]:
    """Read the files, names in the shard and hashes of a table. Raises TrainingError if it is damaged."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = csv.DictReader(file)
            if lines.fieldnames is None:
                raise ValueError("the file is empty")
            rows = [Row(line["file"], line["member"], hash=line["hash"]) for line in lines]
        for row in rows:
            if row.member:
                bits_of(row.hash)
        return rows
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise TrainingError(f"cannot read the table {path}: {error}") from error


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Write the table of a shard. Raises OSError."""
    lines = io.StringIO(newline="")
    writer = csv.writer(lines)
    writer.writerow(Row._fields)
    writer.writerows(rows)
    atomic_write(path, lines.getvalue().encode("utf-8", "surrogateescape"))


def bits_of(digits: str) -> NDArray[np.bool_]:
    """Convert a hash from hexadecimal digits. Raises ValueError."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(digits), dtype=np.uint8)).astype(bool)
    if len(bits) != HASH_BITS:
        raise ValueError(f"a hash has {HASH_BITS} bits, got {len(bits)}")
    return bits


def compare_with(
    known: KnownPictures, sources: Sequence[Source], not_compared: LeftOut, pool: ThreadPoolExecutor
) -> None:
    """Remember the pictures of sources. `not_compared` counts those that are unreadable."""
    files = pictures_of(sources, not_compared)
    while chunk := list(islice(files, CHUNK)):
        for (name, _), upright in zip(chunk, pool.map(upright_hash, (data for _, data in chunk)), strict=True):
            if upright is None:
                not_compared[UNREADABLE] += 1
            else:
                known.add(name, upright)


def upright_hash(data: bytes) -> NDArray[np.bool_] | None:
    """Hash a picture, without its alpha; None if it cannot be read."""
    try:
        upright: NDArray[np.bool_] = hashes(load_image(data).rgb_8)[0]
        return upright
    except ImageError:
        return None


def examined(settings: ShardSettings, file: str) -> tuple[Row, Reduced | None]:
    """Read a photograph and reduce it, or tell in its row why it is left out."""
    try:
        data = Path(file).read_bytes()
    except OSError:
        return Row(file, left_out=UNREADABLE), None
    pixels = decode_rgb(data)
    if isinstance(pixels, str):
        return Row(file, left_out=pixels), None
    height, width = pixels.shape[:2]
    reduction = max(
        artefact_reduction(open_image(data)), settings.reduction, max(height, width) / settings.longest_side_px
    )
    row = Row(file, width=width, height=height, reduction=round(reduction, 3))
    sides = round(height / reduction), round(width / reduction)
    if min(sides) < settings.shortest_side_px:
        return row._replace(left_out=TOO_SMALL), None
    reduced = pixels if reduction == 1 else resampled(pixels, sides)
    return row, Reduced(reduced, hashes(reduced))


def stored(
    photographs: Iterator[tuple[Row, Reduced | None]], known: KnownPictures, quality: int, pool: ThreadPoolExecutor
) -> list[tuple[Row, bytes | None]]:
    """Compress the photographs that are not near-duplicates of known ones, which they join."""
    chosen: list[tuple[Row, NDArray[np.uint8] | None]] = []
    for row, reduced in photographs:
        if reduced is not None and (near := known.near_duplicate(reduced.orientations)) is not None:
            row, reduced = row._replace(left_out=NEAR_DUPLICATE, near=near), None
        if reduced is not None:
            known.add(row.file, reduced.orientations[0])
            row = row._replace(hash=np.packbits(reduced.orientations[0]).tobytes().hex())
        chosen.append((row, None if reduced is None else reduced.pixels))
    files = pool.map(partial(avif, quality), (pixels for _, pixels in chosen))
    return [(row, data) for (row, _), data in zip(chosen, files, strict=True)]


def avif(quality: int, pixels: NDArray[np.uint8] | None) -> bytes | None:
    """Compress a picture uint8 [H, W, 3], if there is one, with chroma of full resolution."""
    if pixels is None:
        return None
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    image.save(file, "AVIF", quality=quality, subsampling="4:4:4", speed=SPEED, max_threads=1)
    return file.getvalue()
