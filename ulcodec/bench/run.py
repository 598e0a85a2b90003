"""Measure rate and distortion of codecs on pictures: at all levels of a codec, or at the size of another codec's file.

Each result is written at once, as a line of JSON in `measurements.jsonl`, so that an interrupted run can continue.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from ulcodec import metrics
from ulcodec.bench.journal import measure_missing
from ulcodec.bench.ours import our_codec, our_peer
from ulcodec.bench.peers import OURS, PEERS, Peer, Pixels
from ulcodec.bench.perceptual import NETWORKS, distance, fid_of_patches
from ulcodec.bench.pictures import Picture
from ulcodec.codec.image import Codec
from ulcodec.codec.tensors import quality_tensor, to_padded_tensor
from ulcodec.diffusion.bound import latent_bound_nats
from ulcodec.diffusion.schedule import NATS_TO_BITS
from ulcodec.errors import MissingPackageError
from ulcodec.metrics import MS_SSIM_MIN_SIDE, SSIMULACRA2_MIN_SIDE, bits_per_pixel, ms_ssim, mse, psnr_db
from ulcodec.model.latent_diffusion import LatentDiffusion

QUICK_STRIDE = 4
SEARCH_STEPS = 7
SEARCH_TOLERANCE = 0.005
BOUND_LEVELS = 16


FIELDS = ("codec", "picture", "level", "file_bytes", "bpp", "psnr_db", "mse", "ms_ssim", "ssimulacra2", *NETWORKS,
          "bound_bits", "continuous_bound_bits")  # fmt: skip
"""Columns of the measurements; None for a figure that does not exist."""


@dataclass(frozen=True)
class Job:
    """One codec at one level on one picture; with `n_bytes`, at the level whose file is closest to that size.

    `model`, `device`, `effort`: of ulcodec. `perceptual`: measure distances by networks too. `keep`: return the decoded
    picture. `n_threads`: threads of torch, 0 for its default. `sizes`: known file sizes of this codec and picture by
    level.
    """

    codec: str
    picture: Picture
    level: float = 0.0
    n_bytes: int | None = None
    model: str = "small"
    device: str = "auto"
    effort: int | None = None
    perceptual: bool = False
    keep: bool = False
    n_threads: int = 0
    sizes: Mapping[float, int] = field(default_factory=dict)


def find_codec(job: Job) -> Peer:
    """The codec of a job."""
    return our_peer(job.model, job.device, job.effort) if job.codec == OURS else PEERS[job.codec]


def level_of_size(peer: Peer, pixels: Pixels, n_bytes: int, known_sizes: Mapping[float, int] | None = None) -> float:
    """Find the level of a peer whose file of a picture is closest to a size; see `nearest_level`."""
    return nearest_level(peer.levels, lambda level: len(peer.encode(pixels, level)), n_bytes, known_sizes)


def nearest_level(
    levels: Sequence[float],
    size_of: Callable[[float], int],
    n_bytes: int,
    known_sizes: Mapping[float, int] | None = None,
) -> float:
    """Find the level whose file is closest to a size, by bisection, starting from known sizes by level.

    `levels`: from small to large files; `size_of`: bytes of the file at a level.
    """
    are_whole = all(float(level).is_integer() for level in levels)
    sizes = dict(known_sizes or {})

    def size(level: float) -> int:
        if level not in sizes:
            sizes[level] = size_of(level)
        return sizes[level]

    low, high = float(levels[0]), float(levels[-1])
    below = [level for level in levels if level in sizes and sizes[level] < n_bytes]
    above = [level for level in levels if level in sizes and sizes[level] >= n_bytes]
    low, high = float(below[-1]) if below else low, float(above[0]) if above else high
    for end in (low, high):
        size(end)
    for _ in range(SEARCH_STEPS):
        middle = float(round((low + high) / 2)) if are_whole else (low + high) / 2
        if middle in (low, high) or min(abs(sizes[end] / n_bytes - 1) for end in (low, high)) < SEARCH_TOLERANCE:
            break
        low, high = (middle, high) if size(middle) < n_bytes else (low, middle)
    return min(sizes, key=lambda level: abs(sizes[level] - n_bytes))


def continuous_bound_bits(model: LatentDiffusion, x: torch.Tensor, quality: torch.Tensor) -> float:
    """Bound `KL[q(z_0 | x) || p(z_0)]` of a picture x [1, 3, H, W] or a clip [1, 3, T, H, W] at quality [1], in bits.

    As Unified Latents do, averaged over `BOUND_LEVELS` stratified noise levels, with the prior without the
    hyper-latent.
    """
    generator = torch.Generator(x.device).manual_seed(0)
    with torch.inference_mode():
        z = model.encode_clean(x, quality)
        z = z.expand(BOUND_LEVELS, *z.shape[1:])

        def denoise(z_t: torch.Tensor, log_snr: torch.Tensor) -> torch.Tensor:
            rows = range(BOUND_LEVELS)
            return torch.cat([model.denoise_latent(z_t[i : i + 1], log_snr[i : i + 1], quality) for i in rows])

        nats = latent_bound_nats(denoise, z, generator)
    return float(nats.mean()) * NATS_TO_BITS


def bounds(codec: Codec, pixels: Pixels, data: bytes, quality: int) -> dict[str, float]:
    """Bounds in bits: on the file's symbols under the float prior, and `continuous_bound_bits`."""
    x = to_padded_tensor(pixels, codec.device)
    return {
        "bound_bits": codec.describe(data)["bound_bits"],
        "continuous_bound_bits": continuous_bound_bits(codec.model, x, quality_tensor(quality, codec.device)),
    }


def ssimulacra2(original: Pixels, decoded: Pixels) -> float | None:
    """SSIMULACRA2, at most 100, higher is better; None without its package, or for a picture that is too small."""
    if min(original.shape[:2]) < SSIMULACRA2_MIN_SIDE:
        return None
    try:
        return metrics.ssimulacra2(original, decoded)
    except MissingPackageError:
        return None


def measure(job: Job) -> dict[str, Any]:
    """Run a job; return a row of measurements, with `keep` also the decoded pixels under "pixels"."""
    if job.n_threads:
        torch.set_num_threads(job.n_threads)
    peer, pixels = find_codec(job), job.picture.pixels
    level = job.level if job.n_bytes is None else level_of_size(peer, pixels, job.n_bytes, job.sizes)
    data = peer.encode(pixels, level)
    decoded = peer.decode(data, pixels.shape)
    is_large = min(pixels.shape[:2]) >= MS_SSIM_MIN_SIDE
    row: dict[str, Any] = {
        **dict.fromkeys(FIELDS),
        "codec": job.codec,
        "picture": job.picture.name,
        "level": level,
        "file_bytes": len(data),
        "bpp": bits_per_pixel(len(data), job.picture.width, job.picture.height),
        "psnr_db": psnr_db(pixels, decoded),
        "mse": mse(pixels, decoded),
        "ms_ssim": ms_ssim(pixels, decoded) if is_large else None,
        "ssimulacra2": ssimulacra2(pixels, decoded),
    }
    if job.perceptual:
        row |= {name: distance(name, pixels, decoded) for name in NETWORKS}
    if job.keep:
        return {**row, "pixels": decoded}
    if job.codec == OURS:
        row |= bounds(our_codec(job.model, job.device), pixels, data, int(level))
    return row


def jobs_of(codecs: Sequence[Peer], pictures: Sequence[Picture], *, quick: bool, template: Job) -> list[Job]:
    """List the jobs of every codec at all its levels (`quick`: every fourth, and the last) on every picture."""
    jobs = []
    for codec in codecs:
        levels = codec.levels
        if quick:
            levels = tuple(dict.fromkeys((*levels[::QUICK_STRIDE], levels[-1])))
        jobs += [replace(template, codec=codec.key, picture=p, level=level) for level in levels for p in pictures]
    return jobs


def identity(job: Job, libraries: dict[str, str]) -> str:
    """Identify a measurement: a hash of codec, library, level, and the picture's samples."""
    pixels = hashlib.sha256(job.picture.pixels.tobytes()).hexdigest()
    parts: tuple[object, ...] = (job.codec, libraries[job.codec], job.level, job.picture.name, pixels)
    parts += ("perceptual",) if job.perceptual else ()
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def measure_all(
    jobs: Sequence[Job], libraries: dict[str, str], journal: Path, n_processes: int, on_done: Callable[[], object]
) -> list[dict[str, Any]]:
    """Run all jobs that the journal lacks; return the rows of all jobs, in their order."""
    work = [(identity(job, libraries), job) for job in jobs]
    return measure_missing(work, lambda missing: in_processes(missing, n_processes), journal, FIELDS, on_done)


def in_processes(jobs: Sequence[tuple[str, Job]], n_processes: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run jobs in this process, or in `n_processes` others; yield rows as they finish."""
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


def add_fid(curves: Mapping[str, list[dict[str, Any]]], pictures: Sequence[Picture], template: Job) -> None:
    """Set `fid` in every point of the curves, from all pictures coded again. Raises AbsentError."""
    for codec, points in curves.items():
        peer = find_codec(replace(template, codec=codec))
        for point in points:
            level = point["level"]
            point["fid"] = fid_of_patches(
                (p.pixels, peer.decode(peer.encode(p.pixels, level), p.pixels.shape)) for p in pictures
            )


def known_sizes(rows: Sequence[Mapping[str, Any]], source: str) -> dict[tuple[str, str], dict[float, int]]:
    """File sizes by codec and source, and by level. `source`: the column that names the picture or clip."""
    sizes: dict[tuple[str, str], dict[float, int]] = {}
    for row in rows:
        sizes.setdefault((row["codec"], row[source]), {})[row["level"]] = row["file_bytes"]
    return sizes
