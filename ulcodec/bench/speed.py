"""Time and memory of codecs: each operation on each size of picture in a process of its own.

    python -m ulcodec.bench.speed TASK

runs one `Task`, given as JSON, and prints what `measure_task` returns.
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

    `picture`: a .npy file, uint8 [H, W, 3] or [H, W]; `file`: what encoding writes and decoding reads.
    """

    codec: str
    operation: str
    level: float
    picture: str
    file: str
    model: str
    device: str
    effort: int
    max_runs: int


def work(task: Task) -> dict[str, Any]:
    """Run the operation once, then as often as fits `BUDGET_S`, `max_runs` times at most.

    `first_at`: Unix time at the end of the first run. `wall_ms`, `cpu_ms`: median wall time and mean CPU time (threads
    and child processes included) of the later runs, of the first if it alone took longer than the budget. `peak_mib`:
    most resident memory of this process, or of a child process if that is more.
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
    peer = task_codec(task)
    if task.operation == "encode":
        return lambda: peer.encode(pixels, task.level)
    data = Path(task.file).read_bytes()
    return lambda: peer.decode(data, pixels.shape)


def task_codec(task: Task) -> Peer:
    """Peers come without torch, as they would in a program of their own."""
    if task.codec != OURS:
        return PEERS[task.codec]
    from ulcodec.bench.ours import our_peer

    return our_peer(task.model, task.device, task.effort)


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def limit_memory() -> None:
    """A codec that wants more than the machine has fails alone."""
    try:
        import resource
    except ImportError:
        return
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    resource.setrlimit(resource.RLIMIT_DATA, (int(MEMORY_SHARE * total), resource.RLIM_INFINITY))


def peak_mib() -> float | None:
    """None where the system does not tell."""
    try:
        import resource

        lines = Path("/proc/self/status").read_text().splitlines()
    except (ImportError, OSError):
        return None
    own_kib = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return max(own_kib, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024


def size_of(megapixels: float) -> tuple[int, int]:
    """Width and height of about so many million pixels, 3:2, in multiples of 16."""
    height = 16 * max(1, round(math.sqrt(megapixels * 1e6 / ASPECT) / 16))
    return round(ASPECT * height / 16) * 16, height


def run_task(task: Task) -> dict[str, Any]:
    """What `work` gives in a new process; in place of `first_at`, `first_ms` since the start of that process.

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
    effort: int,
    on_done: Callable[[], object],
    max_runs: int = RUNS,
) -> list[dict[str, Any]]:
    """A row a codec (each with its level) and size; the picture is cropped, or continued by its mirror image, to it.

    A size that would take longer than `LONGEST_S`, by the last size's time for a pixel, is left out, and its row says
    so in `left_out`, as does that of a codec that fails there.
    """
    rows = []
    slowest: dict[str, float] = {}
    with TemporaryDirectory() as folder:
        for size in sorted(megapixels):
            width, height = size_of(size)
            path, file = Path(folder) / "picture.npy", Path(folder) / "file"
            np.save(path, fitted(picture, width, height).pixels)
            n_px = width * height
            for codec, level in codecs:
                row: dict[str, Any] = {"codec": codec.key, "width": width, "height": height, "level": level}
                expected_s = slowest.get(codec.key, 0.0) * n_px
                if expected_s > LONGEST_S:
                    endless = math.isinf(expected_s)
                    reason = "failed on a smaller picture" if endless else f"would take {expected_s:.1f} s"
                    rows.append({**row, "left_out": reason})
                    on_done()
                    continue
                try:
                    for operation in ("encode", "decode"):
                        task = Task(codec.key, operation, level, str(path), str(file), model, device, effort, max_runs)
                        measured = run_task(task)
                        row |= {f"{operation}_{name}": value for name, value in measured.items()}
                        slowest[codec.key] = max(slowest.get(codec.key, 0.0), measured["wall_ms"] / 1000 / n_px)
                    row["file_bytes"] = file.stat().st_size
                except BenchmarkError as error:
                    row["left_out"] = str(error)
                    slowest[codec.key] = math.inf
                rows.append(row)
                on_done()
    return rows


if __name__ == "__main__":
    print(json.dumps(work(Task(**json.loads(sys.argv[1])))))
