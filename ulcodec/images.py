"""Pictures in and out: Pillow at the border, uint8 numpy arrays inside."""

import os
import secrets
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ulcodec.container import MAX_PIXELS
from ulcodec.errors import ImageError

ImageSource = str | Path | bytes | BinaryIO | Image.Image

GREY_MODES = {"1", "L", "LA", "La"}


@dataclass(frozen=True)
class ImagePixels:
    """A picture that can be coded: `pixels` uint8 [H, W, 3] (RGB) or [H, W] (grey), H, W >= 1. Otherwise ImageError."""

    pixels: NDArray[np.uint8]

    def __post_init__(self) -> None:
        shape = self.pixels.shape
        if self.pixels.dtype != np.uint8 or not (self.pixels.ndim == 2 or (self.pixels.ndim == 3 and shape[2] == 3)):
            raise ImageError(f"expected uint8 [H, W, 3] or [H, W], got {self.pixels.dtype} {list(shape)}")
        if 0 in shape:
            raise ImageError(f"a picture has at least one pixel, got {list(shape)}")


def load_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> ImagePixels:
    """Read the first picture of a path, bytes, a binary file object or a Pillow image, as 8-bit RGB or grey.

    The EXIF orientation is applied. Palettes and CMYK become RGB, bilevel becomes grey, 16-bit grey is scaled to
    8 bits, an opaque alpha channel is dropped. Raises ImageError for what is not a whole picture, has more than
    `max_pixels`, is partly transparent or holds samples that have no 8-bit meaning; OSError if it cannot be read.
    """
    return ImagePixels(_to_uint8(_open(source, max_pixels)))


def image_format(path: Path) -> str:
    """Pillow's name of the format that the extension stands for, PNG if there is none. Raises ImageError if unknown."""
    suffix = path.suffix.lower() or ".png"
    name = Image.registered_extensions().get(suffix, "")
    if name not in Image.SAVE:
        raise ImageError(f"cannot write pictures with the extension {suffix!r}; try .png")
    return name


def save_image(pixels: NDArray[np.uint8], path: Path) -> None:
    """Write uint8 [H, W, 3] or [H, W] in the format of the extension, atomically. Formats with loss get quality 95.

    Raises ImageError for an extension or a size that has no writer, OSError if the file cannot be written.
    """
    name, buffer = image_format(path), BytesIO()
    try:
        Image.fromarray(pixels).save(buffer, name, quality=95)
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot write this picture as {name}: {error}") from error
    atomic_write(path, buffer.getvalue())


def atomic_write(path: Path, data: bytes) -> None:
    """Write a whole file or none: a temporary sibling takes the name only when its bytes are on the disk.

    A link is followed; a device or pipe is written directly. Raises OSError, which names `path`.
    """
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(data)
        else:
            _replace(target, data)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _replace(target: Path, data: bytes) -> None:
    sibling = target.with_name(f".ulcodec-{secrets.token_hex(8)}.tmp")
    try:
        with open(sibling, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(sibling, target)
    except BaseException:
        sibling.unlink(missing_ok=True)
        raise


def _open(source: ImageSource, max_pixels: int) -> Image.Image:
    """The picture upright and in memory."""
    if isinstance(source, (str, Path)):
        source = Path(source).read_bytes()
    if isinstance(source, bytes):
        source = BytesIO(source)
    try:
        image = source if isinstance(source, Image.Image) else Image.open(source)
        if image.width * image.height > max_pixels:
            raise ImageError(f"{image.width}x{image.height} is more than {max_pixels} pixels")
        return ImageOps.exif_transpose(image)
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise ImageError("not a picture in a known format") from error
    except Exception as error:  # decoders of damaged files raise almost anything
        raise ImageError(f"the picture cannot be read: {error}") from error


def _to_uint8(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I"):
        return _scale_16_bits(np.asarray(image), image.info.get("transparency"))
    if image.mode == "F":
        raise ImageError("floating-point pictures are not supported")
    grey = image.mode in GREY_MODES
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise ImageError("transparency is not supported yet: flatten the picture first")
        return np.array(image.getchannel("R") if grey else image.convert("RGB"))
    return np.array(image.convert("L" if grey else "RGB"))


def _scale_16_bits(samples: NDArray[np.integer], transparent: int | None) -> NDArray[np.uint8]:
    """round(sample / 257), which takes 65535 to 255."""
    if samples.min() < 0 or samples.max() > 65535:
        raise ImageError("grey samples beyond 16 bits are not supported")
    if transparent is not None and np.any(samples == transparent):
        raise ImageError("transparency is not supported yet: flatten the picture first")
    return ((samples.astype(np.int32) + 128) // 257).astype(np.uint8)
