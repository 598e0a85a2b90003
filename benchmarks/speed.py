"""Time encoding and decoding of one picture through the API, stage by stage.

`benchmarks/README.md` defines every field of the report.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image

import ulcodec
from benchmarks.products import cells, header, product_rows
from benchmarks.report import progress, write_text
from benchmarks.timing import stopwatch
from ulcodec.bench.machine import run_record
from ulcodec.bench.pictures import Picture, find_pictures, fitted
from ulcodec.bench.tables import text_table, to_json
from ulcodec.codec.image import latent_grid
from ulcodec.codec.realism import Realism
from ulcodec.codec.refiner import refine_once
from ulcodec.codec.tiling import synthesise
from ulcodec.coding.latents import LatentCoder, decode_latent, encode_latent
from ulcodec.format.container import Container

WIDTH, HEIGHT = 768, 512
COLD_RUNS = 7
USAGE_ERROR = 2
REALISM_STEPS = (1, 4, 8)


class TimedPrior:
    """Wraps a model's integer prior and adds up the time spent in it."""

    def __init__(self, prior: Any, device: torch.device) -> None:
        self.prior, self.timed_on = prior, device
        self.elapsed_ms = 0.0

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.prior, name)
        return self.timed(attribute) if callable(attribute) else attribute

    def __call__(self, *arguments: Any) -> Any:
        return self.timed(self.prior)(*arguments)

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            result, elapsed_ms = stopwatch(self.timed_on, function, *arguments)
            self.elapsed_ms += elapsed_ms
            return result

        return run


def time_once(codec: ulcodec.Codec, picture: Picture, quality: int) -> dict[str, float]:
    """Time encoding, decoding and their stages once, in milliseconds."""
    file, encode_ms = stopwatch(codec.device, lambda: codec.encode(picture.pixels, quality=quality))
    _, decode_ms = stopwatch(codec.device, codec.decode_array, file)
    return {
        "encode": encode_ms,
        **encode_stages(codec, picture, quality),
        "decode": decode_ms,
        **decode_stages(codec, file),
        **other_decodes(codec, file),
    }


def other_decodes(codec: ulcodec.Codec, file: bytes) -> dict[str, float]:
    """Time other ways of decoding the file: thumbnail, and samples if the model has a denoiser."""
    _, thumbnail_ms = stopwatch(codec.device, codec.thumbnail, file)
    times = {"decode: thumbnail": thumbnail_ms}
    for n_steps in REALISM_STEPS if codec.has_denoiser else ():
        drawn = stopwatch(codec.device, lambda n=n_steps: codec.decode_array(file, realism=Realism(1, n)))
        times[f"decode: realism, {n_steps} steps"] = drawn[1]
    return times


def encode_stages(codec: ulcodec.Codec, picture: Picture, quality: int) -> dict[str, float]:
    (y, hyper), analysis_ms = stopwatch(codec.device, codec.analyse, picture.pixels, quality)
    times = {"encode: analysis network": analysis_ms}
    if codec.has_refiner:
        refined = stopwatch(codec.device, lambda: refine_once(codec, [picture.pixels], y[None], hyper[None], quality))
        [y], times["encode: refiner"] = refined
    prior: Any = TimedPrior(codec.coder.prior, codec.device)
    coder = LatentCoder(prior, codec.coder.tables)
    _, coding_ms = stopwatch(codec.device, encode_latent, coder, y, hyper, quality)
    return {
        **times,
        "encode: prior": prior.elapsed_ms,
        "encode: entropy coder": coding_ms - prior.elapsed_ms,
    }


def decode_stages(codec: ulcodec.Codec, file: bytes) -> dict[str, float]:
    container = Container.from_bytes(file)
    grid = latent_grid(container)
    prior: Any = TimedPrior(codec.coder.prior, codec.device)
    coder = LatentCoder(prior, codec.coder.tables)
    segments, check, quality = container.segments, container.symbol_check, container.header.quality
    decoded, coding_ms = stopwatch(codec.device, decode_latent, coder, segments, check, quality, grid)
    _, synthesis_ms = stopwatch(codec.device, synthesise, codec.networks, [decoded], [container.header])
    return {
        "decode: prior": prior.elapsed_ms,
        "decode: entropy coder": coding_ms - prior.elapsed_ms,
        "decode: synthesis network": synthesis_ms,
    }


def time_stages(codec: ulcodec.Codec, picture: Picture, quality: int, n_runs: int) -> list[dict[str, Any]]:
    """Rows by stage: statistics of `n_runs` runs after a warm-up."""
    time_once(codec, picture, quality)
    runs = []
    for run in range(n_runs):
        progress(f"run {run + 1} of {n_runs}")
        runs.append(time_once(codec, picture, quality))
    return [statistics_row(stage, [run[stage] for run in runs]) for stage in runs[0]]


def statistics_row(stage: str, times_ms: Sequence[float]) -> dict[str, Any]:
    return {"stage": stage, "median_ms": median(times_ms), "min_ms": min(times_ms), "max_ms": max(times_ms)}


def time_cold_starts(picture: Picture, quality: int, model: str, n_threads: int) -> list[dict[str, Any]]:
    """Rows by command: each run is a whole process of the command line, from start to exit."""
    with tempfile.TemporaryDirectory() as folder:
        original, coded, decoded = (Path(folder) / name for name in ("picture.png", "picture.ulc", "decoded.png"))
        Image.fromarray(picture.pixels).save(original)
        encode: list[str | Path] = ["encode", original, "-o", coded, "--model", model]
        commands: dict[str, tuple[list[str | Path], int]] = {
            "ulcodec encode": ([*encode, "-q", str(quality), "--force"], 0),
            "ulcodec decode": (["decode", coded, "-o", decoded, "--model", model, "--force"], 0),
            "ulcodec info": (["info", coded], 0),
            "ulcodec verify": (["verify", coded], 0),
            "ulcodec --help": (["--help"], 0),
            "ulcodec encode, output exists": (encode, USAGE_ERROR),
        }
        return [cold_row(name, arguments, code, n_threads) for name, (arguments, code) in commands.items()]


def cold_row(name: str, arguments: Sequence[str | Path], code: int, n_threads: int) -> dict[str, Any]:
    progress(f"cold start: {name}")
    cpu = torch.device("cpu")
    return statistics_row(name, [stopwatch(cpu, run_command, arguments, code, n_threads)[1] for _ in range(COLD_RUNS)])


def run_command(arguments: Sequence[str | Path], code: int, n_threads: int) -> None:
    """Run the command line. Exits if its exit code is not `code`."""
    command = [sys.executable, "-m", "ulcodec_cli", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": str(n_threads)}
    finished = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if finished.returncode != code:
        sys.exit(f"error: {' '.join(map(str, command))}: exit code {finished.returncode}\n{finished.stderr}")


def picture_record(picture: Picture, quality: int, file_bytes: int, n_runs: int) -> dict[str, Any]:
    return {
        "picture": picture.name,
        "width": picture.width,
        "height": picture.height,
        "quality": quality,
        "file_bytes": file_bytes,
        "n_runs": n_runs,
    }


def printed(report: dict[str, Any]) -> str:
    rows = [
        [row["stage"], *(f"{row[column]:.1f}" for column in ("median_ms", "min_ms", "max_ms"))]
        for row in [*report["stages"], *report["cold_starts"]]
    ]
    products = report["products"]
    run, picture = report["run"], report["picture"]
    return (
        f"{picture['picture']} at {picture['width']}x{picture['height']}, quality {picture['quality']}, "
        f"{picture['file_bytes']} bytes; model {run['model']}, {run['network_dtype']}, {run['torch_threads']} threads, "
        f"{run['cpu']}\n" + text_table(["stage", "median ms", "min ms", "max ms"], rows)
    ) + ("\n" + text_table(header(products), [cells(row) for row in products]) if products else "")


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__.splitlines()[0])
    result.add_argument("--images", type=Path, help="folder; its first picture is used (default: a sample picture)")
    result.add_argument("--model", default="small", help="name of a model, or a model directory")
    result.add_argument("--device", default="auto", help="auto, cpu, cuda")
    result.add_argument("--quality", type=int, default=50, help="0 to 100")
    result.add_argument("--width", type=int, default=WIDTH, help="the picture is cropped, or mirrored, to this size")
    result.add_argument("--height", type=int, default=HEIGHT)
    result.add_argument("--runs", type=int, default=10, help="timed runs, after one that warms up")
    result.add_argument("--threads", type=int, default=2, help="threads of torch")
    result.add_argument("--cold-start", action="store_true", help="time whole processes of the command line too")
    result.add_argument(
        "--products", action="store_true", help="time every way of multiplying, under limits on instruction sets"
    )
    result.add_argument("-o", "--output", type=Path, help="write the report here as JSON")
    return result


def main(arguments: Sequence[str]) -> None:
    options = parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        picture = fitted(find_pictures(options.images, limit=1)[0], options.width, options.height)
        codec = ulcodec.load(options.model, device=options.device)
    except (OSError, ulcodec.UlcError) as error:
        sys.exit(f"error: {error}")
    quality = options.quality
    stages = time_stages(codec, picture, quality, options.runs)
    products = list(product_rows(options.model)) if options.products else []
    cold_starts = time_cold_starts(picture, quality, options.model, options.threads) if options.cold_start else []
    progress(f"{options.runs} runs timed", last=True)
    file_bytes = len(codec.encode(picture.pixels, quality=quality))
    report = {
        "run": run_record(["python", "-m", "benchmarks.speed", *arguments], codec),
        "picture": picture_record(picture, quality, file_bytes, options.runs),
        "stages": stages,
        "products": products,
        "cold_starts": cold_starts,
    }
    print(printed(report))
    if options.output:
        write_text(options.output, to_json(report))


if __name__ == "__main__":
    main(sys.argv[1:])
