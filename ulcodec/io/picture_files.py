"""Write pictures to files with Pillow, with as much metadata as the format carries."""

import warnings
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from ulcodec.errors import ImageError
from ulcodec.io.colour import cicp_profile, to_srgb, with_cicp
from ulcodec.io.files import atomic_write
from ulcodec.io.picture import METADATA_NAMES, Picture
from ulcodec.io.pictures import PNG_HEADER_BYTES, XMP_TIFF_TAG, load_image, open_image, use_plugins

FORMATS_THAT_TURN = {"JPEG", "MPO", "PNG", "WEBP", "AVIF", "HEIF"}
"""Formats whose readers turn the picture by its EXIF."""
FORMATS_WITH_CICP = {"PNG", "AVIF", "HEIF"}
NO_ALPHA = "{} does not hold an alpha channel; take png, webp, avif or tif"


def image_format(path: Path) -> str:
    """Pillow's name of the format of an extension, PNG without one. Raises ImageError for an unknown extension."""
    suffix = path.suffix.lower() or ".png"
    Image.preinit()  # the common formats; registered_extensions imports all
    if suffix not in Image.EXTENSION:
        use_plugins()
    name = Image.EXTENSION.get(suffix) or Image.registered_extensions().get(suffix, "")
    if name not in Image.SAVE or name == "ULC":  # ulcodec's own, which `ulcodec.pillow` may have added
        raise ImageError(f"cannot write pictures with the extension {suffix!r}; try .png")
    return name


def save_image(picture: Picture | NDArray[Any], path: Path) -> None:
    """Write a picture, or an array of its samples, in the format of the extension, atomically.

    Raises as `image_format` and `picture_file`, and OSError.
    """
    atomic_write(path, picture_file(picture if isinstance(picture, Picture) else Picture(picture), image_format(path)))


def picture_file(picture: Picture, name: str) -> bytes:
    """Serialise a picture in a format, given by Pillow's name. Lossy formats get quality 95.

    A UserWarning names the metadata that the format cannot hold; if it cannot hold the orientation, the picture is
    turned. 16-bit colour is written to PNG, by imagecodecs; other formats get 8 bits, with a warning. Raises ImageError
    for a size or an alpha channel that the format cannot hold.
    """
    if picture.orientation != 1 and name not in FORMATS_THAT_TURN:
        picture = picture.upright()
    picture = _with_supported_metadata(_with_supported_samples(picture, name), name)
    try:
        if _needs_deep_png(picture, name):
            return _deep_png(picture)
        return _checked(_pillow_file(picture, name), picture, name)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # writers raise almost anything for a size that does not fit their fields
        if picture.alpha is not None and "mode" in str(error):
            raise ImageError(NO_ALPHA.format(name)) from error
        raise ImageError(f"cannot write this picture as {name}: {error}") from error


def _with_supported_samples(picture: Picture, name: str) -> Picture:
    """Replace CICP by a profile in formats without CICP, and 16 bits by 8 in formats without 16."""
    grey = picture.pixels.ndim == 2
    if picture.cicp is not None and name not in FORMATS_WITH_CICP:
        icc = picture.icc or cicp_profile(picture.cicp, grey)
        if icc is not None and not picture.cicp.is_hdr:
            picture = replace(picture, icc=icc, cicp=None)
    deep = name == "PNG" or (name == "TIFF" and grey and picture.alpha is None)
    if picture.bit_depth == 16 and not deep:
        warnings.warn(f"{name} is written with 8 bits a sample of the picture's 16", stacklevel=3)
        picture = replace(picture, pixels=picture.pixels_8)
    return picture


def _with_supported_metadata(picture: Picture, name: str) -> Picture:
    """Drop the metadata that a file of the format would not return, with a warning."""
    lost = [kind for kind in METADATA_NAMES if getattr(picture, kind) is not None and not _carries(picture, kind, name)]
    if lost and not (lost == ["icc"] and name == "WEBP" and picture.pixels.ndim == 2):
        fields = ", ".join(METADATA_NAMES[kind] for kind in lost)
        warnings.warn(f"{name} does not hold {fields} of this picture: left out", stacklevel=3)
    if "icc" in lost and picture.pixels.ndim == 2 and picture.bit_depth == 8:
        picture = _grey_in_srgb(picture)
    return picture.without(*lost) if lost else picture


def _grey_in_srgb(picture: Picture) -> Picture:
    """Convert grey tones from their profile to sRGB."""
    tones = np.arange(256, dtype=np.uint8)[None]
    converted = np.asarray(to_srgb(Image.fromarray(tones), picture.icc))
    table = converted[0, :, 1] if converted.ndim == 3 else converted[0]
    return replace(picture, pixels=table[picture.pixels], icc=None)


def _carries(picture: Picture, kind: str, name: str) -> bool:
    """Whether a small file with the same kind of samples returns one field of metadata."""
    samples = np.zeros((16, 16, *picture.pixels.shape[2:]), picture.pixels.dtype)
    alpha = None if picture.alpha is None else np.full((16, 16), 7, np.uint8)
    small = Picture(samples, alpha, **{kind: getattr(picture, kind)})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file = _deep_png(small) if _needs_deep_png(small, name) else _pillow_file(small, name)
            read_back = load_image(file, upright=False)
    except Exception:  # writers raise almost anything, see `picture_file`
        return False
    if kind in ("icc", "cicp"):
        return bool(getattr(read_back, kind) == getattr(picture, kind))
    return getattr(read_back, kind) is not None


def _checked(file: bytes, picture: Picture, name: str) -> bytes:
    """Return a file after reading back its size and alpha channel. Raises ImageError if they differ."""
    if name not in Image.OPEN:
        return file
    height, width = picture.pixels.shape[:2]
    try:
        opened = open_image(file)
    except Exception as error:
        raise ImageError(f"cannot write {width}x{height} pixels as {name}: no reader would open them") from error
    is_turned = name == "HEIF" and picture.orientation >= 5  # its reader turns it
    if opened.size != ((height, width) if is_turned else (width, height)):
        raise ImageError(f"{name} cannot hold {width}x{height} pixels; it would be {opened.width}x{opened.height}")
    if picture.alpha is not None and not opened.has_transparency_data:
        raise ImageError(NO_ALPHA.format(name))
    return file


def _pillow_file(picture: Picture, name: str) -> bytes:
    buffer, image = BytesIO(), picture.to_pil()
    options: dict[str, Any] = {"quality": 95, **picture.metadata}
    if name == "PNG" and picture.xmp is not None:
        options["pnginfo"] = text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", picture.xmp.decode(errors="replace"))
    if name == "TIFF" and picture.xmp is not None:
        options["exif"] = tags = Image.Exif()
        tags.load(picture.exif or b"")
        tags[XMP_TIFF_TAG] = picture.xmp
    if name == "HEIF" and picture.cicp is not None:
        options |= {"color_primaries": picture.cicp.primaries, "transfer_characteristics": picture.cicp.transfer}
    image.save(buffer, name, **options)
    file = buffer.getvalue()
    return with_cicp(file, picture.cicp) if picture.cicp is not None and name in ("PNG", "AVIF") else file


def _needs_deep_png(picture: Picture, name: str) -> bool:
    return name == "PNG" and picture.bit_depth == 16 and (picture.pixels.ndim == 3 or picture.alpha is not None)


def _deep_png(picture: Picture) -> bytes:
    """Write a PNG file of 16 bits, with the metadata chunks that Pillow writes for a picture of one pixel."""
    try:
        import imagecodecs
    except ImportError as error:
        raise ImageError('16-bit colour needs imagecodecs: pip install "ulcodec[deep]", or --depth 8') from error
    data = bytes(imagecodecs.png_encode(picture.samples))
    donor = _pillow_file(replace(picture, pixels=np.zeros((1, 1), np.uint8), alpha=None), "PNG")
    return data[:PNG_HEADER_BYTES] + donor[PNG_HEADER_BYTES : donor.index(b"IDAT") - 4] + data[PNG_HEADER_BYTES:]
