"""`ulcodec train export`: a training run to a model directory."""

from errno import EEXIST
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ulcodec_cli.common import Force, say
from ulcodec_cli.progress import progress_bar

if TYPE_CHECKING:
    from ulcodec.export.pipeline import Exported


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Directory of a finished or stopped run.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Model directory to make.")],
    name: Annotated[str | None, typer.Option(help="Name of the model. Default: the configuration's name.")] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="Pictures to calibrate means and tables to. Default: the pictures of the run."),
    ] = None,
    force: Force = False,
) -> None:
    """Turn a run into a model directory that encode and decode take as --model."""
    from ulcodec.export import pipeline
    from ulcodec.io.locations import as_source

    pipeline.check_output(run, output)
    if pipeline.is_model(output) and not force:
        raise FileExistsError(EEXIST, "exists already; --force overwrites it", str(output))
    sources = None if data is None else [as_source(text) for text in data]
    with progress_bar("exporting"):
        exported = pipeline.export(run, output, name=name, sources=sources)
        for line in report_lines(output, exported):
            say(line)


def report_lines(output: Path, exported: "Exported") -> list[str]:
    """Describe an exported model."""
    sha256, sequence_sha256 = exported.sha256, exported.sequence_sha256
    of_sequences = "" if sequence_sha256 == sha256 else f", with predicted frames {sequence_sha256[:8]}"
    lines = [f"model directory: {output}, fingerprint {sha256[:8]}{of_sequences}"]
    if exported.missing_sources:
        missing = ", ".join(exported.missing_sources)
        hint = "; name some with --data" if exported.unit == "pictures" else ""
        lines.append(f"means and tables not fitted to files: no {exported.unit} at {missing}{hint}")
    if exported.n_pictures:
        lines.append(f"means and tables fitted to files of {exported.n_pictures} {exported.unit}")
        costs = [f"{cost:+.2f} % at quality {quality}" for quality, cost in exported.cost_percent.items()]
        lines.append(
            f"files against the float prior's bound, {exported.n_measured} {exported.unit}: {', '.join(costs)}"
        )
    return lines
