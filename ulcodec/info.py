"""What a `.ulc` file says about itself, without torch or any model."""

from typing import Any

from ulcodec.catalogue import installed_fingerprints
from ulcodec.container import VERSION, Container


def info(data: bytes) -> dict[str, Any]:
    """Header, sizes and segments of a `.ulc` file; verifies checksums, decodes no pixels. Raises FormatError."""
    container = Container.from_bytes(data)
    fingerprint = container.fingerprint.hex()
    return {
        "version": VERSION,
        "width": container.width,
        "height": container.height,
        "layout": container.layout.name,
        "bit_depth": container.bit_depth,
        "quality": container.quality,
        "model": installed_fingerprints().get(fingerprint),
        "fingerprint": fingerprint,
        "file_bytes": len(data),
        "overhead_bytes": container.overhead_bytes,
        "attachment_bytes": {kind.name.lower(): len(attached) for kind, attached in container.attachments},
        "segment_bytes": [len(segment) for segment in container.segments],
        "bits_per_pixel": 8 * len(data) / container.n_pixels,
    }
