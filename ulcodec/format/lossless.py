"""Lossless samples inside a `.ulc` file: tiles of lossless WebP (RFC 9649)."""

import zlib
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ulcodec.errors import CorruptDataError
from ulcodec.format.primitives import leb128, read_leb128

TILE_PX = 8192
PROBED_ROWS, MAX_PROBED_ROW_PX, DRAWN_SHARE = 16, 4096, 0.35
MAX_TILE_BYTES = 2**28 - 1


def encode_lossless(samples: NDArray[np.uint8]) -> bytes:
    """Encode samples [H, W] or [H, W, 3]: row-major tiles, each its length (LEB128) and a lossless WebP file."""
    coded = bytearray()
    for top, left in tile_corners(*samples.shape[:2]):
        buffer = BytesIO()
        tile = np.ascontiguousarray(samples[top : top + TILE_PX, left : left + TILE_PX])
        Image.fromarray(tile).save(buffer, "WEBP", lossless=True, quality=100, method=4)
        coded += leb128(len(buffer.getvalue())) + buffer.getvalue()
    return bytes(coded)


def decode_lossless(data: bytes, shape: tuple[int, ...], what: str) -> NDArray[np.uint8]:
    """Decode samples of a shape [H, W] or [H, W, 3]. Raises a FormatError, which names `what` was decoded."""
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
    """Width and height of a WebP file that holds one lossless picture only; None for any other file (RFC 9649)."""
    if file[:4] != b"RIFF" or file[8:16] != b"WEBPVP8L" or file[20:21] != b"\x2f" or len(file) < 25:
        return None
    packed = int.from_bytes(file[21:25], "little")
    return (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1


def lossless_candidate(samples: NDArray[np.integer], alpha: NDArray[np.uint8] | None) -> bytes | None:
    """Encode 8-bit samples of a drawing, with zeros under a zero alpha; None for photographs.

    A picture counts as drawn if some of its rows deflate, at the fastest level, to less than `DRAWN_SHARE`.
    """
    rows = samples[:: max(1, len(samples) // PROBED_ROWS), :MAX_PROBED_ROW_PX]
    if samples.dtype != np.uint8 or len(zlib.compress(rows.tobytes(), 1)) > DRAWN_SHARE * rows.size:
        return None
    visible = samples.astype(np.uint8)
    if alpha is not None:
        visible[alpha == 0] = 0
    return encode_lossless(visible)


def tile_corners(height: int, width: int) -> list[tuple[int, int]]:
    return [(top, left) for top in range(0, height, TILE_PX) for left in range(0, width, TILE_PX)]
