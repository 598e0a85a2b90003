"""Peers: the codecs that people use today, run through maintained libraries.

`Peer.library` raises `AbsentError` for a peer that is not installed. Pictures are uint8 [H, W, 3] or [H, W].
"""

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any, Protocol, TypeVar

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, features

from ulcodec.errors import BenchmarkError

Pixels = NDArray[np.uint8]
TIMEOUT_S = 600
OURS = "ulcodec"
"""Key of ulcodec among the codecs."""


class AbsentError(Exception):
    """A library of a peer is not installed."""


@dataclass(frozen=True)
class Peer:
    """A codec whose settings are fixed, except its rate.

    `key`: name on the command line; `title`: name in reports. `levels`: arguments of `encode`, from small to large
    files. `decode` takes the file and the picture's shape. `library`: name and version of the library; raises
    `AbsentError`.
    """

    key: str
    title: str
    levels: tuple[float, ...]
    encode: Callable[[Pixels, float], bytes]
    decode: Callable[[bytes, tuple[int, ...]], Pixels]
    library: Callable[[], str]


# Pillow


def pillow_library(feature: str) -> Callable[[], str]:
    def library() -> str:
        if not features.check(feature):
            raise AbsentError(f"this Pillow is built without {feature}")
        return f"{feature} {features.version(feature)} in Pillow {PIL.__version__}"

    return library


def pillow_encoder(image_format: str, options: Callable[[float], dict[str, Any]]) -> Callable[[Pixels, float], bytes]:
    def encode(pixels: Pixels, level: float) -> bytes:
        buffer = BytesIO()
        Image.fromarray(pixels).save(buffer, image_format, **options(level))
        return buffer.getvalue()

    return encode


def pillow_decode(data: bytes, shape: tuple[int, ...]) -> Pixels:
    image = Image.open(BytesIO(data))
    return np.asarray(image.convert("L" if len(shape) == 2 else "RGB"))


def pillow_peer(
    key: str, title: str, feature: str, image_format: str, levels: tuple[float, ...],
    options: Callable[[float], dict[str, Any]],
) -> Peer:  # fmt: skip
    return Peer(key, title, levels, pillow_encoder(image_format, options), pillow_decode, pillow_library(feature))


def avif_options(speed: int, subsampling: str = "4:4:4", **advanced: str) -> Callable[[float], dict[str, Any]]:
    def options(level: float) -> dict[str, Any]:
        basic = {"quality": int(level), "speed": speed, "subsampling": subsampling, "codec": "aom"}
        return {**basic, "advanced": advanced} if advanced else basic

    return options


# imagecodecs


def imagecodecs() -> Any:
    try:
        import imagecodecs as module
    except ImportError as error:
        raise AbsentError("imagecodecs is not installed") from error
    return module


def imagecodecs_library(name: str) -> Callable[[], str]:
    def library() -> str:
        module = imagecodecs()
        version = next((v for v in module.version().split(", ") if v.startswith(f"{name}-")), None)
        if version is None or version.endswith("n/a"):
            raise AbsentError(f"this imagecodecs is built without {name}")
        return f"{name} {version.removeprefix(name + '-')} in imagecodecs {module.__version__}"

    return library


def jpegxl_encode(pixels: Pixels, level: float) -> bytes:
    return bytes(imagecodecs().jpegxl_encode(pixels, distance=level, effort=7, usecontainer=False))


def jpegxl_decode(data: bytes, shape: tuple[int, ...]) -> Pixels:
    return np.asarray(imagecodecs().jpegxl_decode(data))


# ffmpeg


@cache
def ffmpeg() -> str:
    try:
        from imageio_ffmpeg import get_ffmpeg_exe
    except ImportError as error:
        raise AbsentError("imageio-ffmpeg is not installed") from error
    return str(get_ffmpeg_exe())


@cache
def ffmpeg_encoders() -> str:
    return run_ffmpeg(["-encoders"]).decode()


def run_ffmpeg(arguments: Sequence[str], data: bytes = b"") -> bytes:
    """Run ffmpeg on standard input, and return its standard output. Raises BenchmarkError if it fails."""
    return ffmpeg_run(arguments, "error", data).stdout


def ffmpeg_log(arguments: Sequence[str]) -> str:
    """Run ffmpeg, and return what it prints about its work. Raises BenchmarkError if it fails."""
    return ffmpeg_run(["-nostdin", "-nostats", *arguments], "level+info").stderr.decode(errors="replace")


def ffmpeg_run(arguments: Sequence[str], loglevel: str, data: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    command = [ffmpeg(), "-hide_banner", "-loglevel", loglevel, *arguments]
    try:
        finished = subprocess.run(command, input=data, capture_output=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchmarkError(f"ffmpeg: {error}") from error
    if finished.returncode:
        lines = finished.stderr.decode(errors="replace").strip().splitlines()
        reason = [line for line in lines if "[error]" in line or "[fatal]" in line] or lines or ["failed"]
        raise BenchmarkError(f"ffmpeg {' '.join(arguments)}: {reason[0]}")
    return finished


def ffmpeg_library(encoder: str) -> Callable[[], str]:
    def library() -> str:
        if f" {encoder} " not in ffmpeg_encoders():
            raise AbsentError(f"this ffmpeg is built without {encoder}")
        return f"{encoder} in {run_ffmpeg(['-version']).decode().split(' Copyright')[0]}"

    return library


def ffmpeg_peer(
    key: str, title: str, levels: tuple[float, ...], encoder: str, pixel_format: str, stream: str,
    options: Callable[[float], list[str]],
) -> Peer:  # fmt: skip
    """A codec of ffmpeg, for one intra frame as a raw stream: BT.709 at full range, sides padded to even numbers."""
    full_range = "scale=in_range=full:out_range=full:flags=accurate_rnd+full_chroma_int+full_chroma_inp"
    convert = f"{full_range}:out_color_matrix=bt709,format={pixel_format}"
    back = f"{full_range}:in_color_matrix=bt709"

    def encode(pixels: Pixels, level: float) -> bytes:
        rgb = np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else pixels
        even = np.pad(rgb, ((0, rgb.shape[0] % 2), (0, rgb.shape[1] % 2), (0, 0)), mode="edge")
        size = f"{even.shape[1]}x{even.shape[0]}"
        source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-i", "-", "-frames:v", "1", "-vf", convert]
        return run_ffmpeg([*source, "-c:v", encoder, *options(level), "-f", stream, "-"], even.tobytes())

    def decode(data: bytes, shape: tuple[int, ...]) -> Pixels:
        height, width = shape[:2]
        even = (height + height % 2, width + width % 2)
        raw = run_ffmpeg(["-f", stream, "-i", "-", "-vf", back, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], data)
        rgb = np.frombuffer(raw, np.uint8)[: even[0] * even[1] * 3].reshape(*even, 3)[:height, :width]
        return rgb if len(shape) == 3 else rgb.mean(axis=2).round().astype(np.uint8)

    return Peer(key, title, levels, encode, decode, ffmpeg_library(encoder))


JPEG_LEVELS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 18, *range(22, 95, 6), 95, 97, 99)
JPEG_2000_RATIOS = (240, 160, 120, 80, 60, 40, 30, 24, 16, 12, 8, 6)
WEBP_LEVELS = (0, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100)
AVIF_LEVELS = (5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 95)
AVIF_SLOW_LEVELS = (5, 15, 30, 50, 70, 90, 95)
JPEG_XL_DISTANCES = (25, 15, 10, 7, 5, 4, 3, 2, 1.5, 1, 0.7, 0.5, 0.3)
QP_LEVELS = (46, 42, 38, 34, 30, 26, 22, 18, 14)
VVC_LEVELS = (46, 40, 34, 28, 22, 16)
CRF_LEVELS = (60, 54, 48, 42, 36, 30, 24, 18, 12, 6)
X265 = "keyint=1:repeat-headers=0:info=0:range=full:colormatrix=bt709:psy-rd=0:psy-rdoq=0"


def jpeg_options(level: float) -> dict[str, Any]:
    return {"quality": int(level), "subsampling": "4:2:0", "optimize": True, "progressive": True}


def jpeg_2000_options(level: float) -> dict[str, Any]:
    return {"quality_mode": "rates", "quality_layers": [level], "irreversible": True, "mct": 1, "no_jp2": True}


def webp_options(level: float) -> dict[str, Any]:
    return {"quality": int(level), "method": 6}


def x265_options(level: float) -> list[str]:
    return ["-preset", "veryslow", "-x265-params", f"qp={int(level)}:{X265}"]


def libaom_options(level: float) -> list[str]:
    return ["-usage", "allintra", "-cpu-used", "4", "-crf", str(int(level)), "-b:v", "0"]


def svt_options(level: float) -> list[str]:
    return ["-preset", "4", "-crf", str(int(level)), "-svtav1-params", "tune=1:avif=1"]


def vvenc_options(level: float) -> list[str]:
    return ["-preset", "slow", "-qp", str(int(level)), "-qpa", "0", "-period", "1"]


def avif_peer(
    key: str, title: str, options: Callable[[float], dict[str, Any]], levels: tuple[float, ...] = AVIF_LEVELS
) -> Peer:
    return pillow_peer(key, f"AVIF {title}", "avif", "AVIF", levels, options)


def all_peers() -> list[Peer]:
    high, low = "yuv444p10le", "yuv420p10le"
    return [
        pillow_peer("jpeg", "JPEG 4:2:0", "jpg", "JPEG", JPEG_LEVELS, jpeg_options),
        pillow_peer("jpeg2000", "JPEG 2000", "jpg_2000", "JPEG2000", JPEG_2000_RATIOS, jpeg_2000_options),
        pillow_peer("webp", "WebP, method 6", "webp", "WEBP", WEBP_LEVELS, webp_options),
        avif_peer("avif", "4:4:4, speed 6", avif_options(6)),
        avif_peer("avif-420", "4:2:0, speed 6", avif_options(6, "4:2:0")),
        avif_peer("avif-psnr", "4:4:4, speed 6, tune=psnr", avif_options(6, tune="psnr")),
        avif_peer("avif-ssim", "4:4:4, speed 6, tune=ssim", avif_options(6, tune="ssim")),
        avif_peer("avif-slow", "4:4:4, speed 1, tune=psnr", avif_options(1, tune="psnr"),
                  AVIF_SLOW_LEVELS),
        Peer("jpegxl", "JPEG XL, effort 7", JPEG_XL_DISTANCES, jpegxl_encode, jpegxl_decode,
             imagecodecs_library("libjxl")),
        ffmpeg_peer("hevc", "HEVC intra (x265 veryslow, 10 bits, 4:4:4)", QP_LEVELS,
                    "libx265", high, "hevc", x265_options),
        ffmpeg_peer("av1", "AV1 intra (libaom, speed 4, 10 bits, 4:4:4)", CRF_LEVELS,
                    "libaom-av1", high, "obu", libaom_options),
        ffmpeg_peer("svt-av1", "AV1 intra (SVT-AV1, preset 4, 10 bits, 4:2:0)", CRF_LEVELS,
                    "libsvtav1", low, "obu", svt_options),
        ffmpeg_peer("vvc", "VVC intra (vvenc slow, 10 bits, 4:2:0)", VVC_LEVELS,
                    "libvvenc", low, "vvc", vvenc_options),
    ]  # fmt: skip


PEERS: dict[str, Peer] = {peer.key: peer for peer in all_peers()}
"""All peers by key."""


class Installable(Protocol):
    """Something that may not be installed: `library` raises AbsentError then."""

    @property
    def title(self) -> str: ...

    def library(self) -> str: ...


Installed = TypeVar("Installed", bound=Installable)


def available(peers: Sequence[Installed]) -> tuple[list[Installed], dict[str, str]]:
    """Split peers into those that are installed, and the reasons why others are not, by title."""
    present, absent = [], {}
    for peer in peers:
        try:
            peer.library()
        except AbsentError as error:
            absent[peer.title] = str(error)
        else:
            present.append(peer)
    return present, absent
