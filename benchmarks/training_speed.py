"""Measure the throughput of stage 1 in crops per second, and the parts of a step, by batch size.

`benchmarks/README.md` defines every field of the report.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.report import progress, write_text
from benchmarks.timing import stopwatch
from ulcodec.bench.complexity import describe
from ulcodec.bench.machine import run_record
from ulcodec.bench.tables import decimals, text_table, to_json
from ulcodec.errors import UlcError
from ulcodec.model.build import build_model
from ulcodec.model.config import ModelConfig
from ulcodec.model.presets import preset
from ulcodec.train.data.pictures import PictureSet, pack
from ulcodec.train.data.training_set import augmented
from ulcodec.train.graphs import WARM_UP_STEPS, GraphedStep, own_stream
from ulcodec.train.loop import Loop
from ulcodec.train.optimizers import OPTIMIZERS
from ulcodec.train.settings import ObjectiveSettings, Stage1Settings
from ulcodec.train.soap import Soap
from ulcodec.train.stage1 import Stage1Step
from ulcodec.train.workers import begin, without_denormals

PICTURE_PX, N_PICTURES = 768, 16
N_ROUNDS = 3

Part = Callable[[], object]


def noise_pictures(device: torch.device) -> PictureSet:
    """Make pictures of noise: the time does not depend on their pixels."""
    generator = torch.Generator().manual_seed(0)
    shape = (N_PICTURES, PICTURE_PX, PICTURE_PX, 3)
    pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return pack(list(pixels.numpy())).to(device)


def gflop_per_crop(config: ModelConfig, crop_px: int) -> float:
    """Operations of forward and backward pass: as three forward passes, two operations per multiplication.

    The continuous-time bound runs the prior once more, for a part of the crops.
    """
    kmac = {row["part"]: row["kmac_per_px"] for row in describe(config)}
    kmac["prior"] *= 1 + 1 / ObjectiveSettings().subset  # the continuous bound
    return 6e-6 * crop_px**2 * float(sum(cost for part, cost in kmac.items() if not part.startswith("denoiser")))


def median_ms(device: torch.device, part: Part, n_runs: int, calls: int = 1) -> float:
    """Median milliseconds per call of a part, with the device idle before and after `calls` calls."""
    return median(stopwatch(device, lambda: [part() for _ in range(calls)])[1] / calls for _ in range(n_runs))


def gradients_only(loop: Loop, step: Stage1Step) -> Part:
    """Loss and gradients of a step without the optimiser, as a CUDA graph if the loop has one."""

    def measure() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss, metrics = step.draw()
        loop.state.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach(), metrics

    return GraphedStep(measure, step.generator).replay if loop.optimise.graph is not None else measure


def renew_all(optimizer: Soap) -> None:
    """Update all bases, at any step."""
    for stack in optimizer.stacks:
        stack.n_steps += optimizer.interval - 1 - stack.n_steps % optimizer.interval
    optimizer.renew()


@without_denormals()
def time_batch(settings: Stage1Settings, device: torch.device, n_steps: int, gflop: float) -> dict[str, Any]:
    """Measure a row of the report: `n_steps` steps after the warm-up. `gflop`: operations per crop."""
    config = preset(settings.config)
    assert isinstance(config, ModelConfig)  # what the objective asks for: see Stage1Settings.check
    model = build_model(config).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    pictures = augmented(noise_pictures(device), settings)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with TemporaryDirectory() as folder, own_stream(device):
        loop = Loop(model, Path(folder), settings.loop_settings(), settings.resolved())
        step = Stage1Step(model, lambda n_images: pictures, settings)
        start_ms = median_ms(device, lambda: [loop.step(step) for _ in range(WARM_UP_STEPS)], 1)
        step_ms = median_ms(device, lambda: loop.step(step), N_ROUNDS, n_steps)
        renewal_ms = None
        if isinstance(loop.state.optimizer, Soap):
            renewal_ms = median_ms(device, partial(renew_all, loop.state.optimizer), N_ROUNDS)
        gradients_ms = median_ms(device, gradients_only(loop, step), N_ROUNDS, n_steps)
        draw = partial(pictures.random_crops, settings.batch_size, settings.crop_px, torch.Generator(device))
        crops_ms = median_ms(device, draw, N_ROUNDS, n_steps)
    return {
        "batch": settings.batch_size,
        "crops_per_s": 1000 * settings.batch_size / step_ms,
        "tflop_per_s": gflop * settings.batch_size / step_ms,
        "step_ms": step_ms,
        "gradients_ms": gradients_ms,
        "crops_ms": crops_ms,
        "renewal_ms": renewal_ms,
        "start_s": start_ms / 1000,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None,
    }


def printed(report: dict[str, Any]) -> str:
    header = ["batch", "crops/s", "TFLOP/s", "step ms", "gradients ms", "crops ms", "renewal ms", "start s", "peak GB"]
    rows = [
        [str(row["batch"])]
        + [decimals(row[name], 1) for name in ("crops_per_s", "tflop_per_s", "step_ms", "gradients_ms", "crops_ms")]
        + [decimals(row["renewal_ms"], 1), decimals(row["start_s"], 1), decimals(row["peak_gb"], 1)]
        for row in report["rows"]
    ]
    run = report["run"]
    place = run["cpu"] if run["device"] == "cpu" else run["device"]
    return f"{report['config']}, {report['optimizer']}, {run['torch_threads']} threads, {place}\n" + text_table(
        header, rows
    )


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(prog="python -m benchmarks.training_speed", description=__doc__.splitlines()[0])
    result.add_argument("--config", default="small", help="model configuration")
    result.add_argument("--batch-sizes", type=int, nargs="+", default=[8], help="crops a step, a row each")
    result.add_argument("--crop", type=int, default=256, help="side of the crops in pixels")
    result.add_argument("--reduction", type=float, help="largest random reduction of crops, as for training")
    result.add_argument("--turns", action="store_true", help="crops in all orientations")
    result.add_argument("--optimizer", choices=sorted(OPTIMIZERS), default="soap")
    result.add_argument("--steps", type=int, default=10, help="timed at a stretch, three times")
    result.add_argument("--device", default="auto", help="auto, cpu, cuda")
    result.add_argument("--threads", type=int, default=2, help="threads of torch")
    result.add_argument("--no-compile", action="store_true", help="on GPUs, without torch.compile and CUDA graphs")
    result.add_argument("-o", "--output", type=Path, help="write the report here as JSON")
    return result


def main(arguments: Sequence[str]) -> None:
    options = parser().parse_args(arguments)
    settings = Stage1Settings(
        data=(),
        out=Path(),
        config=options.config,
        n_images=10**9,
        crop_px=options.crop,
        optimizer=options.optimizer,
        reduction=options.reduction,
        turns=options.turns,
        compile=not options.no_compile,
    )
    try:
        settings.check()
        _, device = begin(options.device, 1, options.threads, settings.seed)
    except UlcError as error:
        sys.exit(f"error: {error}")
    config = preset(options.config)
    if not isinstance(config, ModelConfig):
        sys.exit(f"error: configuration {options.config!r} is not a codec's")
    gflop, rows = gflop_per_crop(config, options.crop), []
    for batch_size in options.batch_sizes:
        progress(f"{batch_size} crops a step")
        rows.append(time_batch(replace(settings, batch_size=batch_size), device, options.steps, gflop))
    progress(f"{len(rows)} batch sizes timed", last=True)
    report = {
        "run": run_record(["python", "-m", "benchmarks.training_speed", *arguments], device=device),
        "config": options.config,
        "optimizer": options.optimizer,
        "crop_px": options.crop,
        "gflop_per_crop": gflop,
        "rows": rows,
    }
    print(printed(report))
    if options.output:
        write_text(options.output, to_json(report))


if __name__ == "__main__":
    main(sys.argv[1:])
