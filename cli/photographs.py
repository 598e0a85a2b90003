"""`ulcodec train shards`: photographs to tar shards for training."""

from pathlib import Path
from typing import Annotated

import typer

from ulcodec.io.locations import as_source
from ulcodec_cli.progress import progress_bar


def shards(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Folders of photographs.")],
    out: Annotated[Path, typer.Option(help="Folder of shards, which may have some.")],
    exclude: Annotated[
        list[str] | None, typer.Option(help="Test pictures: a folder, picture, tar shard or URL; repeatable.")
    ] = None,
    longest_side: Annotated[int, typer.Option(help="Largest width or height after the reduction.")] = 896,
    shortest_side: Annotated[int, typer.Option(help="Smallest width or height after the reduction.")] = 256,
    least_reduction: Annotated[float, typer.Option(help="Smallest factor by which photographs are reduced.")] = 1.0,
    quality: Annotated[int, typer.Option(help="Quality of the AVIF files, 0 to 100.")] = 85,
    shard_mb: Annotated[int, typer.Option(help="Largest shard in megabytes.")] = 42,
    seed: Annotated[int, typer.Option(help="Seed of the order.")] = 0,
) -> None:
    """Make tar shards of photographs for --data.

    Photographs are reduced until their JPEG artefacts are gone. Near-duplicates of each other and of --exclude are left
    out. The same command goes on after an interruption, and adds new photographs later. It does not read files again
    that are in the tables of shards.
    """
    from ulcodec.train.data.photographs import ShardSettings, build_shards

    settings = ShardSettings(
        folders=tuple(folders),
        out=out,
        exclude=tuple(map(as_source, exclude or ())),
        longest_side_px=longest_side,
        shortest_side_px=shortest_side,
        least_reduction=least_reduction,
        quality=quality,
        shard_mb=shard_mb,
        seed=seed,
    )
    with progress_bar("building shards"):
        built = build_shards(settings)
    typer.echo(built.left_out.after(f"{out}: pictures added: {built.n_pictures}, shards added: {built.n_shards}"))
    if exclude:
        unreadable = f"; unreadable: {built.n_unreadable}" if built.n_unreadable else ""
        typer.echo(f"pictures excluded: {built.n_compared}{unreadable}")
    if built.n_older:
        line = f"warning: {built.n_older} pictures of older shards are near-duplicates of excluded ones"
        typer.echo(line, err=True)
