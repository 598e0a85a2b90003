"""`ulcodec bench` on clips."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import typer

from ulcodec.errors import BenchmarkError
from ulcodec.progress import tracked
from ulcodec_cli.common import about, say, show_warnings
from ulcodec_cli.progress import progress_bar

if TYPE_CHECKING:
    from ulcodec.bench.clip_peers import ClipPeer
    from ulcodec.bench.clip_run import ClipJob

N_FRAMES, GOP = 32, 250
QUICK_FRAMES, QUICK_CLIPS = 8, 1


def bench_clips(
    files: Sequence[Path],
    output: Path,
    *,
    codecs: str | None,
    others_from: Path | None,
    n_frames: int,
    rates_bpp: Sequence[float],
    n_viewed: int,
    quick: bool,
    **ours: Any,
) -> None:
    """Measure ulcodec and other codecs on the first frames of videos, and write a report.

    `codecs`: keys of others, comma-separated; `rates_bpp`, `n_viewed`: rates and clips of the viewer; `ours`: options
    of `ClipJob`.
    """
    from ulcodec.bench.curves import read_report

    earlier = read_report(others_from, on_clips=True)
    peers = chosen_peers(codecs or (None if earlier is None else ""), quick)

    from ulcodec.bench.clip_report import check_clips, clip_markdown, summarise
    from ulcodec.bench.clip_run import FIELDS, ClipJob, identity, jobs_of, measured
    from ulcodec.bench.clips import prepare_clip
    from ulcodec.bench.journal import LEFT_OUT, measure_missing
    from ulcodec.bench.machine import run_record
    from ulcodec.bench.ours import our_codec
    from ulcodec.bench.report import write_report
    from ulcodec.metrics.distortion import interpolator_class

    interpolator_class()  # reports a missing SciPy before anything is measured
    present, absent = available_peers(peers)
    codec = our_codec(ours["model"], ours["device"])
    show_warnings()
    with TemporaryDirectory() as folder, progress_bar("measuring"):
        clips = []
        for file in files:
            with about(file):
                clips.append(prepare_clip(file, Path(folder), n_frames))
        if earlier is not None:
            check_clips(earlier, clips)
        template = ClipJob("", clips[0], **ours)
        jobs = jobs_of(present, clips, quick=quick, template=template)
        viewed = [(clip, bpp) for clip in clips[:n_viewed] for bpp in rates_bpp]
        parts = tracked(range(len(jobs) + len(viewed)), "{} of {}")
        next(parts)  # begins the first part; each later call ends one
        output.mkdir(parents=True, exist_ok=True)
        work = [(identity(job), job) for job in jobs]
        rows = measure_missing(work, measured, output / "measurements.jsonl", FIELDS, lambda: next(parts, None))
        for row in rows:
            if row[LEFT_OUT] is not None:
                say(f"left out: {row['codec']} at level {row['level']:g} on {row['clip']}: {row[LEFT_OUT]}", err=True)
        summary = summarise(rows, clips, present, template, earlier)
        films = []
        for number, (clip, bpp) in enumerate(viewed):
            job = replace(template, clip=clip)
            films.append(film(output, f"film-{number}.mp4", job, bpp, present, rows))
            next(parts, None)

    report = {"run": run_record(["ulcodec", *sys.argv[1:]], codec), "absent": absent, **summary, "films": films}
    write_report(output, report, rows, clip_markdown(report))
    for line in bd_rate_lines(report):
        typer.echo(line)
    typer.echo(str(output / "index.html"))


def chosen_peers(codecs: str | None, quick: bool) -> "list[ClipPeer]":
    """The peers to measure: those given, or by default most, or a few if `quick`. Raises BadParameter."""
    from ulcodec.bench.clip_peers import CLIP_PEERS, QUICK

    default = QUICK if quick else [key for key, peer in CLIP_PEERS.items() if peer.is_default]
    names = default if codecs is None else list(dict.fromkeys(name for name in codecs.split(",") if name))
    if unknown := [name for name in names if name not in CLIP_PEERS]:
        raise typer.BadParameter(f"unknown codecs for clips: {', '.join(unknown)}; known: {', '.join(CLIP_PEERS)}")
    return [CLIP_PEERS[name] for name in names]


def available_peers(peers: "Sequence[ClipPeer]") -> "tuple[list[ClipPeer], dict[str, str]]":
    """Find the installed peers; print and return why other peers and VMAF are missing."""
    from ulcodec.bench.clip_peers import absent_vmaf
    from ulcodec.bench.peers import available

    present, absent = available(peers)
    if reason := absent_vmaf():
        absent["VMAF"] = reason
    for title, why in absent.items():
        typer.echo(f"absent: {title} ({why})", err=True)
    return present, absent


def film(
    output: Path, name: str, job: "ClipJob", bpp: float, peers: "Sequence[ClipPeer]", rows: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Code a clip with ulcodec at the quality nearest to a rate, and with the peers to that size; write their film."""
    from ulcodec.bench.clip_report import Version, points_of, write_film
    from ulcodec.bench.clip_run import code, code_at_size
    from ulcodec.bench.journal import LEFT_OUT
    from ulcodec.bench.peers import OURS
    from ulcodec.bench.report import level_near
    from ulcodec.bench.run import known_sizes

    level = level_near(points_of(rows, job.clip, OURS), bpp)
    sizes = known_sizes([row for row in rows if row[LEFT_OUT] is None], "clip")
    with TemporaryDirectory() as folder:
        own = code(replace(job, codec=OURS, level=level), Path(folder))
        versions = [Version(OURS, level, own)]
        for peer in peers:
            of_peer = replace(job, codec=peer.key)
            with suppress(BenchmarkError):  # a peer that fails at one of the levels has no tile
                found = code_at_size(of_peer, own.n_bytes, Path(folder), sizes.get((peer.key, job.clip.name)))
                versions.append(Version(peer.key, *found))
    return write_film(output, name, job.clip, bpp, versions)


def bd_rate_lines(report: dict[str, Any]) -> list[str]:
    """A line for every codec that has a mean BD-rate to ulcodec, in YUV-PSNR."""
    from ulcodec.bench.clip_report import MAIN_MEASURE, MEAN
    from ulcodec.bench.peers import OURS

    titles = {codec["key"]: codec["title"] for codec in report["codecs"]}
    rates = report["own_against_percent"][OURS][MEAN][MAIN_MEASURE]
    found = sorted((rate, titles[key]) for key, rate in rates.items() if rate is not None)
    return [f"{rate:+7.1f} %  bits against {title} (YUV-PSNR, mean over the clips)" for rate, title in found]
