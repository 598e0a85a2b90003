"""From measurements to a report: one HTML page that needs nothing else, and the same as JSON and CSV."""

import csv
import io
import json
import math
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from PIL import Image

from ulcodec.bench.curves import Curve, bd_rows, increasing
from ulcodec.bench.peers import Peer, Pixels
from ulcodec.bench.run import OURS
from ulcodec.images import atomic_write

MEANS = ("bpp", "psnr_db", "ms_ssim", "ssimulacra2")
TIMES = ("encode_ms", "encode_cpu_ms", "decode_ms", "decode_cpu_ms")


def mean_of(values: Iterable[float | None]) -> float | None:
    """The plain mean; None where one is missing, infinite, or there are none."""
    found = list(values)
    known = [x for x in found if x is not None and math.isfinite(x)]
    return fmean(known) if known and len(known) == len(found) else None


def points(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Means over the pictures at every level of one codec, in the order of the rates.

    `psnr_of_mean_mse_db` is the PSNR of the pictures' mean squared error, `psnr_db` the mean of their PSNR.
    """
    found = []
    for level in dict.fromkeys(row["level"] for row in rows):
        at_level = [row for row in rows if row["level"] == level]
        error = fmean(row["mse"] for row in at_level)
        means = {name: mean_of(row[name] for row in at_level) for name in MEANS}
        found.append(
            {"level": level, **means, "psnr_of_mean_mse_db": 10 * math.log10(255**2 / error) if error else None}
        )
    return sorted(found, key=lambda point: point["bpp"])


def curve_of(found: Sequence[Mapping[str, Any]]) -> Curve:
    return increasing([(p["bpp"], p["psnr_db"]) for p in found if p["psnr_db"] is not None])


def times(rows: Sequence[Mapping[str, Any]], megapixels: Mapping[str, float]) -> dict[str, float]:
    """Median milliseconds for a megapixel over all pictures and levels."""
    return {name: median(row[name] / megapixels[row["picture"]] for row in rows) for name in TIMES}


def summarise(
    rows: Sequence[Mapping[str, Any]],
    codecs: Sequence[Peer],
    published: Mapping[str, Curve],
    megapixels: Mapping[str, float],
) -> dict[str, Any]:
    """Curves, BD-rates of ulcodec against every other, and times."""
    of_codec = {codec.key: [row for row in rows if row["codec"] == codec.key] for codec in codecs}
    curves = {key: points(found) for key, found in of_codec.items()}
    measured = {codec.title: curve_of(curves[codec.key]) for codec in codecs if codec.key != OURS}
    others = {**measured, **{f"{name} (published)": curve for name, curve in published.items()}}
    return {
        "n_pictures": len(megapixels),
        "codecs": [{"key": codec.key, "title": codec.title, "library": codec.library()} for codec in codecs],
        "curves": curves,
        "published": {
            name: [{"bpp": bpp, "psnr_db": db} for bpp, db in zip(curve.bpp, curve.psnr_db, strict=True)]
            for name, curve in published.items()
        },
        "bd_rates": bd_rows(others, curve_of(curves[OURS])),
        "times": [
            {"title": codec.title, "library": codec.library(), **times(of_codec[codec.key], megapixels)}
            for codec in codecs
        ],
    }


def data_uri(pixels: Pixels) -> str:
    """A picture inside a page, without loss."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=True, method=2)
    return "data:image/webp;base64," + b64encode(buffer.getvalue()).decode()


def viewer_picture(
    name: str, pixels: Pixels, rates: Sequence[tuple[float, Sequence[Mapping[str, Any]]]], titles: Mapping[str, str]
) -> dict[str, Any]:
    """A picture of the viewer: the original and, for each rate, rows of `measure` that kept their pixels."""
    shown = [
        {
            "bpp": bpp,
            "versions": [
                {
                    **{key: row[key] for key in ("codec", "level", "file_bytes", "bpp", "psnr_db")},
                    "title": titles[row["codec"]],
                    "image": data_uri(np.asarray(row["pixels"])),
                }
                for row in rows
            ],
        }
        for bpp, rows in rates
    ]
    height, width = pixels.shape[:2]
    return {"name": name, "width": width, "height": height, "original": data_uri(pixels), "rates": shown}


def without_infinities(value: Any) -> Any:
    """JSON has no infinity: null stands for it."""
    if isinstance(value, dict):
        return {key: without_infinities(part) for key, part in value.items()}
    if isinstance(value, list):
        return [without_infinities(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def html_page(report: Mapping[str, Any]) -> str:
    template = (files("ulcodec.bench") / "report.html").read_text(encoding="utf-8")
    text = json.dumps(without_infinities(dict(report)))
    return template.replace("__DATA__", text.replace("&", "\\u0026").replace("<", "\\u003c"))


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def write_report(folder: Path, report: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """`index.html`, `results.json` (all but the viewer's pictures) and `measurements.csv`."""
    tables = {key: value for key, value in report.items() if key != "viewer"}
    atomic_write(folder / "results.json", (json.dumps(without_infinities(tables), indent=1) + "\n").encode())
    atomic_write(folder / "measurements.csv", csv_text(rows).encode())
    atomic_write(folder / "index.html", html_page(report).encode())
