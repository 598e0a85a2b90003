"""Rate-distortion curves and their comparison."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ulcodec.errors import BenchmarkError
from ulcodec.metrics import bd_rate_percent


@dataclass(frozen=True)
class Curve:
    """Rate-distortion points in the order of rates. `quality`: PSNR in dB, or another measure that rises with it."""

    bpp: list[float]
    quality: list[float]


def increasing(points: Sequence[tuple[float, float]]) -> Curve:
    """Keep the points (bpp, quality) that are better than all of smaller or equal rate; drop infinite qualities."""
    kept: list[tuple[float, float]] = []
    for bpp, quality in sorted(points, key=lambda point: (point[0], -point[1])):
        if math.isfinite(quality) and (not kept or quality > kept[-1][1]):
            kept.append((bpp, quality))
    return Curve([bpp for bpp, _ in kept], [quality for _, quality in kept])


def bd_rate(anchor: Curve, curve: Curve) -> float | None:
    """BD-rate to an anchor in percent; None without a common range of quality, or with too few points."""
    try:
        return bd_rate_percent(anchor.bpp, anchor.quality, curve.bpp, curve.quality)
    except ValueError:
        return None


def bd_row(name: str, anchor: Curve, curve: Curve) -> dict[str, Any]:
    """BD-rate to an anchor, and the common PSNR range; None without a common range, or with too few points."""
    value = bd_rate(anchor, curve)
    if value is None:
        return {"anchor": name, "bd_rate_percent": None, "low_db": None, "high_db": None}
    low = max(min(anchor.quality), min(curve.quality))
    high = min(max(anchor.quality), max(curve.quality))
    return {"anchor": name, "bd_rate_percent": value, "low_db": low, "high_db": high}


def bd_rows(anchors: dict[str, Curve], curve: Curve) -> list[dict[str, Any]]:
    """Compare a curve with all anchors; best BD-rate first."""
    rows = [bd_row(name, anchor, curve) for name, anchor in anchors.items()]
    return sorted(rows, key=lambda row: math.inf if row["bd_rate_percent"] is None else row["bd_rate_percent"])


def read_anchors(path: Path | None) -> dict[str, Curve]:
    """Read published curves, `{name: {"bpp": [...], "psnr_db": [...]}}`. Raises OSError or BenchmarkError."""
    if path is None:
        return {}
    try:
        curves = json.loads(path.read_text())
        return {name: Curve(curve["bpp"], curve["psnr_db"]) for name, curve in curves.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BenchmarkError(f"{path}: not a JSON of rate-distortion curves") from error


def read_report(path: Path | None, *, on_clips: bool = False) -> dict[str, Any] | None:
    """Read a `results.json` of `ulcodec bench`, on pictures or on clips. Raises OSError or BenchmarkError."""
    if path is None:
        return None
    kind = "clips" if on_clips else "pictures"
    try:
        report: dict[str, Any] = json.loads(path.read_text())
        for codec in report["codecs"]:
            report["curves"][codec["key"]], codec["title"], codec["library"]
        report["run"]["date"]
        if on_clips:
            for clip in report["clips"]:
                clip["sha256"], [report["points"][clip["name"]][codec["key"]] for codec in report["codecs"]]
        else:
            report["n_pictures"]
    except (ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(f"{path}: not a results.json of ulcodec bench on {kind}") from error
    return report
