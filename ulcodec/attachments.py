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
TILE_PX = 8192
PROBED_ROWS, MAX_PROBED_ROW_PX, DRAWN_SHARE = 16, 4096, 0.35
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


def encode_lossless(samples: NDArray[np.uint8]) -> bytes:
    """Samples [H, W] or [H, W, 3]: tiles in row-major order, each its length (LEB128) and a lossless WebP file."""
    coded = bytearray()
    for top, left in tile_corners(*samples.shape[:2]):
        buffer = BytesIO()
        tile = np.ascontiguousarray(samples[top : top + TILE_PX, left : left + TILE_PX])
        Image.fromarray(tile).save(buffer, "WEBP", lossless=True, quality=100, method=4)
        coded += leb128(len(buffer.getvalue())) + buffer.getvalue()
    return bytes(coded)


def decode_lossless(data: bytes, shape: tuple[int, ...], what: str) -> NDArray[np.uint8]:
    """Inverse of `encode_lossless`, for [H, W] or [H, W, 3]; errors say `what` it is. Raises a FormatError."""
    samples, position = np.empty(shape, np.uint8), 0
    for top, left in tile_corners(*shape[:2]):
        length, start = read_leb128(data, position, MAX_TILE_BYTES)
        position = start + length
        tile = samples[top : top + TILE_PX, left : left + TILE_PX]
        if webp_size(data[start:position]) != tile.shape[1::-1]:
            raise CorruptDataError(f"{what} that is no lossless WebP of its picture's size")
        try:
            colours = np.asarray(Image.open(BytesIO(data[start:position]), formats=["WEBP"]).convert("RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise CorruptDataError(f"{what} that cannot be read: {error}") from error
        tile[:] = colours if len(shape) == 3 else colours[:, :, 1]
    if position != len(data):
        raise CorruptDataError(f"bytes after {what}")
    return samples


def webp_size(file: bytes) -> tuple[int, int] | None:
    """Width and height of a WebP file that is one lossless picture and no more; None for any other (RFC 9649)."""
    if file[:4] != b"RIFF" or file[8:16] != b"WEBPVP8L" or file[20:21] != b"\x2f" or len(file) < 25:
        return None
    packed = int.from_bytes(file[21:25], "little")
    return (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1


def lossless_candidate(samples: NDArray[np.integer], alpha: NDArray[np.uint8] | None) -> bytes | None:
    """`encode_lossless` of 8-bit samples that look drawn, the hidden ones as zeros; None for photographs.

    What looks drawn: some rows deflate, at the quickest, to less than `DRAWN_SHARE`.
    """
    rows = samples[:: max(1, len(samples) // PROBED_ROWS), :MAX_PROBED_ROW_PX]
    if samples.dtype != np.uint8 or len(zlib.compress(rows.tobytes(), 1)) > DRAWN_SHARE * rows.size:
        return None
    shown = samples.astype(np.uint8)
    if alpha is not None:
        shown[alpha == 0] = 0
    return encode_lossless(shown)


def tile_corners(height: int, width: int) -> list[tuple[int, int]]:
    return [(top, left) for top in range(0, height, TILE_PX) for left in range(0, width, TILE_PX)]


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
