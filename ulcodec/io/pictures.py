"""Pictures in and out: Pillow at the border, numpy arrays inside."""

import re
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ulcodec.errors import ImageError
from ulcodec.format.attachments import MAX_METADATA_BYTES, to_full_range
from ulcodec.format.cicp import Cicp
from ulcodec.format.container import MAX_PIXELS
from ulcodec.io.colour import cicp_of, png_profile, to_srgb, usable_profile
from ulcodec.io.metadata import (
    EXIF_PREFIX,
    exif_of,
    gain_map_of,
    orientation_of,
    tiff_structure,
    upright_exif,
    upright_xmp,
    without_metadata,
    xmp_of,
)

ImageSource = str | Path | bytes | BinaryIO | Image.Image

XMP_TIFF_TAG, PHOTOMETRIC_TIFF_TAG, PLANAR_TIFF_TAG = 700, 262, 284
METADATA_NAMES = {"icc": "the colour profile", "exif": "EXIF", "xmp": "XMP", "cicp": "CICP"}
GREY_MODES = {"1", "L", "LA", "La"}
PNG_HEADER_BYTES = 33
LAYERED_FORMATS = {"PSD", "ICO", "ICNS", "CUR"}
"""Formats whose further frames are parts or sizes of the first."""


@dataclass(frozen=True)
class Picture:
    """A picture that can be coded.

    `pixels`: uint8 or uint16 [H, W, 3] (RGB) or [H, W] (grey), H, W >= 1; `alpha`: uint8 [H, W], straight, or None if
    opaque; `icc`: profile, None for sRGB; `exif` (TIFF structure) and `xmp` (packet) as bytes; `cicp`: code points of
    ITU-T H.273, None for those of sRGB. Otherwise ImageError.
    """

    pixels: NDArray[Any]
    alpha: NDArray[np.uint8] | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    cicp: Cicp | None = None

    def __post_init__(self) -> None:
        shape, dtype = self.pixels.shape, self.pixels.dtype
        if dtype not in (np.uint8, np.uint16) or not (len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)):
            raise ImageError(f"expected uint8 or uint16 [H, W, 3] or [H, W], got {dtype} {list(shape)}")
        if 0 in shape:
            raise ImageError(f"a picture has at least one pixel, got {list(shape)}")
        if self.alpha is not None and (self.alpha.dtype != np.uint8 or self.alpha.shape != shape[:2]):
            raise ImageError(f"expected alpha uint8 {list(shape[:2])}, got {self.alpha.dtype} {list(self.alpha.shape)}")

    @property
    def bit_depth(self) -> int:
        return 8 * self.pixels.dtype.itemsize

    @property
    def pixels_8(self) -> NDArray[np.uint8]:
        """`pixels` with 8 bits: round(sample / 257), which takes 65535 to 255."""
        return self.pixels if self.bit_depth == 8 else ((self.pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)

    @property
    def samples(self) -> NDArray[Any]:
        """Pixels and alpha as one array: [H, W, 3] or [H, W], with alpha [H, W, 4] or [H, W, 2]."""
        if self.alpha is None:
            return self.pixels
        alpha = self.alpha if self.bit_depth == 8 else self.alpha.astype(np.uint16) * 257
        return np.dstack([self.pixels, alpha])

    def to_pil(self) -> Image.Image:
        """Mode L, LA, RGB or RGBA, or I;16 for deep grey without alpha; deep colour becomes 8 bits: Pillow has no more.

        `info` carries icc_profile, exif and xmp, and cicp: bytes as in PNG.
        """
        deep_grey = self.bit_depth == 16 and self.pixels.ndim == 2 and self.alpha is None
        image = Image.fromarray(self.pixels if deep_grey else replace(self, pixels=self.pixels_8).samples)
        image.info.update(self.metadata)
        if self.cicp is not None:
            image.info["cicp"] = bytes(self.cicp)
        return image

    @property
    def metadata(self) -> dict[str, bytes]:
        """ICC, EXIF and XMP under the names that Pillow gives them, those that there are."""
        exif = None if self.exif is None else EXIF_PREFIX + self.exif
        named = {"icc_profile": self.icc, "exif": exif, "xmp": self.xmp}
        return {name: data for name, data in named.items() if data is not None}

    @property
    def orientation(self) -> int:
        """How the pixels lie, 1 (upright) to 8, as EXIF or else XMP says."""
        return orientation_of(self.exif, self.xmp)

    def upright(self) -> "Picture":
        """The picture turned as its metadata says, which then say no more of it."""
        if self.orientation == 1:
            return self
        turn = TURNS[self.orientation]
        return replace(
            self,
            pixels=np.ascontiguousarray(turn(self.pixels)),
            alpha=None if self.alpha is None else np.ascontiguousarray(turn(self.alpha)),
            exif=None if self.exif is None else upright_exif(self.exif),
            xmp=None if self.xmp is None else upright_xmp(self.xmp),
        )

    def without(self, *names: str) -> "Picture":
        """The picture without these fields of metadata; turned, if one of them said how."""
        none: dict[str, Any] = dict.fromkeys(names)
        left = replace(self, **none)
        return left if left.orientation == self.orientation else replace(self.upright(), **none)

    def within_limits(self) -> "Picture":
        """The picture without metadata beyond the limit of the format `.ulc`, which a warning names."""
        too_long = [name for name in ("icc", "exif", "xmp") if len(getattr(self, name) or b"") > MAX_METADATA_BYTES]
        if too_long:
            shown = ", ".join(METADATA_NAMES[name] for name in too_long)
            warnings.warn(f"{shown} of more than {MAX_METADATA_BYTES} bytes: left out", stacklevel=3)
        return self.without(*too_long)


def load_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS, upright: bool = True) -> Picture:
    """Read the first picture of a path, bytes, a binary file object or a Pillow image.

    Palettes become RGB, CMYK too, by its profile if it has one; bilevel becomes grey. 16 bits are kept for grey, and
    for colour in PNG and AVIF if imagecodecs is installed. An opaque alpha channel is dropped, and a profile that does
    what sRGB does; PNG's gAMA and cHRM become a profile. `upright`: turn the picture as EXIF, or else XMP, says, and
    take that out of them. What is lost is told by a UserWarning: depth, further frames, a gain map, metadata that
    cannot be read. Raises ImageError for what is not a whole picture, has more than `max_pixels`, or holds samples that
    have no such meaning; OSError if it cannot be read.
    """
    if isinstance(source, (str, Path)):
        source = Path(source).read_bytes()
    data = None if isinstance(source, Image.Image) else source if isinstance(source, bytes) else source.read()
    try:
        picture, lost = _read(source if isinstance(source, Image.Image) else _opened(data or b""), data, max_pixels)
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise ImageError("not a picture in a known format") from error
    except Exception as error:  # decoders of damaged files raise almost anything
        found = _read_without_metadata(data, max_pixels)
        if found is None:
            raise ImageError(f"the picture cannot be read: {error}") from error
        picture, lost = found[0], [f"metadata that cannot be read is left out: {error}", *found[1]]
    for line in lost:
        warnings.warn(line, stacklevel=2)
    return picture.upright() if upright else picture


def _read(image: Image.Image, data: bytes | None, max_pixels: int) -> tuple[Picture, list[str]]:
    """The picture as it is stored, and what of the file is not in it; `data`: the bytes, if it comes from a file."""
    if image.width * image.height > max_pixels:
        raise ImageError(f"{image.width}x{image.height} is more than {max_pixels} pixels")
    depth = 8 if data is None else depth_of(image, data)
    if image.format == "TIFF" and depth > 8 and getattr(image, "tag_v2", {}).get(PLANAR_TIFF_TAG) == 2:
        raise ImageError(f"TIFF of {depth} bits with a plane for each channel is not supported")
    deep = None if data is None or depth == 8 else _deep_samples(data, image, depth)
    n_frames = 1 if data is None or image.format in LAYERED_FORMATS else getattr(image, "n_frames", 1)
    exif = exif_of(image)  # of TIFF before its file is closed
    image.load()
    exif = exif or exif_of(image)  # of PNG also what follows the samples
    picture = _picture(image, deep, data, exif)
    lost = list(_losses(image, data, picture, depth, n_frames))
    if exif and tiff_structure(exif) is None:
        lost.append("EXIF that cannot be read is left out")
    return picture, lost


def _losses(image: Image.Image, data: bytes | None, picture: Picture, depth: int, n_frames: int) -> Iterator[str]:
    """What of a file is not in its picture, a line each."""
    if depth > picture.bit_depth:
        more = '; pip install "ulcodec[deep]" for all of it' if image.format in DEEP_READERS else ""
        yield f"{depth}-bit samples are read with {picture.bit_depth} bits{more}"
    if data is not None and gain_map_of(data, picture.xmp):
        yield "the gain map is left out: the picture is its base rendition"
    elif n_frames > 1:
        yield f"only the first of {n_frames} pictures of the file is read"


def _read_without_metadata(data: bytes | None, max_pixels: int) -> tuple[Picture, list[str]] | None:
    """`_read` of a file whose metadata may be what cannot be read, None if it is not that."""
    stripped = None if data is None else without_metadata(data)
    if stripped is None:
        return None
    with suppress(Exception):
        return _read(_opened(stripped), stripped, max_pixels)
    return None


def _opened(data: bytes) -> Image.Image:
    """The image of a file, by Pillow alone if it can: importing the plugins takes time."""
    Image.preinit()
    with suppress(UnidentifiedImageError):
        return _identified(data)
    Image.init()
    use_plugins()
    return _identified(data)


def _identified(data: bytes) -> Image.Image:
    """`Image.open` without its limit, which belongs to the process: `load_image` has one of its own."""
    for name in list(Image.ID):
        factory, accept = Image.OPEN[name]
        with suppress(SyntaxError, IndexError, TypeError, KeyError, EOFError, struct.error):
            accepted = accept is None or accept(data[:16])
            if accepted and not isinstance(accepted, str):  # a text says what is not installed
                return factory(BytesIO(data), "")
    raise UnidentifiedImageError("cannot identify image file")


def depth_of(image: Image.Image, data: bytes) -> int:
    """Bits a sample that a file declares, 8 where it does not say or Pillow's mode says it."""
    if image.format == "PNG" and data[25:26] in (b"\2", b"\4", b"\6"):
        return data[24]
    if image.format == "PPM" and data[:2] == b"P6":
        numbers = re.sub(rb"#[^\n]*", b"", data[:1024]).split()
        return int(numbers[3]).bit_length() if len(numbers) > 3 and numbers[3].isdigit() else 8
    if image.format == "TIFF" and image.mode not in ("I;16", "I;16B", "I", "F"):
        return int(max(getattr(image, "tag_v2", {}).get(0x0102, (8,))))
    if image.format in ("AVIF", "HEIF"):
        at = data.find(b"pixi", 0, data.find(b"mdat") if b"mdat" in data else None)
        return int(data[at + 9]) if 0 <= at < len(data) - 9 else 8
    if image.format == "JPEG2000" and image.mode != "I;16":
        at = data.find(b"\xff\x4f\xff\x51")
        return (data[at + 42] & 0x7F) + 1 if 0 <= at < len(data) - 42 else 8
    return 8


def readable_extensions() -> set[str]:
    """Extensions, with their dots, of the pictures that can be read."""
    use_plugins()
    return {suffix for suffix, name in Image.registered_extensions().items() if name in Image.OPEN} - {".ulc"}


@cache
def use_plugins() -> None:
    """Pillow's plugins for JPEG XL and HEIF, where they are installed."""
    with suppress(ImportError):
        import_module("pillow_jxl")
    with suppress(ImportError):
        import_module("pillow_heif").register_heif_opener()


def _picture(
    image: Image.Image, deep: NDArray[np.integer] | None, data: bytes | None, stored_exif: bytes | None
) -> Picture:
    """A picture of an image that is loaded, of its samples with 16 bits if there are, of its file and its EXIF."""
    exif = tiff_structure(stored_exif or b"")
    comes_turned = image.format == "TIFF" or (image.format == "JXL" and not getattr(image, "jpeg", False))
    if exif is not None and comes_turned:
        exif = upright_exif(exif)
    stated = image.info.get("cicp")
    cicp = cicp_of(data) if data is not None else Cicp.read(stated) if isinstance(stated, bytes) else None
    icc = image.info.get("icc_profile")
    if cicp is not None and not cicp.is_hdr and isinstance(icc, bytes) and image.format in ("AVIF", "HEIF"):
        cicp = None  # it describes the coded samples, the profile their colours
    xmp = xmp_of(image)
    if xmp is not None and comes_turned:
        xmp = upright_xmp(xmp)
    metadata: dict[str, Any] = {"exif": exif, "xmp": xmp, "cicp": cicp}

    def profile(grey: bool) -> bytes | None:
        return usable_profile(icc, grey) if icc else None if cicp is not None else png_profile(image, grey)

    if deep is not None:
        grey = deep.ndim == 2 or deep.shape[2] == 2
        alpha = deep[:, :, -1] if deep.ndim == 3 and deep.shape[2] in (2, 4) else None
        pixels = deep if deep.ndim == 2 else deep[:, :, 0] if grey else deep[:, :, :3]
        alpha_8 = None if alpha is None else Picture(alpha).pixels_8
        return Picture(np.ascontiguousarray(pixels), _unless_opaque(alpha_8), profile(grey), **metadata)
    if image.mode.startswith("I"):
        samples = np.asarray(image)
        if image.mode != "I" and getattr(image, "tag_v2", {}).get(PHOTOMETRIC_TIFF_TAG) == 0:
            samples = 65535 - samples  # white is zero, which Pillow heeds with 8 bits alone
        if samples.min() < 0 or samples.max() > 65535:
            raise ImageError("grey samples beyond 16 bits are not supported")
        key = image.info.get("transparency")
        opaque = None if key is None else np.where(samples == key, 0, 255).astype(np.uint8)
        return Picture(samples.astype(np.uint16), _unless_opaque(opaque), profile(True), **metadata)
    if image.mode == "F":
        raise ImageError("floating-point pictures are not supported")
    if image.mode in ("CMYK", "LAB"):
        return Picture(np.array(to_srgb(image, icc)), **metadata)
    grey = image.mode in GREY_MODES
    alpha_8 = None
    if image.has_transparency_data:
        image = image.convert("LA" if grey and image.mode != "1" else "RGBA")
        alpha_8 = np.array(image.getchannel("A"))
        image = image.convert("RGB") if image.mode == "RGBA" else image.getchannel("L")
    pixels = np.array(image.convert("L" if grey else "RGB"))
    return Picture(pixels, _unless_opaque(alpha_8), profile(grey), **metadata)


def _unless_opaque(alpha: NDArray[np.uint8] | None) -> NDArray[np.uint8] | None:
    return None if alpha is None or alpha.min() == 255 else alpha


DEEP_READERS = {"PNG": "png_decode", "AVIF": "avif_decode"}
"""The function of imagecodecs that reads all bits of a format."""


def _deep_samples(data: bytes, image: Image.Image, depth: int) -> NDArray[np.integer] | None:
    """All bits of a file's samples, [H, W] or [H, W, 2, 3 or 4], scaled to 16; None where nothing reads them."""
    try:
        import imagecodecs
    except ImportError:
        return None
    reader = DEEP_READERS.get(image.format or "")
    samples = None if reader is None else getattr(imagecodecs, reader)(data)
    if samples is None or samples.dtype != np.uint16 or samples.shape[:2] != image.size[::-1]:
        return None
    return to_full_range(samples, depth)


TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}
"""What each EXIF orientation asks for."""
