"""Reports of a run over many files: a manifest of the results, and the errors. JSON lines, or Parquet."""

import errno
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from ulcodec.errors import LocationError, MissingPackageError
from ulcodec.io.places import NewFile
from ulcodec_cli.plan import FILE_SUFFIXES, as_place
from ulcodec_cli.record import NAME

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST_FIELDS = {"input": "string", "output": "string", "bytes": "int64", "width": "int32", "height": "int32",
                   "pictures": "int64", "bits_per_pixel": "float64", "psnr_db": "float64",
                   "sha256": "string"}  # fmt: skip
"""Fields of a manifest, and their types in Parquet. A field that is not known is null."""

ERROR_FIELDS = {"input": "string", "reason": "string", "worker": "string"}

MAX_INTEGER = {"int32": 2**31 - 1, "int64": 2**63 - 1}

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
        self.file.write(json.dumps(row, allow_nan=False).encode() + b"\n")

    def finish(self) -> None:
        pass


class Parquet:
    """A Parquet file, written in portions of rows."""

    def __init__(self, file: BinaryIO, schema: "pa.Schema") -> None:
        from pyarrow.parquet import ParquetWriter

        self.schema, self.writer = schema, ParquetWriter(file, schema)
        self.rows: list[Row] = []

    def add(self, row: Row) -> None:
        self.rows.append({name: printable(value) for name, value in row.items()})
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
        if location == "-" or self.place.name == NAME or self.place.suffix.lower() in FILE_SUFFIXES:
            raise LocationError(f"{location}: name the manifest or the list of errors .jsonl or .parquet")
        is_parquet = self.place.suffix.lower() == PARQUET
        schema = parquet_schema(fields) if is_parquet else None
        if isinstance(self.place, Path) and self.place.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a directory", str(self.place))
        self.output = NewFile(self.place)
        file = self.output.file
        self.writer: Writer = JsonLines(file) if schema is None else Parquet(file, schema)

    def add(self, row: Row) -> None:
        """Add a row. Fields that it lacks, or that have another type, are null."""
        self.writer.add({name: fitting(row.get(name), kind) for name, kind in self.fields.items()})

    def commit(self) -> None:
        """Write the file. Raises OSError or LocationError."""
        self.writer.finish()
        self.output.commit()

    def abort(self) -> None:
        """Remove what was written so far."""
        self.output.abort()


def fitting(value: Any, kind: str) -> Any:
    """Return a value if its type is that of a field, else None: a record may be damaged, and a PSNR infinite."""
    if kind == "string":
        return value if isinstance(value, str) else None
    if kind == "float64":
        is_finite = isinstance(value, int | float) and abs(value) <= sys.float_info.max
        return float(value) if is_finite else None
    return value if isinstance(value, int) and abs(value) <= MAX_INTEGER[kind] else None


def printable(value: Any) -> Any:
    """Escape what UTF-8 cannot hold, such as bytes of a file name that is not text."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def parquet_schema(fields: dict[str, str]) -> "pa.Schema":
    """Make a schema. Raises MissingPackageError without pyarrow."""
    try:
        import pyarrow as pa
    except ImportError as error:
        raise MissingPackageError(
            'a manifest in Parquet needs a package: pip install "ulcodec[parquet]"; or name it .jsonl'
        ) from error
    return pa.schema([(name, pa.type_for_alias(kind)) for name, kind in fields.items()])
