"""`ulcodec bench`: ulcodec and the codecs that people use, on the same pictures, as a report to look at."""

import sys
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from ulcodec_cli.common import DEFAULT_MODEL, Model

QUICK_CODECS = "jpeg,webp,avif,avif-psnr"
QUICK_PICTURES = 3


def parse_rates(text: str) -> list[float]:
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"expected numbers with commas, got {text!r}") from None
    if not all(0 < rate <= 24 for rate in rates):
        raise typer.BadParameter("rates are above 0 and at most 24 bits per pixel")
    return rates


def bench(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Folder of pictures. Default: those of scikit-image.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the report.")] = Path("report"),
    codecs: Annotated[str | None, typer.Option(help="Others to measure, with commas. Default: all.")] = None,
    anchors: Annotated[Path | None, typer.Option(help="JSON of published curves on the same pictures.")] = None,
    model: Model = DEFAULT_MODEL,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    jobs: Annotated[int, typer.Option(min=1, help="Processes; with more than one, times are of busy cores.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first pictures.")] = None,
    rates: Annotated[str, typer.Option(help="Rates of the viewer in bits per pixel, with commas.")] = "0.1,0.25,0.5",
    viewer: Annotated[int, typer.Option(min=0, help="Pictures in the viewer.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="Few levels, codecs and pictures: under two minutes.")] = False,
) -> None:
    """Measure ulcodec beside other codecs and write a report; the same command goes on with a run that stopped."""
    rates_bpp = parse_rates(rates)

    import ulcodec
    from ulcodec.bench.curves import read_anchors
    from ulcodec.bench.machine import machine_record, without_folder
    from ulcodec.bench.peers import PEERS, available
    from ulcodec.bench.pictures import find_pictures
    from ulcodec.bench.report import summarise, viewer_picture, write_report
    from ulcodec.bench.run import Job, jobs_of, measure, measure_all, our_level_at, our_peer

    names = (codecs or (QUICK_CODECS if quick else ",".join(PEERS))).split(",")
    if unknown := [name for name in names if name not in PEERS]:
        raise typer.BadParameter(f"unknown codecs: {', '.join(unknown)}; known: {', '.join(PEERS)}")
    published = read_anchors(anchors)
    pictures = find_pictures(folder, limit or (QUICK_PICTURES if quick else None))
    present, absent = available([PEERS[name] for name in names])
    for title, reason in absent.items():
        typer.echo(f"absent: {title} ({reason})", err=True)
    measured = [our_peer(model, device), *present]
    libraries = {codec.key: codec.library() for codec in measured}
    titles = {codec.key: codec.title for codec in measured}
    output.mkdir(parents=True, exist_ok=True)

    template = Job("", pictures[0], model=model, device=device, n_threads=1 if jobs > 1 else 0)
    work = jobs_of(measured, pictures, quick=quick, template=template)
    shown = pictures[:viewer]
    n_views = len(shown) * len(rates_bpp) * len(measured)
    with typer.progressbar(length=len(work) + n_views, label="measuring", file=sys.stderr) as bar:
        rows = measure_all(work, libraries, output / "measurements.jsonl", jobs, lambda: bar.update(1))
        views: list[dict[str, Any]] = []
        for picture in shown:
            at_rates = []
            for rate in rates_bpp:
                level = our_level_at(picture, rate, template)
                ours = measure(replace(template, codec="ulcodec", picture=picture, level=level, keep=True))
                bar.update(1)
                versions = [ours]
                for codec in present:
                    job = replace(template, codec=codec.key, picture=picture, n_bytes=ours["file_bytes"], keep=True)
                    versions.append(measure(job))
                    bar.update(1)
                at_rates.append((rate, versions))
            views.append(viewer_picture(picture.name, picture.pixels, at_rates, titles))

    codec = ulcodec.load(model, device=device)
    run = {
        "command": " ".join(["ulcodec", *map(without_folder, sys.argv[1:])]),
        "date": date.today().isoformat(),
        "version": ulcodec.__version__,
        "model": codec.name,
        "model_fingerprint": codec.fingerprint,
        **machine_record(),
    }
    megapixels = {picture.name: picture.width * picture.height / 1e6 for picture in pictures}
    summary = summarise(rows, measured, published, megapixels)
    write_report(output, {"run": run, "absent": absent, **summary, "viewer": views}, rows)
    for row in summary["bd_rates"]:
        if row["bd_rate_percent"] is not None:
            span = f"{row['low_db']:.1f} to {row['high_db']:.1f} dB"
            typer.echo(f"{row['bd_rate_percent']:+7.1f} %  bits against {row['anchor']} ({span})")
    typer.echo(str(output / "index.html"))
