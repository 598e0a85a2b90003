"""`ulcodec bench`: compare ulcodec with other codecs on the same pictures or clips, in a report."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ulcodec.progress import tracked
from ulcodec_cli.clip_bench import GOP, N_FRAMES, QUICK_CLIPS, QUICK_FRAMES, bench_clips
from ulcodec_cli.common import DEFAULT_MODEL, Model
from ulcodec_cli.progress import progress_bar

if TYPE_CHECKING:
    from ulcodec.bench.peers import Peer

QUICK_CODECS = "jpeg,webp,avif,avif-psnr"
QUICK_PICTURES = 3
SIZES, QUICK_SIZES = "0.4,1.6,6,12,24,48", "0.4"
RATES, CLIP_RATES = "0.1,0.25,0.5", "0.1"
VIEWED, VIEWED_CLIPS = 3, 1
SPEED_BPP = 0.5


def parse_numbers(text: str, highest: float) -> list[float]:
    """Parse numbers with commas, above 0 and at most `highest`. Raises BadParameter."""
    try:
        numbers = [float(part) for part in text.split(",") if part]
    except ValueError:
        raise typer.BadParameter(f"expected numbers with commas, got {text!r}") from None
    if not all(0 < number <= highest for number in numbers):
        raise typer.BadParameter(f"expected numbers above 0 and at most {highest:g}, got {text!r}")
    return numbers


def bench(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            help="A folder of pictures, or clips: videos and folders of videos. Default: photographs in scikit-image.",
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the report.")] = Path("report"),
    codecs: Annotated[
        str | None, typer.Option(help="Other codecs to measure, comma-separated. Default: all, of clips most.")
    ] = None,
    anchors: Annotated[
        Path | None, typer.Option(help="JSON of published curves on the same pictures. Not for clips.")
    ] = None,
    others_from: Annotated[
        Path | None, typer.Option(help="results.json on the same sources, from which other codecs are taken.")
    ] = None,
    model: Model = DEFAULT_MODEL,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    effort: Annotated[
        int | None, typer.Option(min=1, max=9, help="Effort of ulcodec's encoder. Default: that of encode.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes, 1 by default. Not for clips.")] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, help=f"Frames of each clip, from its first. Default: {N_FRAMES}.")
    ] = None,
    gop: Annotated[
        int | None,
        typer.Option(min=1, max=2**28 - 1, help=f"Intra frames of clips at this distance or less. Default: {GOP}."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first pictures or clips.")] = None,
    rates: Annotated[
        str | None,
        typer.Option(help=f"Bits per pixel in the viewer, comma-separated. Default: {RATES}, of clips {CLIP_RATES}."),
    ] = None,
    viewer: Annotated[
        int | None,
        typer.Option(min=0, help=f"Sources in the viewer. Default: {VIEWED} pictures, or {VIEWED_CLIPS} clip."),
    ] = None,
    sizes: Annotated[
        str | None,
        typer.Option(help=f"Megapixels to time, comma-separated, '' for none. Default: {SIZES}. Not for clips."),
    ] = None,
    perceptual: Annotated[
        bool,
        typer.Option("--perceptual", help="Also LPIPS, DISTS and FID (needs the perceptual extra). Not for clips."),
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Few levels, codecs, frames and sources: about two minutes.")
    ] = False,
) -> None:
    """Compare ulcodec with other codecs and write a report. The same command continues an interrupted run."""
    from ulcodec.bench.clips import find_clips

    clips = find_clips(paths or [])
    rates_bpp = parse_numbers((CLIP_RATES if clips else RATES) if rates is None else rates, 24)
    if clips:
        refuse("clips", anchors=anchors, jobs=jobs, sizes=sizes, perceptual=perceptual or None)
        limit = limit or (QUICK_CLIPS if quick else None)
        bench_clips(
            clips[:limit],
            output,
            codecs=codecs,
            others_from=others_from,
            n_frames=frames or (QUICK_FRAMES if quick else N_FRAMES),
            rates_bpp=rates_bpp,
            n_viewed=VIEWED_CLIPS if viewer is None else viewer,
            quick=quick,
            model=model,
            device=device,
            effort=effort or 1,
            gop=gop or GOP,
        )
        return
    refuse("pictures", frames=frames, gop=gop)
    if paths and (len(paths) > 1 or not paths[0].is_dir()):
        raise typer.BadParameter(f"expected videos, or one folder of pictures, got {' '.join(map(str, paths))}")
    jobs = jobs or 1
    megapixels = parse_numbers((QUICK_SIZES if quick else SIZES) if sizes is None else sizes, 1000)

    from ulcodec.bench.curves import read_anchors, read_report
    from ulcodec.bench.pictures import find_pictures

    earlier = read_report(others_from)
    names = chosen_codecs(codecs or (None if earlier is None else ""), quick)
    published = read_anchors(anchors)
    pictures = find_pictures(paths[0] if paths else None, limit or (QUICK_PICTURES if quick else None))

    from ulcodec.bench.complexity import coding_kmac_per_px, describe
    from ulcodec.bench.machine import run_record
    from ulcodec.bench.ours import our_codec, our_peer
    from ulcodec.bench.report import level_near, markdown, summarise, write_report
    from ulcodec.bench.run import Job, add_fid, jobs_of, measure_all
    from ulcodec.bench.speed import measure_speed
    from ulcodec.metrics.distortion import interpolator_class

    interpolator_class()  # reports a missing SciPy before anything is measured
    present, absent = available_codecs(names, perceptual)
    ours: dict[str, Any] = {"model": model, "device": device, "effort": effort}
    measured = [our_peer(**ours), *present]
    libraries = {codec.key: codec.library() for codec in measured}
    output.mkdir(parents=True, exist_ok=True)

    template = Job("", pictures[0], **ours, perceptual=perceptual, n_threads=1 if jobs > 1 else 0)
    work = jobs_of(measured, pictures, quick=quick, template=template)
    viewed = pictures[: VIEWED if viewer is None else viewer]
    n_views, n_timed = len(viewed) * len(rates_bpp) * len(measured), len(measured) * len(megapixels)
    with progress_bar("measuring"):
        parts = tracked(range(len(work) + n_timed + n_views), "{} of {}")

        def advance() -> None:
            next(parts, None)

        advance()  # begins the first part; each later call ends one
        rows = measure_all(work, libraries, output / "measurements.jsonl", jobs, advance)
        summary = summarise(rows, measured, published, earlier)
        if perceptual and "FID" not in absent:
            add_fid(summary["curves"], pictures, template)
        timed = [(codec, level_near(summary["curves"][codec.key], SPEED_BPP)) for codec in measured]
        speed = measure_speed(timed, pictures[0], megapixels, on_done=advance, **ours)
        views = viewer_pictures(template, viewed, rates_bpp, [codec.key for codec in present], rows, advance)

    codec = our_codec(model, device)
    run = run_record(["ulcodec", *sys.argv[1:]], codec)
    complexity = {"parts": describe(codec.model.config), "kmac_per_px": coding_kmac_per_px(codec.model.config)}
    tables = {"run": run, "absent": absent, **summary, "speed": speed, "complexity": complexity}
    write_report(output, {**tables, "viewer": views}, rows, markdown(tables))
    for line in bd_rate_lines(summary["bd_rates"]):
        typer.echo(line)
    typer.echo(str(output / "index.html"))


def refuse(kind: str, **options: object) -> None:
    """Raise BadParameter for an option that was given and does not apply to a kind of source."""
    if given := [f"--{name}" for name, value in options.items() if value is not None]:
        raise typer.BadParameter(f"{given[0]} does not apply to {kind}")


def chosen_codecs(codecs: str | None, quick: bool) -> list[str]:
    """Keys of the peers to measure: those given, or by default all, or a few if `quick`. Raises BadParameter."""
    from ulcodec.bench.peers import PEERS

    default = QUICK_CODECS if quick else ",".join(PEERS)
    names = [name for name in (default if codecs is None else codecs).split(",") if name]
    if unknown := [name for name in names if name not in PEERS]:
        raise typer.BadParameter(f"unknown codecs: {', '.join(unknown)}; known: {', '.join(PEERS)}")
    return names


def available_codecs(names: list[str], perceptual: bool) -> "tuple[list[Peer], dict[str, str]]":
    """Find the installed peers; print and return why other peers and measures are missing."""
    from ulcodec.bench.peers import PEERS, available
    from ulcodec.bench.perceptual import absent_networks

    present, absent = available([PEERS[name] for name in names])
    missing = absent_networks() if perceptual else {}
    absent |= {name.upper(): reason for name, reason in missing.items()}
    for title, reason in absent.items():
        typer.echo(f"absent: {title} ({reason})", err=True)
    return present, absent


def bd_rate_lines(rows: list[dict[str, Any]]) -> list[str]:
    """A line for every comparison that has a BD-rate."""
    return [
        f"{row['bd_rate_percent']:+7.1f} %  bits against {row['anchor']} "
        f"({row['low_db']:.1f} to {row['high_db']:.1f} dB)"
        for row in rows
        if row["bd_rate_percent"] is not None
    ]


def viewer_pictures(
    template: Any, pictures: list[Any], rates_bpp: list[float], others: list[str], rows: list[dict[str, Any]],
    on_done: Callable[[], object],
) -> list[dict[str, Any]]:  # fmt: skip
    """Encode each picture at each rate with ulcodec, and with the others to the size of its file."""
    from ulcodec.bench.peers import OURS
    from ulcodec.bench.report import viewer_picture
    from ulcodec.bench.run import known_sizes, measure

    sizes_of = known_sizes(rows, "picture")
    views = []
    for picture in pictures:
        at_rates = []
        for rate in rates_bpp:
            n_bytes, versions = round(rate * picture.width * picture.height / 8), []
            for key in (OURS, *others):
                sizes = sizes_of[key, picture.name]
                job = replace(template, codec=key, picture=picture, n_bytes=n_bytes, sizes=sizes, keep=True)
                versions.append(measure(job))
                n_bytes = versions[0]["file_bytes"]
                on_done()
            at_rates.append((rate, versions))
        views.append(viewer_picture(picture.name, picture.pixels, at_rates))
    return views
