"""Compare the backends: seconds and memory of whole commands, milliseconds of calls in a running process.

    python -m benchmarks.backends --markdown TABLE

Every measurement is a new process, and the rows take turns. The row "torch up to AVX2" limits the libraries of torch to
the instructions of older processors. onnxruntime has no such limit: it takes what the processor has.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

from PIL import Image

import ulcodec
from benchmarks.products import LIMITS
from benchmarks.report import progress, show_table
from ulcodec.backends import Backend
from ulcodec.bench.pictures import Picture, find_pictures, fitted
from ulcodec.io.pictures import load_image

ROOT = Path(__file__).parents[1]
QUALITY = 50
THREADS = (1, 2)
COLUMNS = {
    "encode_s": "encode, s",
    "decode_s": "decode, s",
    "warm_encode_ms": "warm encode, ms",
    "warm_decode_ms": "warm decode, ms",
    "encode_peak_mib": "encode, MiB",
    "decode_peak_mib": "decode, MiB",
}


class Row(NamedTuple):
    """A backend with a number of threads, and the environment of its processes."""

    name: str
    backend: Backend
    n_threads: int
    environment: Mapping[str, str]


ROWS = tuple(
    row
    for n_threads in THREADS
    for row in (
        Row("torch", "torch", n_threads, LIMITS["none"]),
        Row("torch up to AVX2", "torch", n_threads, LIMITS["AVX2"]),
        Row("onnxruntime", "onnxruntime", n_threads, LIMITS["none"]),
    )
)


def elapsed_ms(call: Callable[[], Any]) -> float:
    start = perf_counter()
    call()
    return 1000 * (perf_counter() - start)


def warm_times(file: Path, model: str, backend: Backend, n_threads: int, n_runs: int) -> dict[str, float]:
    """Run one process: median milliseconds of `n_runs` calls that follow a first one."""
    if backend == "torch":
        import torch

        torch.set_num_threads(n_threads)
    pixels = load_image(file).pixels
    codec = ulcodec.load(model, device="cpu", backend=backend, n_threads=n_threads)
    data = codec.encode(pixels, quality=QUALITY)
    calls: dict[str, Callable[[], Any]] = {
        "warm_encode_ms": partial(codec.encode, pixels, quality=QUALITY),
        "warm_decode_ms": partial(codec.decode_array, data),
    }
    return {name: median([elapsed_ms(call) for _ in range(n_runs + 1)][1:]) for name, call in calls.items()}


def run(arguments: Sequence[str | Path], environment: Mapping[str, str]) -> tuple[float, float]:
    """Run the command line: seconds from start to exit, and MiB of peak resident memory. Exits if it fails."""
    command = [sys.executable, "-m", "ulcodec_cli", *map(str, arguments)]
    start = perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | environment)
    _, status, usage = os.wait4(process.pid, 0)
    elapsed_s = perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"error: {' '.join(command)}: exit code {process.returncode}")
    return elapsed_s, usage.ru_maxrss / 1024


def measure(row: Row, original: Path, coded: Path, model: str, n_runs: int) -> dict[str, float]:
    """Measure a row once: the columns of the table."""
    options = ["--model", model, "--backend", row.backend, "--threads", str(row.n_threads)]
    encode = ["encode", str(original), "-o", str(original.with_name("again.ulc")), "-q", str(QUALITY)]
    decode = ["decode", str(coded), "-o", str(original.with_name("decoded.png"))]
    cold_options = ["--device", "cpu", "--force", *options]
    encode_s, encode_mib = run([*encode, *cold_options], row.environment)
    decode_s, decode_mib = run([*decode, *cold_options], row.environment)
    worker = [sys.executable, "-m", "benchmarks.backends", "--worker", str(original), "--runs", str(n_runs), *options]
    finished = subprocess.run(
        worker, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT, env=os.environ | row.environment
    )
    return {
        "encode_s": encode_s,
        "decode_s": decode_s,
        **json.loads(finished.stdout.splitlines()[-1]),
        "encode_peak_mib": encode_mib,
        "decode_peak_mib": decode_mib,
    }


def medians(picture: Picture, model: str, n_rounds: int, n_runs: int) -> list[dict[str, float]]:
    """Measure all rows by turns: for each row the medians of `n_rounds` rounds."""
    with tempfile.TemporaryDirectory() as folder:
        original, coded = Path(folder) / "picture.png", Path(folder) / "picture.ulc"
        Image.fromarray(picture.pixels).save(original)
        run(["encode", original, "-o", coded, "-q", str(QUALITY), "--model", model], {})
        rounds: list[list[dict[str, float]]] = []
        for number in range(n_rounds):
            progress(f"{picture.width}x{picture.height}, round {number + 1} of {n_rounds}")
            rounds.append([measure(row, original, coded, model, n_runs) for row in ROWS])
    by_row = zip(*rounds, strict=True)
    return [{name: median(figures[name] for figures in turns) for name in COLUMNS} for turns in by_row]


def cells(picture: Picture, row: Row, figures: Mapping[str, float]) -> list[str]:
    digits = {name: 2 if name.endswith("_s") else 0 for name in COLUMNS}
    size = f"{picture.width}x{picture.height}"
    return [size, row.name, str(row.n_threads), *(f"{figures[name]:.{digits[name]}f}" for name in COLUMNS)]


def parse_size(text: str) -> tuple[int, int]:
    width, height = text.split("x")
    return int(width), int(height)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.backends", description=str(__doc__).splitlines()[0])
    parser.add_argument("--images", type=Path, help="folder; its first picture is used (default: a sample picture)")
    parser.add_argument("--model", default="small", help="name of a model, or a model directory with ONNX graphs")
    parser.add_argument("--sizes", nargs="+", type=parse_size, default=[(768, 512)], metavar="WxH", help="in pixels")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each row, by turns")
    parser.add_argument("--runs", type=int, default=5, help="warm calls in a process, after a first one")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--backend", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        print(json.dumps(warm_times(options.worker, options.model, options.backend, options.threads, options.runs)))
        return

    table = []
    for width, height in options.sizes:
        picture = fitted(find_pictures(options.images, limit=1)[0], width, height)
        results = medians(picture, options.model, options.rounds, options.runs)
        table += [cells(picture, row, figures) for row, figures in zip(ROWS, results, strict=True)]
    progress(f"{options.rounds} rounds", last=True)
    header = ["picture", "backend", "threads", *COLUMNS.values()]

    from ulcodec.bench.machine import cpu_name  # imports torch, which would count as memory of the processes above

    print(cpu_name())
    show_table(header, table, options.markdown)


if __name__ == "__main__":
    main(sys.argv[1:])
