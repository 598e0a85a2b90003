"""`ulcodec truncate`: cut a .ulc file to a smaller one, without decoding it."""

from pathlib import Path
from typing import Annotated

import typer

from ulcodec.format.container import N_SEGMENTS, Container
from ulcodec_cli.batch import report
from ulcodec_cli.common import Force, Json, output_path, read_file, write_file
from ulcodec_cli.encode import parse_bytes


def truncate(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A .ulc file, or - for stdin.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The smaller file, or - for stdout.")],
    fraction: Annotated[float | None, typer.Option(min=0, max=1, help="Largest share of IN's bytes.")] = None,
    size: Annotated[str | None, typer.Option(help="Largest size, such as 5000 or 20kB.")] = None,
    segments: Annotated[int | None, typer.Option(min=1, max=N_SEGMENTS, help="Number of segments to keep.")] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Keep the front of a .ulc file, at least its first segment. It decodes to a coarser picture."""
    if sum(limit is not None for limit in (fraction, size, segments)) != 1:
        raise typer.BadParameter("name one of --fraction, --size and --segments")
    target = output_path(source, output, ".ulc", force)
    data = read_file(source)
    container = Container.from_bytes(data, max_pixels=None)
    if segments is not None:
        kept = container.truncated(segments)
    else:
        kept = container.within(parse_bytes(size) if size is not None else int((fraction or 0.0) * len(data)))
    smaller = kept.to_bytes()
    write_file(target, smaller)
    line = f"{target}: {kept.n_whole_segments} of {N_SEGMENTS} segments whole, {len(smaller)} of {len(data)} bytes"
    values = {"output": str(target), "file_bytes": len(smaller), "n_segments": kept.n_whole_segments, "line": line}
    report(values, json)
