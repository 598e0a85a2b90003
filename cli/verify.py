"""`ulcodec verify`: check .ulc files for damage, without decoding them."""

from io import BytesIO
from pathlib import Path
from typing import Annotated

import typer

from ulcodec.errors import FormatError
from ulcodec.format.container import MAX_PIXELS, Container
from ulcodec.format.sequence_reader import SequenceReader
from ulcodec.info import START_BYTES, is_sequence
from ulcodec_cli.common import Json, MaxPixels, print_json


def verify(
    sources: Annotated[list[Path], typer.Argument(metavar="FILE...", help=".ulc files.")],
    max_pixels: MaxPixels = MAX_PIXELS,
    json: Json = False,
) -> None:
    """Check header, sizes and checksums of .ulc files. Exit code 1 if a file is damaged."""
    n_bad = 0
    for source in sources:
        message = None
        try:
            verify_file(source, max_pixels)
        except FormatError as error:
            message = f"{type(error).__name__}: {error}"
        except OSError as error:
            message = error.strerror or str(error)
        n_bad += message is not None
        if json:
            print_json({"file": str(source), "ok": message is None, "error": message})
        else:
            typer.echo(f"{source}: {message or 'ok'}", err=message is not None)
    raise typer.Exit(1 if n_bad else 0)


def verify_file(source: Path, max_pixels: int) -> None:
    """Check a picture or a sequence. Raises a FormatError."""
    with open(source, "rb") as file:
        start = file.read(START_BYTES)
        if not is_sequence(start):
            Container.from_bytes(start + file.read(), max_pixels=max_pixels)
            return
        sequence = file if file.seekable() else BytesIO(start + file.read())
        for _ in SequenceReader(sequence, max_pixels=max_pixels).read():
            pass
