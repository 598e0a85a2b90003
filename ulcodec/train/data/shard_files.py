"""Tar shards of training pictures, each with a table of the files that were read for it.

`photos-00000.csv` is the table of `photos-00000.tar`. It is written first: a table without its shard is unfinished.
"""

import csv
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ulcodec.errors import TrainingError
from ulcodec.io.files import AtomicFile, atomic_write
from ulcodec.io.locations import SHARD_SUFFIX
from ulcodec.train.data.near_duplicates import HASH_BITS

TABLE_SUFFIX = ".csv"
STEM = "photos-"

ENCODING, UNENCODABLE = "utf-8", "surrogateescape"
"""Encoding of tables, on every system, and how names of any bytes pass through it."""


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


class ShardWriter:
    """Writes pictures to shards of limited size, each with its table, as whole files.

    `number`: of the first shard. A file that has appeared at its name is not replaced.
    """

    def __init__(self, folder: Path, number: int, most_bytes: int):
        self.folder, self.number, self.most_bytes = folder, number, most_bytes
        self.n_shards = self.n_pictures = 0
        self.rows: list[Row] = []
        self._file: AtomicFile | None = None
        self._shard: tarfile.TarFile | None = None

    def add(self, row: Row, data: bytes | None) -> None:
        """Add a picture, or the row of a file that is left out. Raises as `commit`."""
        if data is not None:
            if self._shard is not None and self._shard.offset + len(data) + 2 * tarfile.RECORDSIZE > self.most_bytes:
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
        """End the shard, if it has pictures. Raises OSError, and TrainingError if another run has taken its name."""
        if self._shard is None or self._file is None:
            return
        with self._file.errors():
            self._shard.close()
        path = shard_path(self.folder, self.number)
        if path.exists():
            raise TrainingError(f"another run has written {path} meanwhile; run the command again")
        write_table(path.with_suffix(TABLE_SUFFIX), self.rows)
        self._file.commit()
        self._file = self._shard = None
        self.rows = []
        self.number += 1
        self.n_shards += 1

    def abort(self) -> None:
        """Remove the unfinished shard."""
        if self._file is not None:
            self._file.abort()


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"{STEM}{number:05d}{SHARD_SUFFIX}"


def read_tables(folder: Path) -> tuple[list[Row], int]:
    """Read the tables of all shards in a folder; return their rows, and the number of the next shard.

    Raises TrainingError for a damaged table, and for a shard without one.
    """
    rows: list[Row] = []
    next_number = 0
    for shard in sorted(folder.glob(f"{STEM}*{SHARD_SUFFIX}")):
        table = shard.with_suffix(TABLE_SUFFIX)
        if not table.exists():
            raise TrainingError(f"{shard} has no table beside it: choose another folder")
        rows += read_table(table)
        digits = shard.stem.removeprefix(STEM)
        next_number = max(next_number, int(digits) + 1 if digits.isdecimal() else 0)
    return rows, next_number


def read_table(path: Path) -> list[Row]:
    """Read the files, names in the shard and hashes of a table. Raises TrainingError if it is damaged."""
    try:
        with path.open(encoding=ENCODING, errors=UNENCODABLE, newline="") as file:
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
    atomic_write(path, lines.getvalue().encode(ENCODING, UNENCODABLE))


def hex_of(bits: NDArray[np.bool_]) -> str:
    """Convert a hash to hexadecimal digits."""
    return np.packbits(bits).tobytes().hex()


def bits_of(digits: str) -> NDArray[np.bool_]:
    """Invert `hex_of`. Raises ValueError."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(digits), dtype=np.uint8)).astype(bool)
    if len(bits) != HASH_BITS:
        raise ValueError(f"a hash has {HASH_BITS} bits, got {len(bits)}")
    return bits
