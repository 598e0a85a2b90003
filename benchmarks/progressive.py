"""Measure the PSNR of truncated files: ulcodec, progressive JPEG XL and progressive JPEG, as JSON and as a figure.

    python -m benchmarks.progressive PICTURES -o progressive.json --figure progressive.svg

JPEG XL is coded and decoded by the libjxl that imagecodecs ships, called directly, since no Python package shows what
an unfinished file gives. The three codecs' files are of nearly the same size.
"""

import argparse
import ctypes
from io import BytesIO
from pathlib import Path
from statistics import fmean
from typing import Any

import imagecodecs
import numpy as np
from PIL import Image, ImageFile

import ulcodec
from ulcodec.bench.peers import Peer, Pixels
from ulcodec.bench.pictures import find_pictures
from ulcodec.bench.run import level_of_size
from ulcodec.bench.tables import to_json
from ulcodec.codec.image import Codec
from ulcodec.format.container import Container
from ulcodec.metrics import psnr_db

FRACTIONS = tuple(round(0.05 * step, 2) for step in range(1, 21))
EFFORT, QPROGRESSIVE_AC = 0, 18
"""Values of JxlEncoderFrameSettingId."""
BASIC_INFO, FRAME_PROGRESSION = 0x40, 0x8000
NEED_MORE_INPUT, NEED_OUTPUT, FULL_IMAGE = 2, 5, 0x1000
"""Values of JxlDecoderStatus; the first two are the events to subscribe to."""
PASSES = 3
DISTANCES = (12.0, 8.0, 6.0, 4.0, 3.0, 2.0, 1.5, 1.0, 0.7, 0.5)
TITLES = {"ulcodec": "ulcodec", "jpegxl": "JPEG XL, progressive", "jpeg": "JPEG, progressive"}


class PixelFormat(ctypes.Structure):
    """JxlPixelFormat: 8-bit RGB."""

    _fields_ = (
        ("num_channels", ctypes.c_uint32),
        ("data_type", ctypes.c_int),
        ("endianness", ctypes.c_int),
        ("align", ctypes.c_size_t),
    )


class BasicInfo(ctypes.Structure):
    """The beginning of JxlBasicInfo, with room for the rest."""

    _fields_ = (
        ("have_container", ctypes.c_int),
        ("xsize", ctypes.c_uint32),
        ("ysize", ctypes.c_uint32),
        ("rest", ctypes.c_uint8 * 256),
    )


RGB_8 = PixelFormat(3, 2, 0, 0)


def libjxl() -> ctypes.CDLL:
    imagecodecs.jpegxl_version()  # loads it, with what it needs
    folder = Path(imagecodecs.__file__).parent.parent / "imagecodecs.libs"
    [path] = folder.glob("libjxl-*")
    library = ctypes.CDLL(str(path))
    for name in ("JxlEncoderCreate", "JxlEncoderFrameSettingsCreate", "JxlDecoderCreate"):
        getattr(library, name).restype = ctypes.c_void_p
    return library


def check(status: int) -> None:
    if status:
        raise RuntimeError(f"libjxl refuses with status {status}")


class ProgressiveJpegXl:
    """JPEG XL with AC coefficients in passes of rising precision, effort 7."""

    def __init__(self) -> None:
        self.library = libjxl()

    def encode(self, pixels: Pixels, distance: float) -> bytes:
        library = self.library
        encoder = ctypes.c_void_p(library.JxlEncoderCreate(None))
        info = BasicInfo()
        library.JxlEncoderInitBasicInfo(ctypes.byref(info))
        info.ysize, info.xsize = pixels.shape[:2]
        check(library.JxlEncoderSetBasicInfo(encoder, ctypes.byref(info)))
        colour = ctypes.create_string_buffer(256)
        library.JxlColorEncodingSetToSRGB(colour, 0)
        check(library.JxlEncoderSetColorEncoding(encoder, colour))
        settings = ctypes.c_void_p(library.JxlEncoderFrameSettingsCreate(encoder, None))
        check(library.JxlEncoderSetFrameDistance(settings, ctypes.c_float(distance)))
        for option, value in ((EFFORT, 7), (QPROGRESSIVE_AC, 1)):
            check(library.JxlEncoderFrameSettingsSetOption(settings, option, ctypes.c_int64(value)))
        samples = np.ascontiguousarray(pixels)
        size = ctypes.c_size_t(samples.nbytes)
        check(
            library.JxlEncoderAddImageFrame(
                settings, ctypes.byref(RGB_8), samples.ctypes.data_as(ctypes.c_void_p), size
            )
        )
        library.JxlEncoderCloseInput(encoder)
        out = ctypes.create_string_buffer(samples.nbytes + 4096)
        position, room = ctypes.cast(out, ctypes.c_void_p), ctypes.c_size_t(len(out))
        check(library.JxlEncoderProcessOutput(encoder, ctypes.byref(position), ctypes.byref(room)))
        library.JxlEncoderDestroy(encoder)
        return out.raw[: len(out) - room.value]

    def decode_front(self, data: bytes, shape: tuple[int, ...]) -> Pixels | None:
        """Decode the first bytes of a file; None if nothing can be decoded."""
        library, pixels = self.library, np.zeros(shape, np.uint8)
        decoder = ctypes.c_void_p(library.JxlDecoderCreate(None))
        check(library.JxlDecoderSubscribeEvents(decoder, BASIC_INFO | FRAME_PROGRESSION | FULL_IMAGE))
        check(library.JxlDecoderSetProgressiveDetail(decoder, PASSES))
        check(library.JxlDecoderSetInput(decoder, data, ctypes.c_size_t(len(data))))
        size, is_decoded = ctypes.c_size_t(pixels.nbytes), False
        while True:
            status = library.JxlDecoderProcessInput(decoder)
            if status == NEED_OUTPUT:
                target = pixels.ctypes.data_as(ctypes.c_void_p)
                check(library.JxlDecoderSetImageOutBuffer(decoder, ctypes.byref(RGB_8), target, size))
            elif status == NEED_MORE_INPUT:
                is_decoded = library.JxlDecoderFlushImage(decoder) == 0
                break
            elif status in (FULL_IMAGE, 0, 1):
                is_decoded = status == FULL_IMAGE
                break
        library.JxlDecoderDestroy(decoder)
        return pixels if is_decoded else None


class ProgressiveJpeg:
    """Progressive JPEG 4:2:0 with optimised Huffman tables."""

    def encode(self, pixels: Pixels, quality: float) -> bytes:
        buffer = BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=int(quality), progressive=True, optimize=True)
        return buffer.getvalue()

    def decode_front(self, data: bytes, shape: tuple[int, ...]) -> Pixels | None:
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            return np.asarray(Image.open(BytesIO(data)).convert("RGB"))
        except (OSError, SyntaxError):
            return None
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = False


class Ulcodec:
    """ulcodec, whose prior conceals what a truncated file lacks."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec

    def decode_front(self, data: bytes, whole: bytes) -> Pixels | None:
        first = len(Container.from_bytes(whole).truncated(1).to_bytes())
        if len(data) < first:
            return None
        return self.codec.decode_array(whole, fraction=len(data) / len(whole))


def psnr_of_fronts(codec: Codec, pixels: Pixels, quality: int) -> dict[str, list[float | None]]:
    """PSNR in dB at every fraction of each codec's file, None where nothing can be decoded."""
    jpeg_xl, jpeg, ours = ProgressiveJpegXl(), ProgressiveJpeg(), Ulcodec(codec)
    whole = codec.encode(pixels, quality=quality)
    jpeg_xl_file = of_size(jpeg_xl.encode, DISTANCES, pixels, len(whole))
    jpeg_file = of_size(jpeg.encode, tuple(range(2, 99, 4)), pixels, len(whole))
    curves: dict[str, list[float | None]] = {"ulcodec": [], "jpegxl": [], "jpeg": []}
    for fraction in FRACTIONS:
        decoded = {
            "ulcodec": ours.decode_front(whole[: round(fraction * len(whole))], whole),
            "jpegxl": jpeg_xl.decode_front(jpeg_xl_file[: round(fraction * len(jpeg_xl_file))], pixels.shape),
            "jpeg": jpeg.decode_front(jpeg_file[: round(fraction * len(jpeg_file))], pixels.shape),
        }
        for name, picture in decoded.items():
            curves[name].append(None if picture is None else psnr_db(pixels, picture))
    return curves


def of_size(encode: Any, levels: tuple[float, ...], pixels: Pixels, n_bytes: int) -> bytes:
    peer = Peer("", "", levels, encode, lambda data, shape: pixels, str)
    data: bytes = encode(pixels, level_of_size(peer, pixels, n_bytes))
    return data


def mean(values: list[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return fmean(present) if len(present) == len(values) else None


def draw(report: dict[str, Any], target: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "ulcodec", "font.size": 10, "svg.fonttype": "none"})
    figure, axes = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    for name, title in TITLES.items():
        points = [(x, y) for x, y in zip(report["fractions"], report["psnr_db"][name], strict=True) if y is not None]
        axes.plot(*zip(*points, strict=True), label=title)
    axes.set_xlabel("fraction of the file received")
    axes.set_ylabel("PSNR, dB")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(target, metadata={"Date": None}, facecolor="white")


def main() -> None:
    description = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.progressive", description=description)
    parser.add_argument("pictures", type=Path, nargs="?", help="folder; default: scikit-image's pictures")
    parser.add_argument("--quality", type=int, default=50)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    codec, pictures = ulcodec.load(), find_pictures(options.pictures)
    curves = [psnr_of_fronts(codec, picture.pixels, options.quality) for picture in pictures]
    report = {
        "quality": options.quality,
        "fingerprint": codec.fingerprint,
        "n_pictures": len(pictures),
        "fractions": FRACTIONS,
        "psnr_db": {
            name: [mean(list(values)) for values in zip(*(curve[name] for curve in curves), strict=True)]
            for name in TITLES
        },
    }
    options.output.write_text(to_json(report))
    if options.figure:
        draw(report, options.figure)


if __name__ == "__main__":
    main()
