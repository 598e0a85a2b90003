"""`ulcodec eval`: measure rate and distortion of a model, or of a training run, on pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ulcodec.errors import ImageError
from ulcodec.progress import tracked
from ulcodec_cli.common import DEFAULT_MODEL, Json, Model, print_json, say
from ulcodec_cli.progress import progress_bar

if TYPE_CHECKING:
    from ulcodec.codec.image import Codec


def parse_qualities(text: str) -> list[int]:
    """Parse qualities with commas. Raises BadParameter."""
    try:
        qualities = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise typer.BadParameter(f"expected whole numbers with commas, got {text!r}") from None
    if not 0 <= qualities[0] <= qualities[-1] <= 100:
        raise typer.BadParameter("qualities go from 0 to 100")
    return qualities


def open_codec(model: str) -> "Codec":
    """Load a model by name or directory, or the newest checkpoint of a run directory."""
    from ulcodec.codec.loading import codec_of, load

    if not (Path(model) / "checkpoint").is_dir():
        return load(model)

    from ulcodec.devices import choose_device
    from ulcodec.export.pipeline import model_of_run

    return codec_of(model_of_run(Path(model)), choose_device("auto"))


def evaluate(
    sources: Annotated[list[str], typer.Argument(metavar="PICTURES...", help="Pictures, folders, or tar shards.")],
    model: Model = DEFAULT_MODEL,
    against: Annotated[str | None, typer.Option(help="Another model or run: report the BD-rate against it.")] = None,
    qualities: Annotated[str, typer.Option(help="Qualities, comma-separated.")] = "0,25,50,75,100",
    limit: Annotated[int | None, typer.Option(min=1, max=2**31 - 1, help="Only the first pictures.")] = None,
    crop: Annotated[
        int | None, typer.Option(min=1, max=2**31 - 1, help="Crop the centre to at most this many pixels per side.")
    ] = None,
    json: Json = False,
) -> None:
    """Encode and decode pictures at several qualities; print mean bits per pixel and PSNR.

    A run directory counts as a model.
    """
    levels = parse_qualities(qualities)

    from ulcodec.io.locations import as_source
    from ulcodec.io.sources import LeftOut, read_pictures
    from ulcodec.metrics import bd_rate_percent
    from ulcodec.metrics.distortion import interpolator_class

    if against is not None:
        interpolator_class()  # reports a missing SciPy before anything is encoded
    left_out = LeftOut()
    pictures = read_pictures(map(as_source, sources), limit, left_out)
    if not pictures:
        raise ImageError(left_out.after(f"no pictures in {', '.join(sources)}"))
    if left_out:
        say(f"ulcodec: left out: {left_out}", err=True)

    from ulcodec.codec.evaluation import middle, rate_distortion

    if crop:
        pictures = [middle(pixels, crop) for pixels in pictures]
    curves = {}
    names = [name for name in (model, against) if name]
    with progress_bar("measuring"):
        for name in tracked(names, "model {} of {}"):
            curves[name] = rate_distortion(open_codec(name), pictures, levels)
    bd_rate = None
    if against is not None and len(levels) > 1:
        rates = [[[p.bpp for p in curve], [p.psnr_db for p in curve]] for curve in (curves[against], curves[model])]
        bd_rate = bd_rate_percent(*rates[0], *rates[1])
    if json:
        points = {name: [point._asdict() for point in curve] for name, curve in curves.items()}
        print_json({"n_pictures": len(pictures), "curves": points, "bd_rate_percent": bd_rate})
        return
    for name, curve in curves.items():
        typer.echo(f"{name}, {len(pictures)} pictures\n{'quality':>8}{'bpp':>10}{'PSNR dB':>10}")
        for point in curve:
            typer.echo(f"{point.quality:>8}{point.bpp:>10.4f}{point.psnr_db:>10.2f}")
    if bd_rate is not None:
        typer.echo(f"BD-rate of {model} against {against}: {bd_rate:+.2f} %")
