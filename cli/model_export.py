"""`ulcodec model export-onnx`: a model to ONNX graphs."""

from pathlib import Path
from typing import Annotated

import typer

from ulcodec_cli.common import Force
from ulcodec_cli.progress import progress_bar


def export_onnx(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of an installed model, or a model directory.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Directory to make. MODEL's own directory gets graphs beside its weights."),
    ],
    purpose: Annotated[
        str, typer.Option("--for", help="What the graphs are for: decoding, encoding, pictures (both) or video.")
    ] = "pictures",
    force: Force = False,
) -> None:
    """Write the networks of a model as ONNX graphs, and compare them with torch."""
    from ulcodec.export.deployment import PURPOSES, export_deployment

    for known in PURPOSES:
        if purpose == known:
            break
    else:
        raise typer.BadParameter(f"--for is one of {', '.join(PURPOSES)}, got {purpose!r}")
    with progress_bar("exporting"):
        export_deployment(model, output, known, force=force)
    files = sorted(file for file in output.iterdir() if file.is_file())
    n_graphs = sum(file.suffix == ".onnx" for file in files)
    n_bytes = sum(file.stat().st_size for file in files)
    typer.echo(f"{output}: {n_graphs} graphs, {n_bytes / 1e6:.1f} MB with weights")
