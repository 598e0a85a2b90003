"""What a file carries beside the picture: metadata, deflated, and the alpha channel. No torch and no model."""

import warnings
import zlib
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ulcodec.colour import Cicp
from ulcodec.container import Attachment, Container, leb128, read_leb128
from ulcodec.errors import CorruptDataError, LimitError

MAX_METADATA_BYTES = 2**24
ALPHA_TILE_PX = 8192
MAX_SIGNIFICANT_BITS = 14
"""Samples that use more of their 16 bits than so many are coded as they are."""
MAX_TILE_BYTES = 2**28 - 1


def deflate(data: bytes) -> bytes:
    """Raw deflate (RFC 1951)."""
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def inflate(data: bytes) -> bytes:
    """Inverse of `deflate`. Raises CorruptDataError, or LimitError beyond `MAX_METADATA_BYTES`."""
    unpacker = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    try:
        unpacked = unpacker.decompress(data, MAX_METADATA_BYTES + 1)
    except zlib.error as error:
        raise CorruptDataError(f"metadata that does not inflate: {error}") from error
    if len(unpacked) > MAX_METADATA_BYTES:
        raise LimitError(f"metadata of more than {MAX_METADATA_BYTES} bytes")
    if not unpacker.eof or unpacker.unused_data:
        raise CorruptDataError("metadata that does not inflate to its end")
    return unpacked


def metadata_field(kind: Attachment, data: bytes) -> dict[str, Any]:
    """The field of a `Picture` that attached ICC, EXIF, XMP or CICP gives.

    None, with a warning, for what inflates beyond `MAX_METADATA_BYTES`. Raises CorruptDataError.
    """
    if kind is Attachment.CICP:
        cicp = Cicp.read(data)
        if cicp is None:
            raise CorruptDataError("CICP that is not 4 bytes of an RGB picture")
        return {"cicp": cicp}
    try:
        return {kind.name.lower(): inflate(data)}
    except LimitError as error:
        warnings.warn(f"{kind.name} is left out: {error}", stacklevel=2)
        return {}


def significant_bits(samples: NDArray[np.integer]) -> int:
    """Bits that the largest of uint16 samples takes, if they are 1 to `MAX_SIGNIFICANT_BITS`; otherwise all 8 or 16."""
    depth = 8 * samples.dtype.itemsize
    bits = int(samples.max()).bit_length() if depth == 16 else 0
    return bits if 1 <= bits <= MAX_SIGNIFICANT_BITS else depth


def to_full_range(samples: NDArray[np.integer], bits: int) -> NDArray[np.integer]:
    """uint16 samples up to 2^bits - 1 -> up to 65535: round(s * 65535 / (2^bits - 1)). Others stay as they are."""
    if bits > MAX_SIGNIFICANT_BITS or samples.dtype != np.uint16:
        return samples
    peak = 2**bits - 1
    scaled: NDArray[np.integer] = ((samples.astype(np.uint32) * 65535 + peak // 2) // peak).astype(np.uint16)
    return scaled


def from_full_range(samples: NDArray[np.integer], said: Container) -> NDArray[np.integer]:
    """Inverse of `to_full_range`, for a file's samples. Raises CorruptDataError for bits that no writer states."""
    stated = dict(said.attachments).get(Attachment.SIGNIFICANT_BITS)
    if stated is None:
        return samples
    if len(stated) != 1 or not 1 <= stated[0] <= MAX_SIGNIFICANT_BITS or said.bit_depth != 16:
        raise CorruptDataError("significant bits that do not belong to the picture")
    peak = 2 ** stated[0] - 1
    scaled: NDArray[np.integer] = ((samples.astype(np.uint32) * peak + 32767) // 65535).astype(np.uint16)
    return scaled


def encode_alpha(alpha: NDArray[np.uint8]) -> bytes:
    """Alpha [H, W] without loss: tiles in row-major order, each its length (LEB128) and a lossless WebP file."""
    coded = bytearray()
    for top, left in tile_corners(*alpha.shape):
        buffer = BytesIO()
        tile = alpha[top : top + ALPHA_TILE_PX, left : left + ALPHA_TILE_PX]
        Image.fromarray(tile).save(buffer, "WEBP", lossless=True, quality=100, method=4)
        coded += leb128(len(buffer.getvalue())) + buffer.getvalue()
    return bytes(coded)


def decode_alpha(data: bytes, width: int, height: int) -> NDArray[np.uint8]:
    """Inverse of `encode_alpha`. Raises a FormatError."""
    alpha, position = np.empty((height, width), np.uint8), 0
    for top, left in tile_corners(height, width):
        length, start = read_leb128(data, position, MAX_TILE_BYTES)
        position = start + length
        tile = alpha[top : top + ALPHA_TILE_PX, left : left + ALPHA_TILE_PX]
        try:
            image = Image.open(BytesIO(data[start:position]), formats=["WEBP"])
            if image.size != tile.shape[::-1]:
                raise CorruptDataError("an alpha channel of another size than its picture")
            tile[:] = np.asarray(image.convert("RGB"))[:, :, 1]
        except (OSError, ValueError, SyntaxError) as error:
            raise CorruptDataError(f"an alpha channel that cannot be read: {error}") from error
    if position != len(data):
        raise CorruptDataError("bytes after the alpha channel")
    return alpha


def tile_corners(height: int, width: int) -> list[tuple[int, int]]:
    return [(top, left) for top in range(0, height, ALPHA_TILE_PX) for left in range(0, width, ALPHA_TILE_PX)]


def without_hidden(pixels: NDArray[np.integer], alpha: NDArray[np.uint8]) -> NDArray[np.integer]:
    """The picture [H, W, 3] or [H, W], its samples under a zero alpha replaced by a smooth continuation of the others.

    Pull and push (Gortler et al. 1996): the mean of what is known of 2x2 samples, coarser and coarser, and back.
    """
    visible = alpha > 0
    if visible.all() or not visible.any():
        return pixels if visible.any() else np.zeros_like(pixels)
    levels = [(pixels.reshape(*alpha.shape, -1).astype(np.float32) * visible[:, :, None], visible.astype(np.float32))]
    while levels[-1][1].min() == 0:
        levels.append((halved(levels[-1][0]), halved(levels[-1][1][:, :, None])[:, :, 0]))
    filled = levels[-1][0] / levels[-1][1][:, :, None]
    for total, weight in levels[-2::-1]:
        coarse = filled.repeat(2, axis=0).repeat(2, axis=1)[: weight.shape[0], : weight.shape[1]]
        filled = np.where(weight[:, :, None] > 0, total / np.maximum(weight, 1e-12)[:, :, None], coarse)
    found: NDArray[np.integer] = filled.round().astype(pixels.dtype).reshape(pixels.shape)
    found[visible] = pixels[visible]
    return found


def halved(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sums of 2x2 samples, [H, W, C]; an odd side is continued by zeros."""
    padded = np.pad(samples, ((0, samples.shape[0] % 2), (0, samples.shape[1] % 2), (0, 0)))
    return np.asarray(padded[::2, ::2] + padded[1::2, ::2] + padded[::2, 1::2] + padded[1::2, 1::2])
