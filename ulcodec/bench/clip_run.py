"""Measure rate, distortion and speed of codecs on prepared clips, at all levels or at the size of another file."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, NamedTuple

import torch

import ulcodec
from ulcodec.bench.clip_peers import (
    CLIP_PEERS,
    VMAF_MIN_SIDE,
    VMAF_MODEL,
    ClipPeer,
    absent_vmaf,
    decode_clip,
    encode_clip,
    vmaf,
)
from ulcodec.bench.clips import Clip, Pixels, frames_of, joined, read_rgb, rounded, split, write_frames
from ulcodec.bench.journal import LEFT_OUT
from ulcodec.bench.machine import cpu_name, usable_cores
from ulcodec.bench.ours import our_codec
from ulcodec.bench.peers import OURS
from ulcodec.bench.run import nearest_level
from ulcodec.codec.clip_encoder import DEFAULT_GOP
from ulcodec.codec.image import Codec
from ulcodec.devices import choose_device
from ulcodec.errors import BenchmarkError
from ulcodec.metrics import MS_SSIM_MIN_SIDE, ms_ssim, psnr_db
from ulcodec.metrics.video import PlanePsnr, plane_psnr, to_yuv420

OURS_INTRA = "ulcodec-intra"
"""Key of ulcodec with intra frames alone."""
OWN_LEVELS: Mapping[str, tuple[int, ...]] = {
    OURS: (15, 30, 45, 60, 75),
    OURS_INTRA: (5, 15, 25, 35, 45, 55, 65, 75),
}
"""Qualities of ulcodec's curves."""
OWN_TITLES: Mapping[str, str] = {OURS: "ulcodec", OURS_INTRA: "ulcodec, intra"}
QUICK_STRIDE = 3
MAX_DB = 100.0
"""PSNR that a frame or a plane of a frame counts at most, also where it is exact."""
FRAME_MEASURES = ("yuv_psnr_db", "y_psnr_db", "psnr_db", "ms_ssim")
FIELDS = ("codec", "clip", "level", "file_bytes", "bpp", "kbps", *FRAME_MEASURES, "vmaf", "encode_fps", "decode_fps",
          LEFT_OUT)  # fmt: skip
"""Columns of the measurements; None for a figure that does not exist."""


@dataclass(frozen=True)
class ClipJob:
    """One codec at one level on one clip. `model`, `device`, `effort`, `gop`: of ulcodec."""

    codec: str
    clip: Clip
    level: float = 0.0
    model: str = "small"
    device: str = "auto"
    effort: int = 1
    gop: int = DEFAULT_GOP

    @property
    def title(self) -> str:
        """Name of the codec in reports."""
        return OWN_TITLES.get(self.codec) or CLIP_PEERS[self.codec].title

    @property
    def command(self) -> str:
        """The command line of the codec at any level."""
        if self.codec not in OWN_LEVELS:
            return CLIP_PEERS[self.codec].described()
        return f"ulcodec encode CLIP.mkv -q LEVEL --gop {self.own_gop} --effort {self.effort}"

    @property
    def own_gop(self) -> int:
        return 1 if self.codec == OURS_INTRA else self.gop


class Coded(NamedTuple):
    """A clip that was encoded and decoded: frames in 4:2:0, each uint8 [3 H / 2, W], and as RGB, each uint8 [H, W, 3].

    `n_bytes`: of the whole `.ulc` file, or of the elementary stream.
    """

    n_bytes: int
    encode_s: float
    decode_s: float
    yuv: list[Pixels]
    rgb: list[Pixels]


def code(job: ClipJob, folder: Path) -> Coded:
    """Encode and decode a clip. `folder`: for files, which are overwritten. Raises BenchmarkError."""
    if job.codec in OWN_LEVELS:
        return code_by_ulcodec(job)
    clip, peer = job.clip, CLIP_PEERS[job.codec]
    encoded = encode_clip(peer, clip, job.level, folder)
    yuv, decode_s = decode_clip(peer, clip, encoded.file)
    decoded = folder / "decoded.mkv"
    write_frames(decoded, yuv, clip.frame_rate, clip.matrix)
    return Coded(encoded.n_bytes, encoded.seconds, decode_s, yuv, read_rgb(decoded))


@lru_cache(maxsize=1)
def warm_codec(model: str, device: str, clip: Clip) -> Codec:
    """Load a model and code two frames of a clip, since the first frames of a size take longer."""
    codec = our_codec(model, device)
    data = b"".join(codec.encode_video(clip.file, duration_s=float(2 / clip.frame_rate)))
    for _ in codec.decode_video(data):
        pass
    return codec


def code_by_ulcodec(job: ClipJob) -> Coded:
    codec, clip = warm_codec(job.model, job.device, job.clip), job.clip
    start = perf_counter()
    data = b"".join(codec.encode_video(clip.file, quality=int(job.level), gop=job.own_gop, effort=job.effort))
    middle = perf_counter()
    rgb = [frame.pixels for frame in codec.decode_video(data)]
    decode_s = perf_counter() - middle
    yuv = [joined(rounded(to_yuv420(pixels, clip.matrix)), clip.width, clip.height) for pixels in rgb]
    return Coded(len(data), middle - start, decode_s, yuv, rgb)


def measure(job: ClipJob) -> dict[str, Any]:
    """Run a job; return a row of measurements, with the reason under `left_out` if the codec fails."""
    row: dict[str, Any] = {
        **dict.fromkeys(FIELDS),
        "codec": job.codec,
        "clip": job.clip.name,
        "level": job.level,
    }
    with TemporaryDirectory() as folder:
        try:
            coded = code(job, Path(folder))
            return row | figures(job.clip, coded, Path(folder))
        except BenchmarkError as error:
            return {**row, LEFT_OUT: str(error)}


def figures(clip: Clip, coded: Coded, folder: Path) -> dict[str, Any]:
    """Rate, distortion as means of the frames' own, and speed of a coded clip."""
    original = frames_of(clip)
    with ThreadPoolExecutor(usable_cores()) as pool:
        frames = list(pool.map(frame_measures, original.yuv, coded.yuv, original.rgb, coded.rgb))
    is_large = min(clip.width, clip.height) >= VMAF_MIN_SIDE
    return {
        "file_bytes": coded.n_bytes,
        "bpp": clip.bpp(coded.n_bytes),
        "kbps": 8 * coded.n_bytes * float(clip.frame_rate) / clip.n_frames / 1000,
        **{name: fmean(frame[name] for frame in frames) for name in frames[0]},
        "vmaf": vmaf_of(clip, coded.yuv, folder) if is_large and absent_vmaf() is None else None,
        "encode_fps": clip.n_frames / coded.encode_s,
        "decode_fps": clip.n_frames / coded.decode_s,
    }


def frame_measures(original: Pixels, decoded: Pixels, original_rgb: Pixels, decoded_rgb: Pixels) -> dict[str, float]:
    planes = PlanePsnr(*(min(plane_db, MAX_DB) for plane_db in plane_psnr(split(original), split(decoded))))
    rgb_db = min(psnr_db(original_rgb, decoded_rgb), MAX_DB)
    measures = {"yuv_psnr_db": planes.yuv, "y_psnr_db": planes.y, "psnr_db": rgb_db}
    if min(original_rgb.shape[:2]) >= MS_SSIM_MIN_SIDE:
        measures["ms_ssim"] = ms_ssim(original_rgb, decoded_rgb)
    return measures


def vmaf_of(clip: Clip, yuv: Sequence[Pixels], folder: Path) -> float:
    file = folder / "measured.mkv"
    write_frames(file, yuv, clip.frame_rate, clip.matrix)
    return vmaf(clip.file, file)


def jobs_of(peers: Sequence[ClipPeer], clips: Sequence[Clip], *, quick: bool, template: ClipJob) -> list[ClipJob]:
    """List the jobs of ulcodec and the peers on every clip, at all levels (`quick`: every third, and the last)."""
    levels: dict[str, tuple[int, ...]] = {**OWN_LEVELS, **{peer.key: peer.levels for peer in peers}}
    if quick:
        levels = {key: tuple(dict.fromkeys((*all_[::QUICK_STRIDE], all_[-1]))) for key, all_ in levels.items()}
    return [
        replace(template, codec=key, clip=clip, level=level)
        for clip in clips
        for key, of_codec in levels.items()
        for level in of_codec
    ]


def library_of(job: ClipJob) -> str:
    """Name and version of what codes a job. Raises AbsentError."""
    if job.codec not in OWN_LEVELS:
        return CLIP_PEERS[job.codec].library()
    codec = our_codec(job.model, job.device)
    fingerprint = codec.fingerprint_of_sequence(job.own_gop).hex()
    return f"ulcodec {ulcodec.__version__}, model {codec.name} ({fingerprint})"


def identity(job: ClipJob) -> str:
    """Identify a measurement: a hash of codec, library, command, level, the clip, the measures and the machine."""
    clip, vmaf_model = job.clip, None if absent_vmaf() else VMAF_MODEL
    source = clip.name, clip.sha256, str(clip.frame_rate), clip.matrix
    machine = str(choose_device(job.device)), cpu_name(), torch.get_num_threads()
    parts = job.codec, library_of(job), job.command, job.level, source, vmaf_model, machine
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def measured(work: Sequence[tuple[str, ClipJob]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measure jobs one after the other, since their times count."""
    yield from ((name, measure(job)) for name, job in work)


def code_at_size(
    job: ClipJob,
    n_bytes: int,
    folder: Path,
    known_sizes: Mapping[float, int] | None = None,
    levels: Sequence[int] | None = None,
) -> tuple[float, Coded]:
    """Code a clip with a peer at the level whose stream is closest to a size; return the level too.

    `known_sizes`: of streams by level; `levels`: the range of levels, by default that of the peer. Raises
    BenchmarkError.
    """
    peer = CLIP_PEERS[job.codec]

    def size(level: float) -> int:
        return encode_clip(peer, job.clip, level, folder).n_bytes

    level = nearest_level(levels or peer.levels, size, n_bytes, known_sizes)
    return level, code(replace(job, level=level), folder)
