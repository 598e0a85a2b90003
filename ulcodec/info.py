"""Describe a `.ulc` file without torch and without a model."""

from typing import Any

from ulcodec.format.container import MAX_PIXELS, VERSION, Attachment, Container
from ulcodec.store.installed import installed_fingerprints


def info(data: bytes, *, max_pixels: int | None = MAX_PIXELS) -> dict[str, Any]:
    """Describe header, sizes and segments of a `.ulc` file after a check of its checksums. Raises FormatError."""
    container = Container.from_bytes(data, max_pixels=max_pixels)
    fingerprint = container.header.fingerprint.hex()
    attachments = dict(container.attachments)
    significant_bits = attachments.get(Attachment.SIGNIFICANT_BITS)
    return {
        "version": VERSION,
        "width": container.header.width,
        "height": container.header.height,
        "layout": container.header.layout.name,
        "bit_depth": container.header.bit_depth,
        "significant_bits": significant_bits[0] if significant_bits else container.header.bit_depth,
        "quality": container.header.quality,
        "lossless": container.is_lossless,
        "model": installed_fingerprints().get(fingerprint),
        "fingerprint": fingerprint,
        "file_bytes": len(data),
        "overhead_bytes": container.overhead_bytes,
        "attachment_bytes": {kind.name.lower(): len(content) for kind, content in container.attachments},
        "segment_bytes": [len(segment) for segment in container.segments],
        "bits_per_pixel": 8 * len(data) / container.header.n_pixels,
    }
