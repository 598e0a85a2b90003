"""Measure the effort of the encoder: bits at equal PSNR against effort 1, and time.

python -m benchmarks.effort --images kodak --limit 6 -o effort.json
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median
from time import perf_counter
from typing import Any

import numpy as np

import ulcodec
from benchmarks.report import progress, write_text
from ulcodec.bench.curves import increasing
from ulcodec.bench.machine import run_record
from ulcodec.bench.ours import LEVELS
from ulcodec.bench.pictures import Picture, find_pictures
from ulcodec.bench.tables import text_table, to_json
from ulcodec.codec.effort import EFFORT_STEPS, refinement_of
from ulcodec.codec.image import Codec
from ulcodec.metrics import pchip, psnr_db

QUALITIES = (20, 50, 80)


RateCurve = Callable[[float], float]
"""PSNR in dB -> logarithm of the file's bytes."""


def log_bytes_by_psnr(codec: Codec, picture: Picture) -> RateCurve:
    """Rate curve of a picture at effort 1, as a function; constant beyond its ends."""
    files = [codec.encode(picture.pixels, quality=quality, effort=1) for quality in LEVELS]
    points = [(float(len(data)), psnr_db(picture.pixels, codec.decode_array(data))) for data in files]
    best = increasing(points)
    curve = pchip(np.array(best.quality), np.log(best.bpp))
    return lambda at_db: float(curve(np.clip(at_db, best.quality[0], best.quality[-1])))


def row_of(codec: Codec, pictures: Sequence[Picture], curves: Sequence[RateCurve], effort: int) -> dict[str, Any]:
    savings, times_ms = [], []
    for picture, curve in zip(pictures, curves, strict=True):
        for quality in QUALITIES:
            progress(f"effort {effort}: {picture.name} at quality {quality}")
            start = perf_counter()
            data = codec.encode(picture.pixels, quality=quality, effort=effort)
            times_ms.append(1000 * (perf_counter() - start))
            reached_db = psnr_db(picture.pixels, codec.decode_array(data))
            savings.append(100 * (len(data) / math.exp(curve(reached_db)) - 1))
    return {
        "effort": effort,
        **refinement_of(effort, has_refiner=codec.has_refiner)._asdict(),
        "bits_percent": fmean(savings),
        "median_encode_ms": median(times_ms),
    }


def steps_of(row: dict[str, Any]) -> str:
    """Number of steps along gradients, or the word refiner."""
    return "refiner" if row["by_refiner"] else str(row["n_steps"])


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.effort", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path, help="folder (default: the sample pictures)")
    parser.add_argument("--limit", type=int, help="only the first pictures")
    parser.add_argument("--model", default="small", help="name of a model, or a model directory")
    parser.add_argument("--efforts", type=int, nargs="+", default=list(range(1, len(EFFORT_STEPS) + 1)))
    parser.add_argument("-o", "--output", type=Path, help="write the report here as JSON")
    options = parser.parse_args(arguments)
    try:
        pictures, codec = find_pictures(options.images, options.limit), ulcodec.load(options.model)
    except (OSError, ulcodec.UlcError) as error:
        sys.exit(f"error: {error}")
    curves = [log_bytes_by_psnr(codec, picture) for picture in pictures]
    rows = [row_of(codec, pictures, curves, effort) for effort in options.efforts]
    progress(f"{len(pictures)} pictures at qualities {', '.join(map(str, QUALITIES))}", last=True)
    cells = [
        [
            str(row["effort"]),
            steps_of(row),
            f"{row['bits_percent']:+.1f}",
            f"{row['median_encode_ms']:.0f}",
        ]
        for row in rows
    ]
    print(text_table(["effort", "steps", "bits %", "median encode ms"], cells))
    if options.output:
        run = run_record(["python", "-m", "benchmarks.effort", *arguments], codec)
        write_text(options.output, to_json({"run": run, "qualities": QUALITIES, "rows": rows}))


if __name__ == "__main__":
    main(sys.argv[1:])
