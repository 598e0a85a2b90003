"""`ulcodec model export-onnx`: a model to ONNX graphs."""

from pathlib import Path
from typing import Annotated

import typer

from ulcodec_cli.common import Force
from ulcodec_cli.progress import progress_bar

WEB = "web"


def export_onnx(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of an installed model, or a model directory.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Directory to make. MODEL's own directory gets graphs beside its weights."),
    ],
    purpose: Annotated[
        str, typer.Option("--for", help="What the graphs are for: decoding, encoding, pictures (both), video, or web.")
    ] = "pictures",
    force: Force = False,
) -> None:
    """Write the networks of a model as ONNX graphs, and compare them with torch.

    With --for web, the directory is a folder of models for the decoder in a browser, to which the model is added.
    """
    from ulcodec.export.deployment import PURPOSES, Purpose, export_deployment
    from ulcodec.export.web_models import publish_model
    from ulcodec.graphs.graph_files import listed_graphs

    purposes: dict[str, Purpose] = {name: name for name in PURPOSES}
    if purpose not in (*purposes, WEB):
        raise typer.BadParameter(f"--for is one of {', '.join([*purposes, WEB])}, got {purpose!r}")
    with progress_bar("exporting"):
        if purpose == WEB:
            files = publish_model(model, output)
        else:
            export_deployment(model, output, purposes[purpose], force=force)
            graphs = {f"{name}.onnx" for name in listed_graphs(output)}
            suffixes = (".json", ".safetensors")
            files = [file for file in output.iterdir() if file.name in graphs or file.suffix in suffixes]
    n_graphs = sum(file.suffix == ".onnx" for file in files)
    n_bytes = sum(file.stat().st_size for file in files)
    typer.echo(f"{output}: {n_graphs} graphs, {n_bytes / 1e6:.1f} MB with weights")
