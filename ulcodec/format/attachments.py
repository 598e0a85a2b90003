"""Metadata in a `.ulc` file: deflated fields, CICP, and the significant bits of 16-bit samples."""

import warnings
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ulcodec.errors import CorruptDataError, LimitError
from ulcodec.format.cicp import Cicp
from ulcodec.format.container import Attachment, Container

MAX_METADATA_BYTES = 2**24
MAX_SIGNIFICANT_BITS = 14
"""16-bit samples that use more bits are coded without scaling."""


def deflate(data: bytes) -> bytes:
    """Compress with raw deflate (RFC 1951)."""
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def inflate(data: bytes) -> bytes:
    """Decompress raw deflate. Raises CorruptDataError, or LimitError beyond `MAX_METADATA_BYTES`."""
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
    """Decode attached ICC, EXIF, XMP or CICP to a field of a `Picture`, by name.

    Returns no field, with a warning, for data beyond `MAX_METADATA_BYTES`. Raises CorruptDataError.
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
    """Bits of the largest uint16 sample, if they are 1 to `MAX_SIGNIFICANT_BITS`; otherwise the depth, 8 or 16."""
    depth = 8 * samples.dtype.itemsize
    bits = int(samples.max()).bit_length() if depth == 16 else 0
    return bits if 1 <= bits <= MAX_SIGNIFICANT_BITS else depth


def to_full_range(samples: NDArray[np.integer], bits: int) -> NDArray[np.integer]:
    """Scale uint16 samples from 2^bits - 1 to 65535: round(s * 65535 / (2^bits - 1)). Leave others unchanged."""
    if bits > MAX_SIGNIFICANT_BITS or samples.dtype != np.uint16:
        return samples
    peak = 2**bits - 1
    scaled: NDArray[np.integer] = ((samples.astype(np.uint32) * 65535 + peak // 2) // peak).astype(np.uint16)
    return scaled


def from_full_range(samples: NDArray[np.integer], container: Container) -> NDArray[np.integer]:
    """Invert `to_full_range` for the samples of a file. Raises CorruptDataError for invalid significant bits."""
    bits = dict(container.attachments).get(Attachment.SIGNIFICANT_BITS)
    if bits is None:
        return samples
    if len(bits) != 1 or not 1 <= bits[0] <= MAX_SIGNIFICANT_BITS or container.header.bit_depth != 16:
        raise CorruptDataError("significant bits that do not belong to the picture")
    peak = 2 ** bits[0] - 1
    scaled: NDArray[np.integer] = ((samples.astype(np.uint32) * peak + 32767) // 65535).astype(np.uint16)
    return scaled
