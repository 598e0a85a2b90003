"""Rate, distortion and speed on clips, beside the encoders of PyAV's FFmpeg.

python -m benchmarks.video clips/*.mkv --frames 32 -o benchmarks/results/VERSION/video.json
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import islice
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

import ulcodec
from benchmarks.report import progress, write_text
from ulcodec.bench.machine import run_record
from ulcodec.bench.tables import decimals, text_table, to_json
from ulcodec.codec.image import Codec
from ulcodec.io.picture import Picture
from ulcodec.io.video_source import open_video
from ulcodec.io.video_target import quiet_encoder
from ulcodec.metrics import bd_rate_percent, psnr_db
from ulcodec.metrics.video import Planes, plane_psnr, to_yuv420

QUALITIES = (15, 30, 45, 60, 75)
INTRA_QUALITIES = (5, 15, 25, 35, 45, 55, 65, 75)
ANCHOR = "x264-medium"
OWN = ("ulcodec", "ulcodec-intra")
"""Curves of ulcodec: with predicted frames, and with intra frames alone."""
MEASURES = ("yuv_psnr_db", "psnr_db")
Rates = dict[str, dict[str, dict[str, float]]]
"""BD-rates by clip, measure and codec."""


@dataclass(frozen=True)
class Peer:
    """An encoder of FFmpeg: its options, its levels of quality, and the type of the NAL units with its version string.

    `level`: the option that sets the quality.
    """

    encoder: str
    options: dict[str, str]
    levels: tuple[int, ...]
    sei_type: int | None = None
    level: str = "crf"


CRFS = (18, 22, 26, 30, 34, 38, 42)
H264_SEI, HEVC_SEI = 6, 39
QUIET = "log-level=none:"


def x264(level: str = "crf", **options: str) -> Peer:
    return Peer("libx264", {"preset": "medium", "threads": "1", **options}, CRFS, H264_SEI, level)


def x265(level: str = "crf", options: str = "") -> Peer:
    parameters = f"log-level=none:pools=1:frame-threads=1{options}"
    return Peer("libx265", {"preset": "medium", "x265-params": parameters}, CRFS, HEVC_SEI, level)


PEERS = {
    "x264-medium": x264(),
    "x264-medium-psnr": x264(tune="psnr"),
    "x264-medium-ld": x264(bf="0"),
    "x264-medium-intra": x264(g="1"),
    "x264-medium-intra-qp": x264("qp", g="1", tune="psnr"),
    "x265-medium": x265(),
    "x265-medium-intra": x265(options=":keyint=1"),
    "x265-medium-intra-qp": x265("qp", ":keyint=1"),
    "svtav1-p6": Peer("libsvtav1", {"preset": "6", "svtav1-params": "lp=1"}, (24, 32, 40, 48, 56, 63)),
}


@dataclass
class Source:
    """A clip in memory: FFmpeg's frames, their planes, their RGB samples uint8 [H, W, 3], matrix and frame rate."""

    name: str
    path: Path
    frames: list[av.VideoFrame]
    planes: list[Planes]
    rgb: list[NDArray[np.uint8]]
    matrix: int
    rate: float

    @property
    def n_pixels(self) -> int:
        height, width = self.planes[0].y.shape
        return len(self.planes) * int(height) * int(width)


@dataclass
class Curve:
    """Points of a codec on a clip, and the frames that it codes in a second, each way."""

    points: list[dict[str, float]] = field(default_factory=list)

    def add(self, source: Source, quality: float, n_bytes: int, seconds: tuple[float, float], psnrs: list[Any]) -> None:
        n_frames = len(source.rgb)
        self.points.append(
            {
                "quality": quality,
                "n_bytes": n_bytes,
                "bpp": 8 * n_bytes / source.n_pixels,
                "kbps": 8 * n_bytes * source.rate / n_frames / 1000,
                "yuv_psnr_db": fmean(planes.yuv for planes, _ in psnrs),
                "y_psnr_db": fmean(planes.y for planes, _ in psnrs),
                "psnr_db": fmean(rgb for _, rgb in psnrs),
                "encode_fps": n_frames / seconds[0],
                "decode_fps": n_frames / seconds[1],
            }
        )


def read_source(path: Path, n_frames: int) -> Source:
    """Read the first frames of a clip in 8-bit 4:2:0."""
    with av.open(str(path)) as container:
        frames = list(islice(container.decode(video=0), n_frames))
    with open_video(path) as clip:
        matrix, rate = clip.format.matrix, float(clip.format.frame_rate)
        rgb = [Picture(frame.pixels).pixels_8 for frame in islice(clip, n_frames)]
    return Source(path.stem, path, frames, list(map(planes_of, frames)), rgb, matrix, rate)


def planes_of(frame: av.VideoFrame) -> Planes:
    """Planes of a frame in 8-bit 4:2:0."""
    if frame.format.name != "yuv420p":
        raise ValueError(f"expected yuv420p, got {frame.format.name}")
    return Planes(*(samples_of(plane) for plane in frame.planes))


def samples_of(plane: Any) -> NDArray[np.float64]:
    rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
    return rows[:, : plane.width].astype(np.float64)


def run_ulcodec(codec: Codec, source: Source, qualities: Sequence[int], **options: Any) -> Curve:
    """Code a clip at each quality, with options of `Codec.encode_video`. The rate is that of the whole file."""
    curve = Curve()
    for quality in qualities:
        progress(f"{source.name}: ulcodec at quality {quality} {options}")
        start = perf_counter()
        duration_s = len(source.rgb) / source.rate
        data = b"".join(codec.encode_video(source.path, quality=quality, duration_s=duration_s, **options))
        middle = perf_counter()
        decoded = [frame.pixels for frame in codec.decode_video(data)]
        seconds = middle - start, perf_counter() - middle
        psnrs = [
            (plane_psnr(planes, rounded(to_yuv420(pixels, source.matrix))), psnr_db(rgb, pixels))
            for planes, rgb, pixels in zip(source.planes, source.rgb, decoded, strict=True)
        ]
        curve.add(source, quality, len(data), seconds, psnrs)
    return curve


def rounded(planes: Planes) -> Planes:
    return Planes(*(plane.round().clip(0, 255) for plane in planes))


def run_peer(name: str, codec: Peer, source: Source) -> Curve:
    """Code a clip at each level. The rate is that of the elementary stream without its version string."""
    curve = Curve()
    for level in codec.levels:
        progress(f"{source.name}: {name} at {codec.level} {level}")
        start = perf_counter()
        file, n_bytes = encode(codec, source, level)
        middle = perf_counter()
        with av.open(BytesIO(file)) as container:
            decoded = list(container.decode(video=0))
        seconds = middle - start, perf_counter() - middle
        with open_video(file) as clip:
            rgb = [Picture(frame.pixels).pixels_8 for frame in clip]
        psnrs = [
            (plane_psnr(planes, planes_of(frame)), psnr_db(original, pixels))
            for planes, frame, original, pixels in zip(source.planes, decoded, source.rgb, rgb, strict=True)
        ]
        curve.add(source, level, n_bytes, seconds, psnrs)
    return curve


def encode(codec: Peer, source: Source, level: int) -> tuple[bytes, int]:
    """Encode a clip to a Matroska file; return it with the bytes of its stream without the version string."""
    first, file, n_bytes = source.frames[0], BytesIO(), 0
    with quiet_encoder(codec.encoder), av.open(file, "w", format="matroska") as container:
        stream: Any = container.add_stream(codec.encoder, rate=round(source.rate))
        stream.width, stream.height, stream.pix_fmt = first.width, first.height, "yuv420p"
        stream.options = {**codec.options, codec.level: str(level)}
        context = stream.codec_context
        context.colorspace, context.color_range = first.colorspace, first.color_range
        for number, original in enumerate([*source.frames, None]):
            frame = None if original is None else original.reformat(format="yuv420p")
            if frame is not None:
                frame.pts, frame.time_base, frame.pict_type = number, 1 / stream.codec_context.framerate, 0
            for packet in stream.encode(frame):
                n_bytes += packet.size - n_version_bytes(codec, bytes(packet))
                container.mux(packet)
    return file.getvalue(), n_bytes


def n_version_bytes(codec: Peer, packet: bytes) -> int:
    """Bytes of the NAL units of a packet (Annex B) that hold the version string of the encoder."""
    units = packet.split(b"\0\0\1")[1:] if codec.sei_type is not None else []
    types = (unit[0] & 31 if codec.encoder == "libx264" else unit[0] >> 1 & 63 for unit in units)
    return sum(len(unit) + 3 for unit, kind in zip(units, types, strict=True) if kind == codec.sei_type)


def bd_rates(curves: dict[str, Curve], measure: str, anchor: str) -> dict[str, float]:
    """BD-rate in percent of each codec against one of them."""
    rates = {name: [point["bpp"] for point in curve.points] for name, curve in curves.items()}
    values = {name: [point[measure] for point in curve.points] for name, curve in curves.items()}
    return {name: bd_rate_percent(rates[anchor], values[anchor], rates[name], values[name]) for name in curves}


def report(clips: dict[str, dict[str, Curve]]) -> dict[str, Any]:
    """Collect the points, and for each clip BD-rates against the anchor, and of ulcodec's curves against each codec."""
    names = list(next(iter(clips.values())))
    against_anchor = {
        clip: {measure: bd_rates(curves, measure, ANCHOR) for measure in MEASURES} for clip, curves in clips.items()
    }
    ours = {
        own: {
            clip: {measure: {name: bd_rates(curves, measure, name)[own] for name in names} for measure in MEASURES}
            for clip, curves in clips.items()
        }
        for own in OWN
    }
    return {
        "anchor": ANCHOR,
        "bd_rate_percent": with_means(against_anchor, names),
        "own_against_percent": {own: with_means(rates, names) for own, rates in ours.items()},
        "points": {clip: {name: curve.points for name, curve in curves.items()} for clip, curves in clips.items()},
    }


def with_means(clips: Rates, names: Sequence[str]) -> Rates:
    """Add the means over the clips."""
    means = {
        measure: {name: fmean(rates[measure][name] for rates in clips.values()) for name in names}
        for measure in MEASURES
    }
    return {**clips, "mean": means}


def table(result: dict[str, Any]) -> str:
    rates, measure = result["bd_rate_percent"], MEASURES[0]
    ours = [result["own_against_percent"][own]["mean"][measure] for own in OWN]
    header = ["codec", *(clip.split("_")[0] for clip in rates), *OWN]
    rows = [
        [name, *(decimals(columns[name], 1) for columns in (*(rates[clip][measure] for clip in rates), *ours))]
        for name in ours[0]
    ]
    return text_table(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clips", type=Path, nargs="+", help="clips in 8-bit 4:2:0")
    parser.add_argument("--frames", type=int, default=32, help="frames of each clip")
    parser.add_argument("--qualities", type=int, nargs="+", default=QUALITIES)
    parser.add_argument("--intra-qualities", type=int, nargs="+", default=INTRA_QUALITIES)
    parser.add_argument("--effort", type=int, default=1)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--model", default="small", help="name of a model, or a model directory")
    parser.add_argument("-o", "--output", type=Path, help="write the report here as JSON")
    options = parser.parse_args()
    codec = ulcodec.load(options.model)
    peers = {name: PEERS[name] for name in dict.fromkeys([ANCHOR, *options.peers])}
    clips: dict[str, dict[str, Curve]] = {}
    for path in options.clips:
        source = read_source(path, options.frames)
        curves = {name: run_peer(name, peer, source) for name, peer in peers.items()}
        own = (
            run_ulcodec(codec, source, options.qualities, effort=options.effort),
            run_ulcodec(codec, source, options.intra_qualities, effort=options.effort, gop=1),
        )
        clips[source.name] = {**curves, **dict(zip(OWN, own, strict=True))}
    result = {
        **run_record(sys.argv, codec),
        "ffmpeg": av.ffmpeg_version_info,
        "frames": options.frames,
        **report(clips),
    }
    progress(f"BD-rate in percent against {ANCHOR}, YUV-PSNR, and of ulcodec against each codec", last=True)
    print(table(result))
    if options.output:
        write_text(options.output, to_json(result))


if __name__ == "__main__":
    main()
