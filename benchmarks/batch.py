"""Time coding per picture, one by one and in batches, by size of picture.

python -m benchmarks.batch -o batch.json
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

import ulcodec
from benchmarks.report import progress, write_text
from benchmarks.timing import stopwatch
from ulcodec.bench.machine import run_record
from ulcodec.bench.pictures import Picture, find_pictures
from ulcodec.bench.tables import text_table, to_json
from ulcodec.codec.image import decode_batch, encode_batch

SIDES_PX = (32, 64, 128, 192, 256)
PICTURES = 64
RUNS = 5


def crops(pictures: Sequence[Picture], side_px: int, count: int) -> list[np.ndarray]:
    """Crop the pictures in turn at random places: uint8 [side, side, 3]."""
    generator = np.random.default_rng(0)
    cropped = []
    for index in range(count):
        pixels = pictures[index % len(pictures)].pixels
        top, left = (generator.integers(0, length - side_px + 1) for length in pixels.shape[:2])
        cropped.append(np.ascontiguousarray(pixels[top : top + side_px, left : left + side_px]))
    return cropped


def medians(device: torch.device, count: int, ways: Sequence[Callable[[], Any]]) -> list[float]:
    """Median milliseconds per picture of each function; the functions run in turn, after a warm-up."""
    runs = [[stopwatch(device, way)[1] / count for way in ways] for _ in range(1 + RUNS)]
    return [median(times) for times in zip(*runs[1:], strict=True)]


def row(codec: ulcodec.Codec, pictures: Sequence[Picture], side_px: int, count: int) -> dict[str, Any]:
    pixels = crops(pictures, side_px, count)
    files = [codec.encode(one) for one in pixels]
    encode, encode_together, decode, decode_together = medians(
        codec.device,
        count,
        [
            lambda: [codec.encode(one) for one in pixels],
            lambda: encode_batch(codec, pixels),
            lambda: [codec.decode_picture(data) for data in files],
            lambda: decode_batch(codec, files),
        ],
    )
    return {
        "side_px": side_px,
        "encode_ms": encode,
        "batch_encode_ms": encode_together,
        "decode_ms": decode,
        "batch_decode_ms": decode_together,
        "n_equal_files": sum(one == other for one, other in zip(files, encode_batch(codec, pixels), strict=True)),
    }


def main(arguments: Sequence[str]) -> None:
    description = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batch", description=description)
    parser.add_argument("--images", type=Path, help="folder of pictures (default: sample pictures)")
    parser.add_argument("--model", default="small", help="name of a model, or a model directory")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--pictures", type=int, default=PICTURES, help="how many of each size")
    parser.add_argument("-o", "--output", type=Path, help="write the report here as JSON")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    codec = ulcodec.load(options.model, device=options.device)
    pictures = find_pictures(options.images)
    rows = []
    for side_px in SIDES_PX:
        progress(f"{side_px}x{side_px}", last=side_px == SIDES_PX[-1])
        rows.append(row(codec, pictures, side_px, options.pictures))
    columns = ("encode_ms", "batch_encode_ms", "decode_ms", "batch_decode_ms")
    cells = [[str(one["side_px"]), *(f"{one[column]:.1f}" for column in columns)] for one in rows]
    print(text_table(["side px", "encode ms", "in batches", "decode ms", "in batches"], cells))
    if options.output:
        run = run_record(["python", "-m", "benchmarks.batch", *arguments], codec)
        write_text(options.output, to_json({"run": run, "n_pictures": options.pictures, "rows": rows}))


if __name__ == "__main__":
    main(sys.argv[1:])
