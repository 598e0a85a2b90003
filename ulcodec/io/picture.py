"""The picture that the codec codes: samples, alpha and metadata."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ulcodec.errors import ImageError
from ulcodec.format.attachments import MAX_METADATA_BYTES
from ulcodec.format.cicp import Cicp
from ulcodec.io.metadata import EXIF_PREFIX, orientation_of, upright_exif, upright_xmp

METADATA_NAMES = {"icc": "the colour profile", "exif": "EXIF", "xmp": "XMP", "cicp": "CICP"}

TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}
"""Operation that turns a picture of an EXIF orientation upright."""


@dataclass(frozen=True)
class Picture:
    """A picture that can be coded.

    `pixels`: uint8 or uint16 [H, W, 3] (RGB) or [H, W] (grey), H, W >= 1; `alpha`: uint8 [H, W], straight, None for an
    opaque picture; `icc`: profile, None for sRGB; `exif` (TIFF structure) and `xmp` (packet) as bytes; `cicp`: code
    points of ITU-T H.273, None for sRGB. Raises ImageError for other shapes or dtypes.
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
        """`pixels` at 8 bits: round(sample / 257), which maps 65535 to 255."""
        return self.pixels if self.bit_depth == 8 else ((self.pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)

    @property
    def rgb_8(self) -> NDArray[np.uint8]:
        """`pixels` at 8 bits as [H, W, 3]: grey is repeated."""
        pixels = self.pixels_8
        return pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)

    @property
    def pixels_16(self) -> NDArray[np.uint16]:
        """`pixels` at 16 bits: 257 times a sample of 8, which maps 255 to 65535."""
        return self.pixels if self.bit_depth == 16 else self.pixels.astype(np.uint16) * 257

    @property
    def samples(self) -> NDArray[Any]:
        """Pixels and alpha as one array: [H, W, 3] or [H, W], with alpha [H, W, 4] or [H, W, 2]."""
        if self.alpha is None:
            return self.pixels
        alpha = self.alpha if self.bit_depth == 8 else self.alpha.astype(np.uint16) * 257
        return np.dstack([self.pixels, alpha])

    def to_pil(self) -> Image.Image:
        """Convert to a Pillow image of mode L, LA, RGB, RGBA, or I;16 for 16-bit grey without alpha.

        16-bit colour becomes 8 bits, since Pillow has no such mode. `info` holds icc_profile, exif, xmp, and
        cicp as the bytes of PNG.
        """
        deep_grey = self.bit_depth == 16 and self.pixels.ndim == 2 and self.alpha is None
        image = Image.fromarray(self.pixels if deep_grey else replace(self, pixels=self.pixels_8).samples)
        image.info.update(self.metadata)
        if self.cicp is not None:
            image.info["cicp"] = bytes(self.cicp)
        return image

    @property
    def metadata(self) -> dict[str, bytes]:
        """ICC, EXIF and XMP by Pillow's names, without those that are missing."""
        exif = None if self.exif is None else EXIF_PREFIX + self.exif
        fields = {"icc_profile": self.icc, "exif": exif, "xmp": self.xmp}
        return {name: data for name, data in fields.items() if data is not None}

    @property
    def orientation(self) -> int:
        """Orientation from 1 (upright) to 8, from EXIF, or from XMP if EXIF has none."""
        return orientation_of(self.exif, self.xmp)

    def upright(self) -> "Picture":
        """Turn the picture upright, and remove the orientation from its metadata."""
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
        """Drop fields of metadata; turn the picture upright first if one of them holds the orientation."""
        none: dict[str, Any] = dict.fromkeys(names)
        stripped = replace(self, **none)
        return stripped if stripped.orientation == self.orientation else replace(self.upright(), **none)

    def within_limits(self) -> "Picture":
        """Drop metadata beyond the limit of the `.ulc` format, with a warning."""
        too_long = [name for name in ("icc", "exif", "xmp") if len(getattr(self, name) or b"") > MAX_METADATA_BYTES]
        if too_long:
            fields = ", ".join(METADATA_NAMES[name] for name in too_long)
            warnings.warn(f"{fields} of more than {MAX_METADATA_BYTES} bytes: left out", stacklevel=3)
        return self.without(*too_long)
