"""Video codecs that people use today, run through the ffmpeg of imageio-ffmpeg, one thread each; and VMAF.

The commands are those of the reports. `ClipPeer.library` raises `AbsentError` for an encoder that is not installed.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ulcodec.bench.clips import PIXEL_FORMAT, Clip, Pixels
from ulcodec.bench.peers import AbsentError, ffmpeg_library, ffmpeg_log, run_ffmpeg
from ulcodec.errors import BenchmarkError

ANCHOR = "x264-medium"
"""The codec to which BD-rates of all others refer."""
QUICK = (ANCHOR, "x265-medium", "svtav1-p6")
"""Codecs of a quick benchmark."""
CRFS, QPS, AV1_CRFS = (42, 38, 34, 30, 26, 22, 18), (42, 37, 32, 27, 22), (63, 56, 48, 40, 32, 24)
HIGH_DEPTH = "yuv420p10le"
MIN_CLOCK_S = 0.001
"""Resolution of ffmpeg's clock."""
VMAF_MODEL = "vmaf_v0.6.1"
VMAF_MIN_SIDE = 32


@dataclass(frozen=True)
class ClipPeer:
    """An encoder of ffmpeg whose settings are fixed, except its rate.

    `key`: name on the command line; `title`: name in reports; `stream`: ffmpeg's name of the elementary stream;
    `level`: the option that sets the rate; `levels`: its values, from small to large files; `is_default`: measured
    unless codecs are chosen; `pixel_format`: of the coded samples.
    """

    key: str
    title: str
    encoder: str
    options: tuple[str, ...]
    stream: str
    levels: tuple[int, ...] = CRFS
    level: str = "-crf"
    is_default: bool = True
    pixel_format: str = PIXEL_FORMAT

    def command(self, source: str, level: str, target: str) -> list[str]:
        """Arguments of ffmpeg that encode a prepared clip as an elementary stream."""
        rate = [self.level, level, "-threads", "1"]
        samples = ["-pix_fmt", self.pixel_format, "-fps_mode", "passthrough"]
        return ["-threads", "1", "-i", source, *samples, "-c:v", self.encoder, *self.options, *rate,
                "-f", self.stream, target]  # fmt: skip

    def described(self) -> str:
        """The command line of a report."""
        return " ".join(["ffmpeg", *self.command("CLIP.mkv", "LEVEL", f"CLIP.{self.stream}")])

    def library(self) -> str:
        """Name and version of the encoder. Raises AbsentError."""
        return ffmpeg_library(self.encoder)()


class Encoded(NamedTuple):
    """An elementary stream, its size, and the time that it took."""

    file: Path
    n_bytes: int
    seconds: float


def x264(key: str, title: str, *options: str, level: str = "-crf", is_default: bool = True) -> ClipPeer:
    """A setting of x264. Its version string, an SEI message, is removed."""
    without_version = ("-bsf:v", "filter_units=remove_types=6")
    return ClipPeer(
        key, f"H.264 ({title})", "libx264", (*options, *without_version), "h264", level=level, is_default=is_default
    )


def x265(
    key: str, title: str, preset: str, options: str = "", level: str = "-crf", is_default: bool = True
) -> ClipPeer:
    parameters = f"log-level=error:info=0:pools=none:frame-threads=1{options}"
    settings = ("-preset", preset, "-x265-params", parameters)
    return ClipPeer(key, f"HEVC ({title})", "libx265", settings, "hevc", level=level, is_default=is_default)


def av1(key: str, title: str, encoder: str, *options: str) -> ClipPeer:
    return ClipPeer(key, f"AV1 ({title})", encoder, options, "obu", AV1_CRFS)


def vvenc(key: str, preset: str) -> ClipPeer:
    settings = ("-preset", preset, "-qpa", "0")
    return ClipPeer(key, f"VVC (VVenC {preset})", "libvvenc", settings, "vvc", QPS, "-qp", pixel_format=HIGH_DEPTH)


def all_peers() -> list[ClipPeer]:
    medium, no_b_frames, intra = ("-preset", "medium"), ("-bf", "0"), ("-g", "1")
    return [
        x264(ANCHOR, "x264 medium", *medium),
        x264("x264-slow", "x264 slow", "-preset", "slow"),
        x264("x264-medium-psnr", "x264 medium, tune psnr", *medium, "-tune", "psnr"),
        x264("x264-medium-ld", "x264 medium, low delay", *medium, *no_b_frames),
        x265("x265-medium", "x265 medium", "medium"),
        x265("x265-slow", "x265 slow", "slow"),
        x265("x265-medium-ld", "x265 medium, low delay", "medium", ":bframes=0"),
        av1("svtav1-p6", "SVT-AV1 preset 6", "libsvtav1", "-preset", "6", "-svtav1-params", "lp=1"),
        av1("svtav1-p6-ld", "SVT-AV1 preset 6, low delay", "libsvtav1", "-preset", "6",
            "-svtav1-params", "lp=1:pred-struct=1"),
        av1("libaom-s6", "libaom speed 6", "libaom-av1", "-cpu-used", "6", "-b:v", "0"),
        vvenc("vvenc-medium", "medium"),
        x264("x264-medium-intra", "x264 medium, intra", *medium, *intra, is_default=False),
        x264("x264-medium-intra-qp", "x264 medium, intra, constant QP", *medium, *intra, "-tune", "psnr",
             level="-qp", is_default=False),
        x265("x265-medium-intra", "x265 medium, intra", "medium", ":keyint=1", is_default=False),
        x265("x265-medium-intra-qp", "x265 medium, intra, constant QP", "medium", ":keyint=1",
             level="-qp", is_default=False),
    ]  # fmt: skip


CLIP_PEERS: dict[str, ClipPeer] = {peer.key: peer for peer in all_peers()}
"""All peers by key."""


def encode_clip(peer: ClipPeer, clip: Clip, level: float, folder: Path) -> Encoded:
    """Encode a clip to an elementary stream in a folder. Raises BenchmarkError."""
    file = folder / f"{peer.key}.{peer.stream}"
    seconds = timed(["-y", *peer.command(str(clip.file), f"{level:g}", str(file))])
    return Encoded(file, file.stat().st_size, seconds)


def decode_clip(peer: ClipPeer, clip: Clip, file: Path) -> tuple[list[Pixels], float]:
    """Decode an elementary stream to frames in 8-bit 4:2:0, each uint8 [3 H / 2, W]; return them and the time it took.

    Raises BenchmarkError, also for another number of frames than that of the clip.
    """
    raw = file.with_suffix(".yuv")
    source = ["-threads", "1", "-f", peer.stream, "-i", str(file)]
    target = ["-fps_mode", "passthrough", "-pix_fmt", peer.pixel_format, "-f", "rawvideo", str(raw)]
    seconds = timed(["-y", *source, *target])
    is_deep = peer.pixel_format == HIGH_DEPTH
    samples = np.fromfile(raw, np.uint16 if is_deep else np.uint8)
    if is_deep:
        samples = np.minimum((samples + 2) >> 2, 255)
    if samples.size != clip.n_frames * clip.width * clip.height * 3 // 2:
        n_frames = samples.size / (clip.width * clip.height * 3 // 2)
        raise BenchmarkError(f"{peer.key}: the stream has {n_frames:g} frames, expected {clip.n_frames}")
    return list(samples.astype(np.uint8).reshape(clip.n_frames, -1, clip.width)), seconds


def timed(arguments: list[str]) -> float:
    """Run ffmpeg; return the seconds from its first to its last frame, without the start of the program."""
    found = re.search(r"rtime=([\d.]+)s", ffmpeg_log(["-benchmark", *arguments]))
    if found is None:
        raise BenchmarkError("this ffmpeg does not print its time")
    return max(float(found[1]), MIN_CLOCK_S)


@cache
def absent_vmaf() -> str | None:
    """Why VMAF cannot be measured; None if it can."""
    try:
        filters = run_ffmpeg(["-filters"]).decode()
    except AbsentError as error:
        return str(error)
    return None if " libvmaf " in filters else "this ffmpeg is built without libvmaf"


def vmaf(original: Path, decoded: Path) -> float:
    """VMAF of a prepared clip, by libvmaf: mean over the frames, from 0 to 100. Raises BenchmarkError."""
    measure = f"libvmaf=model=version={VMAF_MODEL}:n_threads=1"
    log = ffmpeg_log(["-i", str(decoded), "-i", str(original), "-lavfi", measure, "-f", "null", "-"])
    found = re.search(r"VMAF score: ([\d.]+)", log)
    if found is None:
        raise BenchmarkError("libvmaf printed no score")
    return float(found[1])
