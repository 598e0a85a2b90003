"""Measures codecs on pictures: every codec at all its levels, and each at the size of ulcodec's files for the viewer.

Results are lines of JSON in `measurements.jsonl`, written as they come, so that a run that stops goes on where it was.
"""

import hashlib
import json
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from PIL import Image

from ulcodec.bench.peers import PEERS, Peer, Pixels
from ulcodec.bench.pictures import Picture
from ulcodec.metrics import MS_SSIM_MIN_SIDE, bits_per_pixel, ms_ssim, mse, psnr_db

OURS = "ulcodec"
OUR_LEVELS = tuple(range(0, 101, 10))
QUICK_STRIDE = 4
SEARCH_STEPS = 7


@dataclass(frozen=True)
class Job:
    """One codec at one level on one picture; with `n_bytes`, at the level whose file comes closest to that size.

    `model`, `device`: of ulcodec. `keep`: return the decoded picture too. `n_threads`: torch's, 0 for its own choice.
    """

    codec: str
    picture: Picture
    level: float = 0.0
    n_bytes: int | None = None
    model: str = "small"
    device: str = "auto"
    keep: bool = False
    n_threads: int = 0


@cache
def our_peer(model: str, device: str) -> Peer:
    """ulcodec as one of the codecs that are measured."""
    import ulcodec

    codec = ulcodec.load(model, device=device)
    return Peer(
        OURS,
        f"ulcodec {codec.name}",
        OUR_LEVELS,
        lambda pixels, level: codec.encode(pixels, quality=int(level)),
        lambda data, shape: codec.decode_array(data),
        lambda: f"ulcodec {ulcodec.__version__}, model {codec.name} ({codec.fingerprint})",
    )


def find_codec(job: Job) -> Peer:
    return our_peer(job.model, job.device) if job.codec == OURS else PEERS[job.codec]


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def timed(action: Callable[[], Any]) -> tuple[Any, float, float]:
    """Result, wall time and CPU time in milliseconds."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    result = action()
    return result, 1000 * (time.perf_counter() - wall), 1000 * (cpu_seconds() - cpu)


def level_of_size(peer: Peer, pixels: Pixels, n_bytes: int) -> float:
    """The level whose file comes closest to a size: bisection between the first and the last level."""
    whole = all(float(level).is_integer() for level in peer.levels)
    low, high = float(peer.levels[0]), float(peer.levels[-1])
    tried: dict[float, int] = {}

    def size(level: float) -> int:
        level = float(round(level)) if whole else level
        if level not in tried:
            tried[level] = len(peer.encode(pixels, level))
        return tried[level]

    for _ in range(SEARCH_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if size(middle) < n_bytes else (low, middle)
    for end in (low, high):
        size(end)
    return min(tried, key=lambda level: abs(tried[level] - n_bytes))


def ssimulacra2(original: Pixels, decoded: Pixels) -> float | None:
    """SSIMULACRA2 by the package of that name, None where it is not installed. Higher is better, 100 at most."""
    try:
        from ssimulacra2 import compute_ssimulacra2
    except ImportError:
        return None
    return float(compute_ssimulacra2(png_file(original), png_file(decoded)))


def png_file(pixels: Pixels) -> BytesIO:
    buffer = BytesIO()
    Image.fromarray(pixels).convert("RGB").save(buffer, "PNG", compress_level=1)
    buffer.seek(0)
    return buffer


def measure(job: Job) -> dict[str, Any]:
    """A row of the measurements; with `keep`, also the decoded pixels under "pixels"."""
    if job.n_threads:
        import torch

        torch.set_num_threads(job.n_threads)
    peer, pixels = find_codec(job), job.picture.pixels
    level = job.level if job.n_bytes is None else level_of_size(peer, pixels, job.n_bytes)
    data, encode_ms, encode_cpu_ms = timed(lambda: peer.encode(pixels, level))
    decoded, decode_ms, decode_cpu_ms = timed(lambda: peer.decode(data, pixels.shape))
    large = min(pixels.shape[:2]) >= MS_SSIM_MIN_SIDE
    row = {
        "codec": job.codec,
        "picture": job.picture.name,
        "level": level,
        "file_bytes": len(data),
        "bpp": bits_per_pixel(len(data), job.picture.width, job.picture.height),
        "psnr_db": psnr_db(pixels, decoded),
        "mse": mse(pixels, decoded),
        "ms_ssim": ms_ssim(pixels, decoded) if large else None,
        "ssimulacra2": ssimulacra2(pixels, decoded),
        "encode_ms": encode_ms,
        "encode_cpu_ms": encode_cpu_ms,
        "decode_ms": decode_ms,
        "decode_cpu_ms": decode_cpu_ms,
    }
    return {**row, "pixels": decoded} if job.keep else row


def jobs_of(codecs: Sequence[Peer], pictures: Sequence[Picture], *, quick: bool, template: Job) -> list[Job]:
    """Every codec at all its levels (`quick`: at every fourth and the last) on every picture."""
    found = []
    for codec in codecs:
        levels = codec.levels
        if quick:
            levels = tuple(dict.fromkeys((*levels[::QUICK_STRIDE], levels[-1])))
        found += [replace(template, codec=codec.key, picture=p, level=level) for level in levels for p in pictures]
    return found


def identity(job: Job, libraries: dict[str, str]) -> str:
    """What a measurement stands for: codec, its library, level, and the picture's samples."""
    pixels = hashlib.sha256(job.picture.pixels.tobytes()).hexdigest()
    parts = (job.codec, libraries[job.codec], job.level, job.picture.name, pixels, job.n_threads)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def measure_all(
    jobs: Sequence[Job], libraries: dict[str, str], journal: Path, n_processes: int, on_done: Callable[[], object]
) -> list[dict[str, Any]]:
    """Rows of all jobs, those from the journal included, in the order of the jobs."""
    done = read_journal(journal)
    names = [identity(job, libraries) for job in jobs]
    missing = [(name, job) for name, job in zip(names, jobs, strict=True) if name not in done]
    for _ in range(len(jobs) - len(missing)):
        on_done()
    with open(journal, "a") as handle:
        for name, row in in_processes(missing, n_processes):
            handle.write(json.dumps({"id": name, **row}) + "\n")
            handle.flush()
            done[name] = row
            on_done()
    return [done[name] for name in names]


def in_processes(jobs: Sequence[tuple[str, Job]], n_processes: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows as they come: from this process, or from so many others."""
    if n_processes == 1:
        yield from ((name, measure(job)) for name, job in jobs)
        return
    with ProcessPoolExecutor(n_processes, mp_context=get_context("spawn")) as pool:
        waiting: dict[Future[dict[str, Any]], str] = {pool.submit(measure, job): name for name, job in jobs}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def read_journal(path: Path) -> dict[str, dict[str, Any]]:
    """Measurements by what they stand for; a last line that was cut off is left out."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        found[row.pop("id")] = row
    return found


def our_level_at(picture: Picture, bpp: float, template: Job) -> float:
    """ulcodec's quality whose file comes closest to a rate."""
    return level_of_size(
        our_peer(template.model, template.device), picture.pixels, round(bpp * picture.width * picture.height / 8)
    )
