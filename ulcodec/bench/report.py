"""Write a report of measurements: a self-contained HTML page, and the same as JSON, Markdown and CSV."""

import csv
import io
import math
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from PIL import Image

from ulcodec.bench.curves import Curve, bd_rows, increasing
from ulcodec.bench.peers import OURS, Peer, Pixels
from ulcodec.bench.perceptual import NETWORKS
from ulcodec.bench.tables import decimals, markdown_table, to_json
from ulcodec.errors import BenchmarkError
from ulcodec.io.files import atomic_write

MEANS = ("bpp", "psnr_db", "ms_ssim", "ssimulacra2", *NETWORKS)
BOUND_FACTOR, BOUND_BYTES = 1.01, 24


def mean_of(values: Iterable[float | None]) -> float | None:
    """Arithmetic mean; None without values, or if one is missing or infinite."""
    all_values = list(values)
    finite = [x for x in all_values if x is not None and math.isfinite(x)]
    return fmean(finite) if finite and len(finite) == len(all_values) else None


def points(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Average over the pictures at every level of one codec; return points in the order of rates.

    `psnr_of_mean_mse_db`: PSNR of the mean squared error of all pictures; `psnr_db`: mean of their PSNR.
    """
    curve = []
    for level in dict.fromkeys(row["level"] for row in rows):
        at_level = [row for row in rows if row["level"] == level]
        error = fmean(row["mse"] for row in at_level)
        means = {name: mean_of(row[name] for row in at_level) for name in MEANS}
        curve.append(
            {"level": level, **means, "psnr_of_mean_mse_db": 10 * math.log10(255**2 / error) if error else None}
        )
    return sorted(curve, key=lambda point: point["bpp"])


def curve_of(points: Sequence[Mapping[str, Any]]) -> Curve:
    """The increasing curve of PSNR through points."""
    return increasing([(p["bpp"], p["psnr_db"]) for p in points if p["psnr_db"] is not None])


def bound_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Compare ulcodec's files with its prior's bounds, a row per quality: means over the pictures, in bits per pixel.

    `n_within`: number of files of at most `BOUND_FACTOR` times the bound of their symbols, plus `BOUND_BYTES`;
    `worst_excess_bytes`: largest excess over that limit.
    """
    bounds = []
    for level in sorted({row["level"] for row in rows}):
        at_level = [row for row in rows if row["level"] == level]
        n_px = [8 * row["file_bytes"] / row["bpp"] for row in at_level]
        excess = [row["file_bytes"] - (BOUND_FACTOR * row["bound_bits"] / 8 + BOUND_BYTES) for row in at_level]
        bounds.append({
            "quality": int(level),
            "bpp": fmean(row["bpp"] for row in at_level),
            "bound_bpp": fmean(row["bound_bits"] / n for row, n in zip(at_level, n_px, strict=True)),
            "continuous_bound_bpp": fmean(
                row["continuous_bound_bits"] / n for row, n in zip(at_level, n_px, strict=True)
            ),
            "n_within": sum(x <= 0 for x in excess),
            "n_files": len(at_level),
            "worst_excess_bytes": max(excess),
        })  # fmt: skip
    return bounds


def summarise(
    rows: Sequence[Mapping[str, Any]],
    codecs: Sequence[Peer],
    published: Mapping[str, Curve],
    earlier: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Summarise measurements: curves, BD-rates of ulcodec against every other codec, and bounds.

    `earlier`: a report on the same pictures, from which the codecs are taken that were not measured now. Raises
    BenchmarkError if it has another number of pictures.
    """
    n_pictures = len({row["picture"] for row in rows})
    of_codec = {codec.key: [row for row in rows if row["codec"] == codec.key] for codec in codecs}
    curves = {key: points(codec_rows) for key, codec_rows in of_codec.items()}
    listed = [{"key": codec.key, "title": codec.title, "library": codec.library()} for codec in codecs]
    if earlier is not None:
        if earlier["n_pictures"] != n_pictures:
            raise BenchmarkError(f"the earlier report is of {earlier['n_pictures']} pictures, this one of {n_pictures}")
        for codec in earlier["codecs"]:
            if codec["key"] not in curves:
                curves[codec["key"]] = earlier["curves"][codec["key"]]
                listed.append({"measured": earlier["run"]["date"], **codec})
    measured = {codec["title"]: curve_of(curves[codec["key"]]) for codec in listed if codec["key"] != OURS}
    others = {**measured, **{f"{name} (published)": curve for name, curve in published.items()}}
    return {
        "n_pictures": n_pictures,
        "codecs": listed,
        "curves": curves,
        "published": {
            name: [{"bpp": bpp, "psnr_db": db} for bpp, db in zip(curve.bpp, curve.quality, strict=True)]
            for name, curve in published.items()
        },
        "bd_rates": bd_rows(others, curve_of(curves[OURS])),
        "bounds": bound_rows(of_codec[OURS]),
    }


def level_near(points: Sequence[Mapping[str, Any]], bpp: float) -> float:
    """The level of the point whose mean rate is closest to a rate."""
    return float(min(points, key=lambda point: abs(point["bpp"] - bpp))["level"])


def data_uri(pixels: Pixels) -> str:
    """Embed a picture in a page, lossless."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=True, method=2)
    return "data:image/webp;base64," + b64encode(buffer.getvalue()).decode()


def viewer_picture(
    name: str, pixels: Pixels, rates: Sequence[tuple[float, Sequence[Mapping[str, Any]]]]
) -> dict[str, Any]:
    """Describe a picture of the viewer: the original, and for each rate rows of `measure` with pixels."""
    versions = [
        {
            "bpp": bpp,
            "versions": [
                {
                    **{key: row[key] for key in ("codec", "level", "file_bytes", "bpp", "psnr_db")},
                    "image": data_uri(np.asarray(row["pixels"])),
                }
                for row in rows
            ],
        }
        for bpp, rows in rates
    ]
    height, width = pixels.shape[:2]
    return {"name": name, "width": width, "height": height, "original": data_uri(pixels), "rates": versions}


def html_page(report: Mapping[str, Any]) -> str:
    template = (files("ulcodec.bench") / "report.html").read_text(encoding="utf-8")
    text = to_json(report)
    return template.replace("__DATA__", text.replace("&", "\\u0026").replace("<", "\\u003c"))


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def markdown(report: Mapping[str, Any]) -> str:
    """Format the tables of a report as Markdown."""
    titles = {codec["key"]: codec["title"] for codec in report["codecs"]}
    run = report["run"]
    ours = [
        [str(b["quality"]), *(decimals(p[k], n) for k, n in (("bpp", 4), ("psnr_db", 2), ("psnr_of_mean_mse_db", 2),
         ("ms_ssim", 4), ("ssimulacra2", 1))), decimals(b["bound_bpp"], 4), decimals(b["continuous_bound_bpp"], 4),
         f"{b['n_within']}/{b['n_files']}"]
        for p, b in zip(report["curves"][OURS], report["bounds"], strict=True)
    ]  # fmt: skip
    rates = [
        [row["anchor"], decimals(row["bd_rate_percent"], 1), decimals(row["low_db"], 2), decimals(row["high_db"], 2)]
        for row in report["bd_rates"]
    ]
    names = {"wall_ms": "ms", "cpu_ms": "CPU ms", "first_ms": "first ms", "peak_mib": "peak MiB"}
    columns = [(operation, name) for operation in ("encode", "decode") for name in names]
    speed = [
        [titles[row["codec"]], f"{row['width']}x{row['height']}", f"{row['level']:g}",
         *(decimals(row.get(f"{operation}_{name}"), 0) for operation, name in columns)]
        for row in report["speed"]
    ]  # fmt: skip
    header = ["codec", "size", "level", *(f"{operation} {names[name]}" for operation, name in columns)]
    parts = [
        f"`{run['command']}`, commit {run['commit']}, {run['date']}; model `{run['model']}` "
        f"({run['model_fingerprint']}), {report['n_pictures']} pictures; {run['cpu']}, {run['n_cores']} cores.",
        markdown_table(["quality", "bpp", "PSNR dB", "PSNR of mean MSE", "MS-SSIM", "SSIMULACRA2", "bound bpp",
                        "continuous bound bpp", "within bound"], ours),
        markdown_table(["bits of ulcodec against", "BD-rate %", "from dB", "to dB"], rates),
        markdown_table(header, speed) if speed else "",
        *(f"Measured {codec['measured']}: {codec['title']}." for codec in report["codecs"] if "measured" in codec),
        *(f"Absent: {title} ({reason})." for title, reason in report["absent"].items()),
    ]  # fmt: skip
    return "\n\n".join(filter(None, parts)) + "\n"


def write_report(
    folder: Path, report: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], markdown_text: str
) -> None:
    """Write `index.html`, `results.json` (without the viewer's pictures), `tables.md` and `measurements.csv`."""
    tables = {key: value for key, value in report.items() if key != "viewer"}
    atomic_write(folder / "results.json", to_json(tables).encode())
    atomic_write(folder / "tables.md", markdown_text.encode())
    atomic_write(folder / "measurements.csv", csv_text(rows).encode())
    atomic_write(folder / "index.html", html_page(report).encode())
