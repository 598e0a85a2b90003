"""`ulcodec info`: what a .ulc file says about itself."""

from pathlib import Path
from typing import Annotated

import typer

from ulcodec_cli.common import DEFAULT_MODEL, Json, Model, print_fields, print_json
from ulcodec_cli.progress import progress_bar


def info(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A .ulc file.")],
    bound: Annotated[
        bool, typer.Option("--bound", help="Load the model and set its rate bound beside the file's size.")
    ] = False,
    model: Model = DEFAULT_MODEL,
    json: Json = False,
) -> None:
    """Show size, rate, model and segments of a .ulc file."""
    import ulcodec

    data = source.read_bytes()
    fields = ulcodec.info(data)
    if bound:
        with progress_bar("measuring the bound"):
            fields = {**fields, **ulcodec.load(model).describe(data)}
    if json:
        print_json(fields)
    else:
        print_fields(fields)
