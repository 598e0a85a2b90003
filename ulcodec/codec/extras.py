"""What a file holds beside the latent: metadata, alpha, lossless samples."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ulcodec.errors import CorruptDataError, ImageError
from ulcodec.format.attachments import deflate, metadata_field
from ulcodec.format.container import MAX_ATTACHMENT_BYTES, Attachment, Container, Crop, Header, Layout
from ulcodec.format.lossless import decode_lossless, encode_lossless
from ulcodec.io.picture import Picture

Attachments = tuple[tuple[Attachment, bytes], ...]


def attach(picture: Picture, encode_alpha: Callable[[NDArray[np.uint8]], bytes] | None) -> Attachments:
    """Serialise a picture's metadata and alpha channel, in the order of a file.

    `encode_alpha` makes a `.ulc` file of an alpha channel [H, W]; None keeps alpha lossless. The shorter of the two is
    taken. Raises ImageError for alpha beyond the limit of the format.
    """
    contents: dict[Attachment, bytes] = {}
    for kind, data in (
        (Attachment.ICC, picture.icc),
        (Attachment.EXIF, picture.exif),
        (Attachment.XMP, picture.xmp),
    ):
        if data is not None:
            contents[kind] = deflate(data)
    if picture.alpha is not None:
        lossless = encode_lossless(picture.alpha)
        lossy = None if encode_alpha is None else encode_alpha(picture.alpha)
        if lossy is None or len(lossless) <= len(lossy):
            contents[Attachment.ALPHA] = lossless
        else:
            contents[Attachment.ALPHA_ULC] = lossy
    if picture.cicp is not None:
        contents[Attachment.CICP] = bytes(picture.cicp)
    if max(map(len, contents.values()), default=0) > MAX_ATTACHMENT_BYTES:
        raise ImageError(f"an alpha channel of more than {MAX_ATTACHMENT_BYTES} bytes; see alpha_quality")
    return tuple(contents.items())


def detach(container: Container, decode_alpha: Callable[[bytes, Header], NDArray[np.uint8]]) -> dict[str, Any]:
    """Invert `attach`: the metadata and alpha fields of a `Picture`. Raises a FormatError.

    `decode_alpha` decodes the `.ulc` file of an alpha channel, given the header of its picture.
    """
    header = container.header
    fields: dict[str, Any] = {}
    for kind, data in container.attachments:
        if kind is Attachment.ALPHA:
            fields["alpha"] = decode_lossless(data, (header.height, header.width), "an alpha channel")
        elif kind is Attachment.ALPHA_ULC:
            fields["alpha"] = decode_alpha(data, header)
        elif kind not in (Attachment.SIGNIFICANT_BITS, Attachment.SAMPLES):
            fields |= metadata_field(kind, data)
    return fields


def lossless_pixels(container: Container) -> NDArray[np.uint8]:
    """Decode the lossless samples of a file: uint8 [H, W, 3] or [H, W]. Raises a FormatError."""
    header = container.header
    if header.bit_depth != 8 or any(container.segments) or container.symbol_check:
        raise CorruptDataError("samples that do not belong to the picture")
    shape = (header.height, header.width) if header.layout is Layout.GREY else (header.height, header.width, 3)
    return decode_lossless(dict(container.attachments)[Attachment.SAMPLES], shape, "samples")


def cropped(samples: NDArray[Any], crop: Crop | None) -> NDArray[Any]:
    """The crop of samples [H, W, ...], contiguous; all of them without a crop."""
    if crop is None:
        return samples
    left, top, width, height = crop
    return np.ascontiguousarray(samples[top : top + height, left : left + width])
