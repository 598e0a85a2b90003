"""`ulcodec info`: the header, sizes, and segments or frames of a .ulc file."""

from pathlib import Path
from typing import Annotated

import typer

from ulcodec.format.container import MAX_PIXELS
from ulcodec_cli.common import FileModel, Json, MaxPixels, print_fields, print_json, show_warnings
from ulcodec_cli.progress import progress_bar


def info(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A .ulc file.")],
    bound: Annotated[
        bool, typer.Option("--bound", help="Load the model and print its rate bound beside the file's size.")
    ] = False,
    model: FileModel = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    json: Json = False,
) -> None:
    """Show size, rate, model, and segments or frames of a .ulc file."""
    import ulcodec

    show_warnings()
    fields = ulcodec.info(source, max_pixels=max_pixels)
    if bound:
        with progress_bar("measuring the bound"):
            codec = ulcodec.load_for(source) if model is None else ulcodec.load(model)
            fields = {**fields, **codec.describe(source.read_bytes(), max_pixels=max_pixels)}
    if json:
        print_json(fields)
    else:
        print_fields(fields)
