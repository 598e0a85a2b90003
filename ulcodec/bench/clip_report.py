"""Summarise measurements of clips: curves, BD-rates and speed; and write films, which the page plays side by side."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, harmonic_mean
from typing import Any, NamedTuple

import numpy as np

from ulcodec.bench.clip_peers import ANCHOR, VMAF_MODEL, ClipPeer, absent_vmaf
from ulcodec.bench.clip_run import FIELDS, OWN_LEVELS, ClipJob, Coded, library_of
from ulcodec.bench.clips import Clip, Pixels, frames_of, split
from ulcodec.bench.curves import Curve, bd_rate, increasing
from ulcodec.bench.journal import LEFT_OUT
from ulcodec.bench.report import mean_of
from ulcodec.bench.tables import decimals, markdown_table
from ulcodec.errors import BenchmarkError
from ulcodec.format.sequence import Chroma, ClipFormat
from ulcodec.io.video_target import open_target
from ulcodec.metrics.video import plane_psnr

MAIN_MEASURE = "yuv_psnr_db"
MEASURES = (MAIN_MEASURE, "psnr_db", "ms_ssim", "vmaf")
"""Measures of distortion that have BD-rates."""
POINT = tuple(name for name in FIELDS if name not in ("codec", "clip", LEFT_OUT))
"""Columns of a point of a curve."""
MEAN = "mean"
CROP_PX = (288, 224)
"""Largest width and height of the crop that plays."""
TILE_PX = 16
"""Sides of tiles in a film are multiples of a macroblock, so that tiles do not affect each other."""
FILM_CRF = 12
BT709 = 1

Points = dict[str, dict[str, list[dict[str, Any]]]]
"""Points of curves in the order of rates, by clip and codec."""
Rates = dict[str, dict[str, dict[str, float | None]]]
"""BD-rates in percent by clip, measure and codec; the clip `MEAN` has their means."""


def summarise(
    rows: Sequence[Mapping[str, Any]],
    clips: Sequence[Clip],
    peers: Sequence[ClipPeer],
    template: ClipJob,
    earlier: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Summarise rows of `clip_run.measure`. `template`: a job with the settings of ulcodec.

    `earlier`: a report on the same clips, from which the codecs are taken that were not measured now.
    """
    codecs = [described_codec(replace(template, codec=key)) for key in (*OWN_LEVELS, *(peer.key for peer in peers))]
    points = {clip.name: {codec["key"]: points_of(rows, clip, codec["key"]) for codec in codecs} for clip in clips}
    left_out = [{name: row[name] for name in ("codec", "clip", "level", LEFT_OUT)} for row in rows if row[LEFT_OUT]]
    if earlier is not None:
        codecs += earlier_codecs(earlier, clips, points)
    keys = [codec["key"] for codec in codecs]
    return {
        "clips": [described_clip(clip) for clip in clips],
        "codecs": codecs,
        "vmaf_model": VMAF_MODEL if absent_vmaf() is None else None,
        "anchor": ANCHOR if ANCHOR in keys else None,
        "bd_rate_percent": bd_rates(points, {key: (ANCHOR, key) for key in keys}) if ANCHOR in keys else {},
        "own_against_percent": {
            own: bd_rates(points, {key: (key, own) for key in keys if key != own}) for own in OWN_LEVELS
        },
        "speed": [{"codec": key, **speed_of(points, key)} for key in keys],
        "curves": {key: mean_points([of_codec[key] for of_codec in points.values()]) for key in keys},
        "points": points,
        LEFT_OUT: left_out,
    }


def check_clips(earlier: Mapping[str, Any], clips: Sequence[Clip]) -> None:
    """Raise BenchmarkError if an earlier report is not about the same frames, or lacks figures."""
    try:
        for of_codec in earlier["points"].values():
            [[point[name] for name in POINT] for points in of_codec.values() for point in points]
        [codec["command"] for codec in earlier["codecs"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise BenchmarkError(f"the earlier report lacks figures of its codecs: {error}") from error
    if [clip["sha256"] for clip in earlier["clips"]] != [clip.sha256 for clip in clips]:
        raise BenchmarkError("the earlier report is about other clips, or another number of frames")


def described_clip(clip: Clip) -> dict[str, Any]:
    return {
        "name": clip.name,
        "width": clip.width,
        "height": clip.height,
        "n_frames": clip.n_frames,
        "frame_rate": float(clip.frame_rate),
        "changes": ", ".join(clip.changes),
        "sha256": clip.sha256,
    }


def described_codec(job: ClipJob) -> dict[str, Any]:
    return {"key": job.codec, "title": job.title, "library": library_of(job), "command": job.command}


def points_of(rows: Sequence[Mapping[str, Any]], clip: Clip, codec: str) -> list[dict[str, Any]]:
    """The points of a codec on a clip, in the order of rates."""
    chosen = [row for row in rows if (row["clip"], row["codec"], row[LEFT_OUT]) == (clip.name, codec, None)]
    return sorted(({name: row[name] for name in POINT} for row in chosen), key=lambda point: point["bpp"])


def earlier_codecs(earlier: Mapping[str, Any], clips: Sequence[Clip], points: Points) -> list[dict[str, Any]]:
    """Add the points of codecs of an earlier report that were not measured now; return the codecs with its date.

    Reports round bits per pixel, so that they are computed again.
    """
    measured = {key for of_codec in points.values() for key in of_codec}
    added = [codec for codec in earlier["codecs"] if codec["key"] not in measured]
    for clip, before in zip(clips, earlier["clips"], strict=True):
        for codec in added:
            of_codec = earlier["points"][before["name"]][codec["key"]]
            points[clip.name][codec["key"]] = [{**point, "bpp": clip.bpp(point["file_bytes"])} for point in of_codec]
    return [{"measured": earlier["run"]["date"], **codec} for codec in added]


def mean_points(curves: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Average curves of several clips at the levels that all of them have; speeds as harmonic means."""
    by_level = [{point["level"]: point for point in curve} for curve in curves]
    levels = [level for level in by_level[0] if all(level in points for points in by_level)]
    means = []
    for level in levels:
        at_level = [points[level] for points in by_level]
        means.append({name: mean_of(point[name] for point in at_level) for name in POINT} | speed_of_points(at_level))
    return sorted(means, key=lambda point: point["bpp"])


def speed_of(points: Points, codec: str) -> dict[str, float | None]:
    """Frames a second of a codec over all its points on all clips."""
    return speed_of_points([point for of_codec in points.values() for point in of_codec[codec]])


def speed_of_points(points: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    names = ("encode_fps", "decode_fps")
    return {name: harmonic_mean([point[name] for point in points]) if points else None for name in names}


def curve_of(points: Iterable[Mapping[str, Any]], measure: str) -> Curve:
    """The curve of a measure of distortion that rises with the rate; MS-SSIM in dB."""
    pairs = [(point["bpp"], quality_of(point[measure], measure)) for point in points if point[measure] is not None]
    return increasing(pairs)


def quality_of(value: float, measure: str) -> float:
    """A measure on a scale for BD-rates: -10 log10(1 - x) for MS-SSIM, which is close to 1."""
    if measure != "ms_ssim":
        return value
    return math.inf if value >= 1 else -10 * math.log10(1 - value)


def bd_rates(points: Points, pairs: Mapping[str, tuple[str, str]]) -> Rates:
    """BD-rates of pairs of codecs, anchor first, on each clip, and their means; None where a clip has none."""
    rates: Rates = {}
    for clip, of_codec in points.items():
        rates[clip] = {}
        for measure in MEASURES:
            curves = {key: curve_of(curve, measure) for key, curve in of_codec.items()}
            rates[clip][measure] = {key: bd_rate(curves[a], curves[b]) for key, (a, b) in pairs.items()}
    of_clips = list(rates.values())
    rates[MEAN] = {
        measure: {key: mean_of(rates[measure][key] for rates in of_clips) for key in pairs} for measure in MEASURES
    }
    return rates


def clip_markdown(report: Mapping[str, Any]) -> str:
    """Format the tables of a report on clips as Markdown: BD-rates in YUV-PSNR, and speeds."""
    run, titles = report["run"], {codec["key"]: codec["title"] for codec in report["codecs"]}
    own = {key: rates[MEAN][MAIN_MEASURE] for key, rates in report["own_against_percent"].items()}
    anchor = {clip: rates[MAIN_MEASURE] for clip, rates in report["bd_rate_percent"].items()}
    rates = [
        [title, *(decimals(column.get(key), 1) for column in (*anchor.values(), *own.values()))]
        for key, title in titles.items()
    ]
    speeds = [
        [titles[row["codec"]], decimals(row["encode_fps"], 1), decimals(row["decode_fps"], 1)]
        for row in report["speed"]
    ]
    parts = [
        f"`{run['command']}`, commit {run['commit']}, {run['date']}; model `{run['model']}` "
        f"({run['model_fingerprint']}); {run['cpu']}, {run['n_cores']} cores.",
        "Clips: " + ", ".join(f"{clip['name']} ({clip['n_frames']} frames)" for clip in report["clips"]) + ".",
        f"BD-rate in percent, YUV-PSNR: against {titles.get(report['anchor'], 'no anchor')}, and of ulcodec against "
        "each codec.",
        markdown_table(["codec", *anchor, *(f"{titles[key]} against it" for key in own)], rates),
        markdown_table(["codec", "encode, frames/s", "decode, frames/s"], speeds),
        *(f"`{codec['command']}`" for codec in report["codecs"]),
        *(f"Measured {codec['measured']}: {codec['title']}." for codec in report["codecs"] if "measured" in codec),
        *(f"Absent: {title} ({reason})." for title, reason in report["absent"].items()),
        *(f"Left out: {row['codec']} at {row['level']:g} on {row['clip']}." for row in report[LEFT_OUT]),
    ]
    return "\n\n".join(parts) + "\n"


class Version(NamedTuple):
    """A clip as a codec gives it back."""

    codec: str
    level: float
    coded: Coded


def write_film(folder: Path, name: str, clip: Clip, bpp: float, versions: Sequence[Version]) -> dict[str, Any]:
    """Write the centre of the original and of all versions as tiles of one film, so that they play in step.

    Return its description: tiles in rows of `n_columns`, the original first.
    """
    original = frames_of(clip)
    width, height = (
        min(side, most) // TILE_PX * TILE_PX for side, most in zip((clip.width, clip.height), CROP_PX, strict=True)
    )
    left, top = (clip.width - width) // 4 * 2, (clip.height - height) // 4 * 2
    crop = slice(top, top + height), slice(left, left + width)
    clips_rgb = [original.rgb, *(version.coded.rgb for version in versions)]
    n_columns = math.ceil(math.sqrt(len(clips_rgb)))
    n_rows = math.ceil(len(clips_rgb) / n_columns)
    layout = ClipFormat(
        *(n_columns * width, n_rows * height, 1 / clip.frame_rate, clip.frame_rate),
        chroma=Chroma.YUV420, full_range=False, primaries=BT709, transfer=BT709, matrix=BT709,
    )  # fmt: skip
    with open_target(folder / name, layout, encoder="libx264", crf=FILM_CRF) as film:
        for number, frames in enumerate(zip(*clips_rgb, strict=True)):
            film.write(tiled([frame[crop] for frame in frames], n_rows, n_columns), number, 1)
    return {
        "clip": clip.name,
        "bpp": bpp,
        "file": name,
        "width": width,
        "height": height,
        "n_columns": n_columns,
        "n_frames": clip.n_frames,
        "frame_rate": float(clip.frame_rate),
        "crf": FILM_CRF,
        "versions": [described_version(clip, version) for version in versions],
    }


def tiled(tiles: Sequence[Pixels], n_rows: int, n_columns: int) -> Pixels:
    """Put tiles of one size in rows."""
    height, width, _ = tiles[0].shape
    grid = np.zeros((n_rows * height, n_columns * width, 3), np.uint8)
    for number, tile in enumerate(tiles):
        top, left = number // n_columns * height, number % n_columns * width
        grid[top : top + height, left : left + width] = tile
    return grid


def described_version(clip: Clip, version: Version) -> dict[str, Any]:
    pairs = zip(frames_of(clip).yuv, version.coded.yuv, strict=True)
    return {
        "codec": version.codec,
        "level": version.level,
        "file_bytes": version.coded.n_bytes,
        "bpp": clip.bpp(version.coded.n_bytes),
        "yuv_psnr_db": fmean(plane_psnr(split(a), split(b)).yuv for a, b in pairs),
    }
