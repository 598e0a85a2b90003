"""`ulcodec eval`: measure rate and distortion of a model or a training run on pictures, and FID and FVD of sets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ulcodec.errors import ImageError
from ulcodec.progress import tracked
from ulcodec_cli.common import DEFAULT_MODEL, Json, Model, print_json, say
from ulcodec_cli.progress import progress_bar
from ulcodec_cli.sample_sets import (
    LEAST_FRAMES,
    N_FRAMES,
    check_options,
    compare_pictures,
    compare_videos,
    i3d_network,
    inception_network,
    warn_of_few,
)

if TYPE_CHECKING:
    from ulcodec.codec.evaluation import RatePoint
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


def values_of(point: "RatePoint") -> dict[str, float]:
    """The fields of a point, with its FID if there is one."""
    return {name: value for name, value in point._asdict().items() if value is not None}


def print_curve(curve: "list[RatePoint]") -> None:
    """Print a table of the points of a curve, with FID if they have it."""
    has_fid = curve[0].fid is not None
    typer.echo(f"{'quality':>8}{'bpp':>10}{'PSNR dB':>10}" + (f"{'FID':>10}" if has_fid else ""))
    for point in curve:
        fid = f"{point.fid:>10.2f}" if has_fid else ""
        typer.echo(f"{point.quality:>8}{point.bpp:>10.4f}{point.psnr_db:>10.2f}{fid}")


def evaluate(
    ctx: typer.Context,
    sources: Annotated[
        list[str], typer.Argument(metavar="PICTURES...", help="Pictures, folders, or tar shards; videos for --fvd.")
    ],
    model: Model = DEFAULT_MODEL,
    against: Annotated[str | None, typer.Option(help="Another model or run: report the BD-rate against it.")] = None,
    qualities: Annotated[str, typer.Option(help="Qualities, comma-separated.")] = "0,25,50,75,100",
    limit: Annotated[
        int | None, typer.Option(min=1, max=2**31 - 1, help="Only the first pictures or videos of each set.")
    ] = None,
    crop: Annotated[
        int | None, typer.Option(min=1, max=2**31 - 1, help="Crop the centre to at most this many pixels per side.")
    ] = None,
    fid: Annotated[
        bool, typer.Option("--fid", help="Also FID: of decoded pictures to originals, or to a --reference.")
    ] = False,
    fvd: Annotated[bool, typer.Option("--fvd", help="FVD of videos to those of a --reference.")] = False,
    reference: Annotated[
        list[str] | None,
        typer.Option(metavar="SOURCE", help="Real pictures or videos. No codec is used then. Repeatable."),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(min=1, max=2**14, help="Fit both sets to squares of this side, in pixels, before --fid or --fvd."),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(min=LEAST_FRAMES, max=2**14, help=f"Frames of each clip for --fvd. Default: {N_FRAMES}."),
    ] = None,
    inception: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="TorchScript file of Inception. Its code is run: it must be trusted."),
    ] = None,
    i3d: Annotated[
        Path | None, typer.Option(metavar="PATH", help="TorchScript file of I3D. Its code is run: it must be trusted.")
    ] = None,
    json: Json = False,
) -> None:
    """Encode pictures at several qualities (effort 1), decode them, and print mean bits per pixel and PSNR.

    --fid adds the FID.

    With --reference, print the FID of two sets of pictures, or the FVD of two sets of videos. A run directory counts as
    a model.
    """
    levels = parse_qualities(qualities)
    check_options(ctx)
    if reference and fid:
        compare_pictures(sources, reference, inception_network(inception), size_px=size, limit=limit, json=json)
        return
    if reference:
        network = i3d_network(i3d)
        compare_videos(sources, reference, network, size_px=size, limit=limit, n_frames=frames, json=json)
        return

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
    if fid and len(pictures) < 2:
        raise ImageError(left_out.after(f"FID needs two or more pictures, got {len(pictures)}"))
    if left_out:
        say(f"ulcodec: left out: {left_out}", err=True)

    from ulcodec.codec.evaluation import middle, rate_distortion

    if crop:
        pictures = [middle(pixels, crop) for pixels in pictures]
    fid_network = inception_network(inception) if fid else None
    if fid_network is not None:
        warn_of_few(len(pictures), fid_network.features(pictures[0][None]).shape[1], "FID")
    curves = {}
    names = [name for name in (model, against) if name]
    with progress_bar("measuring"):
        for name in tracked(names, "model {} of {}"):
            curves[name] = rate_distortion(open_codec(name), pictures, levels, fid_network)
    bd_rate = None
    if against is not None and len(levels) > 1:
        rates = [[[p.bpp for p in curve], [p.psnr_db for p in curve]] for curve in (curves[against], curves[model])]
        bd_rate = bd_rate_percent(*rates[0], *rates[1])
    if json:
        points = {name: [values_of(point) for point in curve] for name, curve in curves.items()}
        network_name = {} if fid_network is None else {"network": fid_network.name}
        print_json({"n_pictures": len(pictures), **network_name, "curves": points, "bd_rate_percent": bd_rate})
        return
    for name, curve in curves.items():
        typer.echo(f"{name}, {len(pictures)} pictures")
        print_curve(curve)
    if bd_rate is not None:
        typer.echo(f"BD-rate of {model} against {against}: {bd_rate:+.2f} %")
