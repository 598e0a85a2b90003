"""Read pictures with Pillow: samples, alpha, and as much metadata as can be read."""

import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ulcodec.errors import ImageError
from ulcodec.format.attachments import to_full_range
from ulcodec.format.cicp import Cicp
from ulcodec.format.container import MAX_PIXELS
from ulcodec.io.colour import cicp_of, png_profile, to_srgb, usable_profile
from ulcodec.io.metadata import (
    exif_of,
    gain_map_of,
    tiff_structure,
    upright_exif,
    upright_xmp,
    without_metadata,
    xmp_of,
)
from ulcodec.io.picture import Picture

ImageSource = str | Path | bytes | BinaryIO | Image.Image

XMP_TIFF_TAG, PHOTOMETRIC_TIFF_TAG, PLANAR_TIFF_TAG = 700, 262, 284
GREY_MODES = {"1", "L", "LA", "La"}
PNG_HEADER_BYTES = 33
LAYERED_FORMATS = {"PSD", "ICO", "ICNS", "CUR"}
"""Formats whose further frames are layers or sizes of the first one."""


def load_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS, upright: bool = True) -> Picture:
    """Read the first picture of a path, bytes, a binary file object or a Pillow image.

    Palettes and CMYK become RGB, by the CMYK profile if there is one; bilevel becomes grey. 16 bits are kept for grey,
    and for colour in PNG and AVIF if imagecodecs is installed. An opaque alpha channel is dropped, and a profile that
    equals sRGB; PNG's gAMA and cHRM become a profile. `upright`: turn the picture by the orientation in its EXIF, or
    its XMP, and remove the orientation. A UserWarning reports losses: bit depth, further frames, a gain map, unreadable
    metadata. Raises ImageError for an incomplete picture, one of more than `max_pixels`, or samples that are not
    colours; OSError if the file cannot be read.
    """
    if isinstance(source, (str, Path)):
        source = Path(source).read_bytes()
    data = None if isinstance(source, Image.Image) else source if isinstance(source, bytes) else source.read()
    try:
        image = source if isinstance(source, Image.Image) else open_image(data or b"")
        picture, losses = _read(image, data, max_pixels)
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise ImageError("not a picture in a known format") from error
    except Exception as error:  # decoders of damaged files raise almost anything
        stripped = _read_without_metadata(data, max_pixels)
        if stripped is None:
            raise ImageError(f"the picture cannot be read: {error}") from error
        picture, losses = stripped[0], [f"metadata that cannot be read is left out: {error}", *stripped[1]]
    for line in losses:
        warnings.warn(line, stacklevel=2)
    return picture.upright() if upright else picture


def _read(image: Image.Image, data: bytes | None, max_pixels: int) -> tuple[Picture, list[str]]:
    """Read a picture, not turned, and the losses, a line each. `data`: the bytes of the file, if there is one."""
    if image.width * image.height > max_pixels:
        raise ImageError(f"{image.width}x{image.height} is more than {max_pixels} pixels")
    depth = 8 if data is None else depth_of(image, data)
    if image.format == "TIFF" and depth > 8 and getattr(image, "tag_v2", {}).get(PLANAR_TIFF_TAG) == 2:
        raise ImageError(f"TIFF of {depth} bits with a plane for each channel is not supported")
    deep = None if data is None or depth == 8 else _deep_samples(data, image, depth)
    n_frames = 1 if data is None or image.format in LAYERED_FORMATS else getattr(image, "n_frames", 1)
    exif = exif_of(image)  # before `load` closes the file of a TIFF
    image.load()
    exif = exif or exif_of(image)  # PNG may hold it behind the samples
    picture = _picture(image, deep, data, exif)
    losses = list(_losses(image, data, picture, depth, n_frames))
    if exif and tiff_structure(exif) is None:
        losses.append("EXIF that cannot be read is left out")
    return picture, losses


def _losses(image: Image.Image, data: bytes | None, picture: Picture, depth: int, n_frames: int) -> Iterator[str]:
    """Describe what the picture lacks of its file, a line each."""
    if depth > picture.bit_depth:
        more = '; pip install "ulcodec[deep]" for all of it' if image.format in DEEP_READERS else ""
        yield f"{depth}-bit samples are read with {picture.bit_depth} bits{more}"
    if data is not None and gain_map_of(data, picture.xmp):
        yield "the gain map is left out: the picture is its base rendition"
    elif n_frames > 1:
        yield f"only the first of {n_frames} pictures of the file is read"


def _read_without_metadata(data: bytes | None, max_pixels: int) -> tuple[Picture, list[str]] | None:
    """Read a file whose metadata may be unreadable, without them; None if that fails too."""
    stripped = None if data is None else without_metadata(data)
    if stripped is None:
        return None
    with suppress(Exception):
        return _read(open_image(stripped), stripped, max_pixels)
    return None


def open_image(data: bytes) -> Image.Image:
    """Open a file with Pillow, and load its plugins only if needed, since importing them is slow."""
    Image.preinit()
    with suppress(UnidentifiedImageError):
        return _identified(data)
    Image.init()
    use_plugins()
    return _identified(data)


def _identified(data: bytes) -> Image.Image:
    """Open like `Image.open`, without its limit on pixels, which is global: `load_image` takes one as argument."""
    for name in list(Image.ID):
        factory, accept = Image.OPEN[name]
        with suppress(SyntaxError, IndexError, TypeError, KeyError, EOFError, struct.error):
            accepted = accept is None or accept(data[:16])
            if accepted and not isinstance(accepted, str):  # a string names what is not installed
                return factory(BytesIO(data), "")
    raise UnidentifiedImageError("cannot identify image file")


def depth_of(image: Image.Image, data: bytes) -> int:
    """Bits per sample that a file declares; 8 if it declares none, or if Pillow's mode implies more."""
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
    """Extensions of the pictures that can be read, with their dots."""
    use_plugins()
    return {suffix for suffix, name in Image.registered_extensions().items() if name in Image.OPEN} - {".ulc"}


@cache
def use_plugins() -> None:
    """Load Pillow's plugins for JPEG XL and HEIF, if they are installed."""
    with suppress(ImportError):
        import_module("pillow_jxl")
    with suppress(ImportError):
        import_module("pillow_heif").register_heif_opener()


def _picture(
    image: Image.Image, deep: NDArray[np.integer] | None, data: bytes | None, stored_exif: bytes | None
) -> Picture:
    """Make a picture of a loaded image. `deep`: its 16-bit samples, if they were read."""
    metadata = _metadata(image, data, stored_exif)
    icc, has_cicp = image.info.get("icc_profile"), metadata["cicp"] is not None

    def profile(grey: bool) -> bytes | None:
        return usable_profile(icc, grey) if icc else None if has_cicp else png_profile(image, grey)

    if deep is not None:
        grey = deep.ndim == 2 or deep.shape[2] == 2
        alpha = deep[:, :, -1] if deep.ndim == 3 and deep.shape[2] in (2, 4) else None
        pixels = deep if deep.ndim == 2 else deep[:, :, 0] if grey else deep[:, :, :3]
        alpha_8 = None if alpha is None else Picture(alpha).pixels_8
        return Picture(np.ascontiguousarray(pixels), _unless_opaque(alpha_8), profile(grey), **metadata)
    if image.mode == "F":
        raise ImageError("floating-point pictures are not supported")
    if image.mode.startswith("I"):
        deep_grey, alpha_8 = _integer_samples(image)
        return Picture(deep_grey, _unless_opaque(alpha_8), profile(True), **metadata)
    if image.mode in ("CMYK", "LAB"):
        return Picture(np.array(to_srgb(image, icc)), **metadata)
    grey = image.mode in GREY_MODES
    samples, alpha_8 = _byte_samples(image, grey)
    return Picture(samples, _unless_opaque(alpha_8), profile(grey), **metadata)


def _metadata(image: Image.Image, data: bytes | None, stored_exif: bytes | None) -> dict[str, Any]:
    """EXIF, XMP and CICP of an image. Readers of TIFF and JPEG XL turn the picture: its orientation is dropped."""
    exif, xmp = tiff_structure(stored_exif or b""), xmp_of(image)
    if image.format == "TIFF" or (image.format == "JXL" and not getattr(image, "jpeg", False)):
        exif = None if exif is None else upright_exif(exif)
        xmp = None if xmp is None else upright_xmp(xmp)
    stored = image.info.get("cicp")
    cicp = cicp_of(data) if data is not None else Cicp.read(stored) if isinstance(stored, bytes) else None
    has_profile = isinstance(image.info.get("icc_profile"), bytes)
    if cicp is not None and not cicp.is_hdr and has_profile and image.format in ("AVIF", "HEIF"):
        cicp = None  # it describes the coded samples, the profile their colours
    return {"exif": exif, "xmp": xmp, "cicp": cicp}


def _integer_samples(image: Image.Image) -> tuple[NDArray[np.uint16], NDArray[np.uint8] | None]:
    """16-bit grey samples and alpha of an image of Pillow's integer modes."""
    samples = np.asarray(image)
    if image.mode != "I" and getattr(image, "tag_v2", {}).get(PHOTOMETRIC_TIFF_TAG) == 0:
        samples = 65535 - samples  # white is zero: Pillow inverts 8-bit samples only
    if samples.min() < 0 or samples.max() > 65535:
        raise ImageError("grey samples beyond 16 bits are not supported")
    transparent = image.info.get("transparency")
    alpha = None if transparent is None else np.where(samples == transparent, 0, 255).astype(np.uint8)
    return samples.astype(np.uint16), alpha


def _byte_samples(image: Image.Image, grey: bool) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """8-bit samples and alpha of an image of any other mode."""
    alpha = None
    if image.has_transparency_data:
        image = image.convert("LA" if grey and image.mode != "1" else "RGBA")
        alpha = np.array(image.getchannel("A"))
        image = image.convert("RGB") if image.mode == "RGBA" else image.getchannel("L")
    return np.array(image.convert("L" if grey else "RGB")), alpha


def _unless_opaque(alpha: NDArray[np.uint8] | None) -> NDArray[np.uint8] | None:
    return None if alpha is None or alpha.min() == 255 else alpha


DEEP_READERS = {"PNG": "png_decode", "AVIF": "avif_decode"}
"""Function of imagecodecs that reads all bits of a format."""


def _deep_samples(data: bytes, image: Image.Image, depth: int) -> NDArray[np.integer] | None:
    """Read all bits of a file's samples, scaled to 16: [H, W] or [H, W, 2 to 4]; None if no reader is installed."""
    try:
        import imagecodecs
    except ImportError:
        return None
    reader = DEEP_READERS.get(image.format or "")
    samples = None if reader is None else getattr(imagecodecs, reader)(data)
    if samples is None or samples.dtype != np.uint16 or samples.shape[:2] != image.size[::-1]:
        return None
    return to_full_range(samples, depth)
