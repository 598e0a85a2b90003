"""Measure the integer products under limits on instruction sets: exactness, time, and the choice.

    python -m benchmarks.products --markdown TABLE

`benchmarks.speed --products` prints the same table. Each row is a new process, since libraries read their limits when
they are loaded.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
WIDTH, HEIGHT, QUALITY, RUNS, BUDGET_MS = 768, 512, 50, 7, 6000.0
THREADS = (1, 2)

LIMITS: dict[str, dict[str, str]] = {
    "none": {},
    "AVX-512, VNNI, bfloat16": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
    "AVX-512, VNNI": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"},
    "AVX-512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "SSE4": {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
}
"""Environment that limits oneDNN, and in the last two also ATen and MKL, to the named instruction set."""


def measure(model: str, n_threads: int) -> dict[str, Any]:
    """Run one process: the chosen product, and milliseconds of all passes of the prior for each exact one."""
    import torch

    import ulcodec
    from benchmarks.timing import stopwatch
    from ulcodec.bench.pictures import find_pictures, fitted
    from ulcodec.codec.image import latent_grid
    from ulcodec.coding.integer_prior import IntegerPrior
    from ulcodec.coding.latents import FILE_PASSES, next_parameters
    from ulcodec.coding.products import PRODUCTS, is_exact
    from ulcodec.format.container import Container
    from ulcodec.store.model_directory import open_model

    torch.set_num_threads(n_threads)
    device, stored = torch.device("cpu"), open_model(model)
    picture = fitted(find_pictures(None, limit=1)[0], WIDTH, HEIGHT)
    codec = ulcodec.load(model, device="cpu")
    container = Container.from_bytes(codec.encode(picture.pixels, quality=QUALITY))
    grid, decoded = latent_grid(container), codec.decode_latents(container)
    y_16 = decoded.y_16.reshape(1, *grid, -1)

    def walk(prior: IntegerPrior) -> None:
        state = prior.begin(decoded.hyper_16, QUALITY, grid)
        for _ in FILE_PASSES:
            next_parameters(prior, y_16, state)

    times: dict[str, float | None] = {}
    for name in PRODUCTS:
        times[name] = None
        if is_exact(name, device):
            prior = IntegerPrior(stored.config, stored.coding, device, name)
            first_ms = stopwatch(device, walk, prior)[1]
            n_runs = RUNS if RUNS * first_ms < BUDGET_MS else int(first_ms < BUDGET_MS)
            times[name] = median([stopwatch(device, walk, prior)[1] for _ in range(n_runs)] or [first_ms])
    return {"chosen": codec.coder.prior.product, "prior_ms": times}


def product_rows(model: str, limits: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Rows by limit and number of threads, with the result of `measure`."""
    for limit in limits or LIMITS:
        for n_threads in THREADS:
            command = [sys.executable, "-m", "benchmarks.products", "--worker", str(n_threads), "--model", model]
            environment = os.environ | LIMITS[limit] | {"OMP_NUM_THREADS": str(n_threads)}
            finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT, env=environment)
            yield {"limit": limit, "threads": n_threads, **json.loads(finished.stdout.splitlines()[-1])}


def cells(row: dict[str, Any]) -> list[str]:
    times = ["not exact" if ms is None else f"{ms:.1f}" for ms in row["prior_ms"].values()]
    return [row["limit"], str(row["threads"]), *times, row["chosen"]]


def header(rows: Sequence[dict[str, Any]]) -> list[str]:
    return ["instruction sets up to", "threads", *(f"{name}, ms" for name in rows[0]["prior_ms"]), "chosen"]


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.products", description=str(__doc__).splitlines()[0])
    parser.add_argument("--model", default="small", help="name of a model, or a model directory")
    parser.add_argument("--limits", nargs="+", choices=LIMITS, metavar="NAME", help="only these rows")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        print(json.dumps(measure(options.model, options.worker)))
        return

    from benchmarks.report import show_table
    from ulcodec.bench.machine import cpu_name

    rows = list(product_rows(options.model, options.limits))
    table = header(rows), [cells(row) for row in rows]
    print(cpu_name())
    show_table(*table, options.markdown)


if __name__ == "__main__":
    main(sys.argv[1:])
