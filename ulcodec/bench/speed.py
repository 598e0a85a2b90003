"""Measure time and memory of codecs: every operation on every size of picture in a new process.

    python -m ulcodec.bench.speed TASK

runs one `Task`, given as JSON, and prints the result of `work`.
"""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ulcodec.bench.peers import OURS, PEERS, Peer
from ulcodec.bench.pictures import Picture, fitted
from ulcodec.errors import BenchmarkError

ASPECT = 3 / 2
RUNS = 10
BUDGET_S = 2.0
LONGEST_S = 60.0
TIMEOUT_S = 600
MEMORY_SHARE = 0.8


@dataclass(frozen=True)
class Task:
    """One operation, "encode" or "decode", of one codec on one picture.

    `picture`: a .npy file, uint8 [H, W, 3] or [H, W]; `file`: written by encoding, read by decoding.
    """

    codec: str
    operation: str
    level: float
    picture: str
    file: str
    model: str
    device: str
    effort: int | None
    max_runs: int


def work(task: Task) -> dict[str, Any]:
    """Run the operation once, then within `BUDGET_S`, at most `max_runs` times.

    `first_at`: Unix time at the end of the first run. `wall_ms`, `cpu_ms`: median wall time and mean CPU time (with
    threads and child processes) of the later runs, or of the first run if it exceeds the budget. `peak_mib`: peak
    resident memory of this process, or of a child process if that is larger.
    """
    limit_memory()
    pixels = np.load(task.picture)
    action = operation_of(task, pixels)
    cpu_start, start = cpu_seconds(), time.perf_counter()
    result = action()
    walls, first_at = [time.perf_counter() - start], time.time()
    if task.operation == "encode":
        Path(task.file).write_bytes(result)
    if walls[0] < BUDGET_S:
        walls, cpu_start = [], cpu_seconds()
        while len(walls) < task.max_runs and sum(walls) < BUDGET_S:
            start = time.perf_counter()
            action()
            walls.append(time.perf_counter() - start)
    return {
        "first_at": first_at,
        "wall_ms": 1000 * median(walls),
        "cpu_ms": 1000 * (cpu_seconds() - cpu_start) / len(walls),
        "n_runs": len(walls),
        "peak_mib": peak_mib(),
    }


def operation_of(task: Task, pixels: np.ndarray) -> Callable[[], Any]:
    """The operation of a task as a function."""
    peer = task_codec(task)
    if task.operation == "encode":
        return lambda: peer.encode(pixels, task.level)
    data = Path(task.file).read_bytes()
    return lambda: peer.decode(data, pixels.shape)


def task_codec(task: Task) -> Peer:
    """The codec of a task. Peers run without torch, as they would in other programs."""
    if task.codec != OURS:
        return PEERS[task.codec]
    from ulcodec.bench.ours import our_peer

    return our_peer(task.model, task.device, task.effort)


def cpu_seconds() -> float:
    """CPU time of this process and of its finished children."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def limit_memory() -> None:
    """Limit the memory, so that a codec that needs too much fails alone."""
    try:
        import resource
    except ImportError:
        return
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    resource.setrlimit(resource.RLIMIT_DATA, (int(MEMORY_SHARE * total), resource.RLIM_INFINITY))


def peak_mib() -> float | None:
    """Peak memory, None if the system does not report it."""
    try:
        import resource

        lines = Path("/proc/self/status").read_text().splitlines()
    except (ImportError, OSError):
        return None
    process_kib = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return max(process_kib, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024


def size_of(megapixels: float) -> tuple[int, int]:
    """Width and height of a 3:2 picture of about a number of megapixels, multiples of 16."""
    height = 16 * max(1, round(math.sqrt(megapixels * 1e6 / ASPECT) / 16))
    return round(ASPECT * height / 16) * 16, height


def run_task(task: Task) -> dict[str, Any]:
    """Run `work` in a new process; `first_ms` since its start replaces `first_at`.

    Raises BenchmarkError with the last line that a failing process printed.
    """
    command = [sys.executable, "-m", "ulcodec.bench.speed", json.dumps(asdict(task))]
    started = time.time()
    try:
        finished = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise BenchmarkError(f"no end after {TIMEOUT_S} s") from error
    if finished.returncode:
        lines = finished.stderr.strip().splitlines()
        raise BenchmarkError(lines[-1] if lines else f"ended with {finished.returncode}")
    result: dict[str, Any] = json.loads(finished.stdout)
    first_ms = 1000 * (result.pop("first_at") - started)
    return {"first_ms": first_ms, **result}


def measure_speed(
    codecs: Sequence[tuple[Peer, float]],
    picture: Picture,
    megapixels: Sequence[float],
    model: str,
    device: str,
    effort: int | None,
    on_done: Callable[[], object],
    max_runs: int = RUNS,
) -> list[dict[str, Any]]:
    """Measure codecs, each at a level, on all sizes; return a row per codec and size.

    The picture is cropped or mirrored to each size. A size that would take longer than `LONGEST_S`, by the time per
    pixel of the size before, is skipped; `left_out` of its row gives the reason, also for a codec that fails.
    """
    rows = []
    s_per_px: dict[str, float] = {}
    with TemporaryDirectory() as folder:
        for size in sorted(megapixels):
            width, height = size_of(size)
            path, file = Path(folder) / "picture.npy", Path(folder) / "file"
            np.save(path, fitted(picture, width, height).pixels)
            for codec, level in codecs:
                row: dict[str, Any] = {"codec": codec.key, "width": width, "height": height, "level": level}
                tasks = [
                    Task(codec.key, operation, level, str(path), str(file), model, device, effort, max_runs)
                    for operation in ("encode", "decode")
                ]
                rows.append(row | measure_size(tasks, width * height, s_per_px))
                on_done()
    return rows


def measure_size(tasks: Sequence[Task], n_px: int, s_per_px: dict[str, float]) -> dict[str, Any]:
    """Run the tasks of a codec on one size, unless they would take too long; return their part of the row.

    `s_per_px`: slowest time per pixel so far by codec, which is updated; infinite after a failure.
    """
    codec = tasks[0].codec
    expected_s = s_per_px.get(codec, 0.0) * n_px
    if math.isinf(expected_s):
        return {"left_out": "failed on a smaller picture"}
    if expected_s > LONGEST_S:
        return {"left_out": f"would take {expected_s:.1f} s"}
    columns: dict[str, Any] = {}
    try:
        for task in tasks:
            measured = run_task(task)
            columns |= {f"{task.operation}_{name}": value for name, value in measured.items()}
            s_per_px[codec] = max(s_per_px.get(codec, 0.0), measured["wall_ms"] / 1000 / n_px)
        columns["file_bytes"] = Path(tasks[0].file).stat().st_size
    except BenchmarkError as error:
        columns["left_out"] = str(error)
        s_per_px[codec] = math.inf
    return columns


if __name__ == "__main__":
    print(json.dumps(work(Task(**json.loads(sys.argv[1])))))
