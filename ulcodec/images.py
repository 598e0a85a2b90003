"""Pictures in and out: Pillow at the border, numpy arrays inside."""

import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageOps, PngImagePlugin, UnidentifiedImageError

from ulcodec.container import MAX_PIXELS
from ulcodec.errors import ImageError
from ulcodec.files import atomic_write

ImageSource = str | Path | bytes | BinaryIO | Image.Image

GREY_MODES = {"1", "L", "LA", "La"}
PNG_HEADER_BYTES = 33
EXIF_PREFIX = b"Exif\0\0"


@dataclass(frozen=True)
class Picture:
    """A picture that can be coded.

    `pixels`: uint8 or uint16 [H, W, 3] (RGB) or [H, W] (grey), H, W >= 1; `alpha`: uint8 [H, W], straight, or None if
    opaque; `icc`: profile, None for sRGB; `exif` (TIFF structure) and `xmp` (packet) as bytes. Otherwise ImageError.
    """

    pixels: NDArray[Any]
    alpha: NDArray[np.uint8] | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None

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

        `info` carries icc_profile, exif and xmp.
        """
        deep_grey = self.bit_depth == 16 and self.pixels.ndim == 2 and self.alpha is None
        image = Image.fromarray(self.pixels if deep_grey else replace(self, pixels=self.pixels_8).samples)
        image.info.update(self.metadata)
        return image

    @property
    def metadata(self) -> dict[str, bytes]:
        """ICC, EXIF and XMP under the names that Pillow gives them, those that there are."""
        exif = None if self.exif is None else EXIF_PREFIX + self.exif
        named = {"icc_profile": self.icc, "exif": exif, "xmp": self.xmp}
        return {name: data for name, data in named.items() if data is not None}


def load_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS, upright: bool = True) -> Picture:
    """Read the first picture of a path, bytes, a binary file object or a Pillow image.

    Palettes become RGB, CMYK too, by its profile if it has one; bilevel becomes grey. 16 bits are kept for grey, and
    for colour in PNG if imagecodecs is installed (else a warning). An opaque alpha channel is dropped, and a profile
    that does what sRGB does. `upright`: apply the EXIF orientation and take it out of the EXIF. Raises ImageError for
    what is not a whole picture, has more than `max_pixels`, or holds samples that have no such meaning; OSError if it
    cannot be read.
    """
    if isinstance(source, (str, Path)):
        source = Path(source).read_bytes()
    try:
        if isinstance(source, Image.Image):
            deep = None
        else:
            data = source if isinstance(source, bytes) else source.read()
            source, deep = _opened(data), data if is_deep_png(data) else None
        if source.width * source.height > max_pixels:
            raise ImageError(f"{source.width}x{source.height} is more than {max_pixels} pixels")
        turned = upright and source.getexif().get(ExifTags.Base.Orientation, 1) != 1
        image = ImageOps.exif_transpose(source) if turned else source
        image.load()
        picture = _picture(image, None if deep is None else _deep_samples(deep, source, upright))
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise ImageError("not a picture in a known format") from error
    except Exception as error:  # decoders of damaged files raise almost anything
        raise ImageError(f"the picture cannot be read: {error}") from error
    if deep is not None and picture.bit_depth == 8:
        warnings.warn('16-bit colour is read with 8 bits; pip install "ulcodec[deep]" for all of it', stacklevel=2)
    return picture


def _opened(data: bytes) -> Image.Image:
    """The image of a file, by Pillow alone if it can: importing the plugins takes time."""
    with suppress(UnidentifiedImageError):
        return Image.open(BytesIO(data))
    use_plugins()
    return Image.open(BytesIO(data))


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


def image_format(path: Path) -> str:
    """Pillow's name of the format that the extension stands for, PNG if there is none. Raises ImageError if unknown."""
    suffix = path.suffix.lower() or ".png"
    Image.preinit()  # the common formats; registered_extensions imports all
    name = Image.EXTENSION.get(suffix) or Image.registered_extensions().get(suffix, "")
    if name not in Image.SAVE or name == "ULC":  # ulcodec's own, which `ulcodec.pillow` may have added
        raise ImageError(f"cannot write pictures with the extension {suffix!r}; try .png")
    return name


def save_image(picture: Picture | NDArray[Any], path: Path) -> None:
    """Write a picture, or its array, in the format of the extension, atomically.

    Raises as `image_format` and `picture_file`, and OSError.
    """
    atomic_write(path, picture_file(picture if isinstance(picture, Picture) else Picture(picture), image_format(path)))


def picture_file(picture: Picture, name: str) -> bytes:
    """A file in a format by Pillow's name of it. Formats with loss get quality 95.

    Metadata goes along where the format takes it. 16-bit colour is written in PNG, by imagecodecs; other formats get 8
    bits. Raises ImageError for a size or an alpha channel that has no writer.
    """
    try:
        return _deep_png(picture) if _needs_deep_png(picture, name) else _pillow_file(picture, name)
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot write this picture as {name}: {error}") from error


def _pillow_file(picture: Picture, name: str) -> bytes:
    buffer, image = BytesIO(), picture.to_pil()
    if image.mode == "I;16" and name not in ("PNG", "TIFF"):
        image = replace(picture, pixels=picture.pixels_8).to_pil()
    options: dict[str, Any] = {"quality": 95, **picture.metadata}
    if name == "PNG" and picture.xmp is not None:
        options["pnginfo"] = text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", picture.xmp.decode(errors="replace"))
    image.save(buffer, name, **options)
    return buffer.getvalue()


def _picture(image: Image.Image, deep: NDArray[np.uint16] | None) -> Picture:
    """A picture of an image that is loaded, and of its samples with 16 bits if there are."""
    metadata: dict[str, Any] = {"exif": _exif(image), "xmp": _xmp(image)}
    icc = image.info.get("icc_profile")
    if deep is not None:
        grey, alpha = deep.shape[2] == 2, deep[:, :, -1] if deep.shape[2] in (2, 4) else None
        pixels = deep[:, :, 0] if grey else deep[:, :, :3]
        alpha_8 = None if alpha is None else Picture(alpha).pixels_8
        return Picture(np.ascontiguousarray(pixels), _unless_opaque(alpha_8), _profile(icc, grey), **metadata)
    if image.mode.startswith("I"):
        samples = np.asarray(image)
        if samples.min() < 0 or samples.max() > 65535:
            raise ImageError("grey samples beyond 16 bits are not supported")
        key = image.info.get("transparency")
        opaque = None if key is None else np.where(samples == key, 0, 255).astype(np.uint8)
        return Picture(samples.astype(np.uint16), _unless_opaque(opaque), _profile(icc, True), **metadata)
    if image.mode == "F":
        raise ImageError("floating-point pictures are not supported")
    if image.mode in ("CMYK", "LAB"):
        return Picture(np.array(_to_srgb(image, icc)), **metadata)
    grey = image.mode in GREY_MODES
    alpha_8 = None
    if image.has_transparency_data:
        image = image.convert("LA" if grey and image.mode != "1" else "RGBA")
        alpha_8 = np.array(image.getchannel("A"))
        image = image.convert("RGB") if image.mode == "RGBA" else image.getchannel("L")
    pixels = np.array(image.convert("L" if grey else "RGB"))
    return Picture(pixels, _unless_opaque(alpha_8), _profile(icc, grey), **metadata)


def _unless_opaque(alpha: NDArray[np.uint8] | None) -> NDArray[np.uint8] | None:
    return None if alpha is None or alpha.min() == 255 else alpha


def _exif(image: Image.Image) -> bytes | None:
    data = image.info.get("exif")
    return data.removeprefix(EXIF_PREFIX) or None if isinstance(data, bytes) else None


def _xmp(image: Image.Image) -> bytes | None:
    data = image.info.get("xmp")
    return data or None if isinstance(data, bytes) else None


def _to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """Colours that are not RGB, by their profile if there is one that can be read."""
    profiles: list[Any] = [] if icc is None else [BytesIO(icc)]
    for profile in [*profiles, *([ImageCms.createProfile("LAB")] if image.mode == "LAB" else [])]:
        try:
            shown = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (OSError, ImageCms.PyCMSError):
            continue
        if shown is not None:
            return shown
    return image.convert("RGB")


def _profile(icc: object, grey: bool) -> bytes | None:
    """The profile, unless it is broken, for other samples than the picture has, or does what sRGB does."""
    if not isinstance(icc, bytes):
        return None
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(icc))
        if profile.profile.xcolor_space.strip() != ("GRAY" if grey else "RGB"):
            return None
        if grey:
            return icc
        steps = np.linspace(0, 255, 9).round().astype(np.uint8)
        colours = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(27, 27, 3)
        srgb = ImageCms.createProfile("sRGB")
        shown = ImageCms.profileToProfile(
            Image.fromarray(colours), profile, srgb, ImageCms.Intent.RELATIVE_COLORIMETRIC
        )
    except (OSError, ImageCms.PyCMSError):
        return None
    return None if np.abs(np.asarray(shown).astype(int) - colours).max() <= 1 else icc


def is_deep_png(data: bytes) -> bool:
    """A PNG file of 16 bits with colour or alpha, of which Pillow gives 8."""
    return data[:8] == b"\x89PNG\r\n\x1a\n" and data[24:25] == b"\x10" and data[25:26] in (b"\2", b"\4", b"\6")


def _deep_samples(data: bytes, image: Image.Image, upright: bool) -> NDArray[np.uint16] | None:
    """All 16 bits of a PNG file, [H, W, 2, 3 or 4], turned as its EXIF says if `upright`; None without imagecodecs."""
    try:
        import imagecodecs
    except ImportError:
        return None
    samples = imagecodecs.png_decode(data)
    method = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1)) if upright else None
    return samples if method is None else np.ascontiguousarray(method(samples))


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


def _needs_deep_png(picture: Picture, name: str) -> bool:
    return name == "PNG" and picture.bit_depth == 16 and (picture.pixels.ndim == 3 or picture.alpha is not None)


def _deep_png(picture: Picture) -> bytes:
    """A PNG file of 16 bits, with the metadata chunks that Pillow writes for a picture of one pixel."""
    try:
        import imagecodecs
    except ImportError as error:
        raise ImageError('16-bit colour needs imagecodecs: pip install "ulcodec[deep]", or --depth 8') from error
    data = bytes(imagecodecs.png_encode(picture.samples))
    extra = _pillow_file(Picture(np.zeros((1, 1), np.uint8), None, picture.icc, picture.exif, picture.xmp), "PNG")
    return data[:PNG_HEADER_BYTES] + extra[PNG_HEADER_BYTES : extra.index(b"IDAT") - 4] + data[PNG_HEADER_BYTES:]
