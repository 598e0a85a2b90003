"""Reports of a run over many files: a manifest of the results, and the errors. JSON lines, or Parquet."""

import errno
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from ulcodec.errors import MissingPackageError
from ulcodec.io.files import AtomicFile
from ulcodec.io.places import RemoteFile
from ulcodec_cli.common import without_infinities
from ulcodec_cli.plan import as_place

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST_FIELDS = {"input": "string", "output": "string", "bytes": "int64", "width": "int32", "height": "int32",
                   "bits_per_pixel": "float64", "psnr_db": "float64", "sha256": "string"}  # fmt: skip
"""Fields of a manifest, and their types in Parquet. A field that is not known is null."""

ERROR_FIELDS = {"input": "string", "reason": "string", "worker": "string"}

PARQUET = ".parquet"
ROWS_AT_ONCE = 10_000

Row = dict[str, Any]


class Writer(Protocol):
    """Writes rows to an open file."""

    def add(self, row: Row) -> None:
        """Write a row, or keep it for later."""

    def finish(self) -> None:
        """Write what was kept."""


class JsonLines:
    """One line of JSON a row."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file

    def add(self, row: Row) -> None:
        self.file.write(json.dumps(without_infinities(row), allow_nan=False).encode() + b"\n")

    def finish(self) -> None:
        pass


class Parquet:
    """A Parquet file, written in portions of rows."""

    def __init__(self, file: BinaryIO, schema: "pa.Schema") -> None:
        from pyarrow.parquet import ParquetWriter

        self.schema, self.writer = schema, ParquetWriter(file, schema)
        self.rows: list[Row] = []

    def add(self, row: Row) -> None:
        self.rows.append(row)
        if len(self.rows) >= ROWS_AT_ONCE:
            self.write()

    def write(self) -> None:
        import pyarrow as pa

        self.writer.write_table(pa.Table.from_pylist(self.rows, self.schema))
        self.rows = []

    def finish(self) -> None:
        self.write()
        self.writer.close()


class Report:
    """Rows on their way to a file or a URL, which gets them as a whole at `commit`.

    Raises OSError, LocationError, or MissingPackageError for Parquet without pyarrow, before anything is written.
    """

    def __init__(self, location: str, fields: dict[str, str]) -> None:
        self.fields, self.place = fields, as_place(location)
        is_parquet = self.place.suffix.lower() == PARQUET
        schema = parquet_schema(fields) if is_parquet else None
        self.atomic: AtomicFile | None = None
        if isinstance(self.place, RemoteFile):
            self.place.check_writable()
            handle, name = tempfile.mkstemp()
            self.file: BinaryIO = os.fdopen(handle, "wb")
            self.temporary = Path(name)
        else:
            if self.place.is_dir():
                raise IsADirectoryError(errno.EISDIR, "is a directory", str(self.place))
            self.atomic = AtomicFile(self.place)
            self.file = self.atomic.file
        self.writer: Writer = JsonLines(self.file) if schema is None else Parquet(self.file, schema)

    def add(self, row: Row) -> None:
        """Add a row. Fields that it lacks are null."""
        self.writer.add({name: row.get(name) for name in self.fields})

    def commit(self) -> None:
        """Write the file. Raises OSError, or what the driver of a file system raises."""
        self.writer.finish()
        if self.atomic is not None:
            self.atomic.commit()
            return
        self.file.close()
        assert isinstance(self.place, RemoteFile)
        self.place.upload(self.temporary)
        self.temporary.unlink()

    def abort(self) -> None:
        """Remove what was written so far."""
        if self.atomic is not None:
            self.atomic.abort()
            return
        with suppress(OSError):
            self.file.close()
        self.temporary.unlink(missing_ok=True)


def parquet_schema(fields: dict[str, str]) -> "pa.Schema":
    """Make a schema. Raises MissingPackageError without pyarrow."""
    try:
        import pyarrow as pa
    except ImportError as error:
        raise MissingPackageError(
            'a manifest in Parquet needs a package: pip install "ulcodec[parquet]"; or name it .jsonl'
        ) from error
    return pa.schema([(name, pa.type_for_alias(kind)) for name, kind in fields.items()])
