"""Describe a `.ulc` file without torch and without a model."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from ulcodec.errors import TruncatedError, UnknownModelError
from ulcodec.format.container import (
    MAGIC,
    MAX_HEADER_BYTES,
    MAX_PIXELS,
    SEQUENCE_VERSION,
    VERSION,
    Attachment,
    Container,
    read_head,
    remains,
)
from ulcodec.format.sequence_reader import SequenceReader, read_header
from ulcodec.store.installed import InstalledModel, earlier_package, model_directory, model_of, model_that_made

START_BYTES = len(MAGIC) + 1


def info(source: bytes | str | Path, *, max_pixels: int | None = MAX_PIXELS) -> dict[str, Any]:
    """Describe a `.ulc` file, its bytes or its path: header, sizes, and segments or frames.

    Every byte is checked first. `complete` is False for a sequence that ends before its index. Raises FormatError.
    """
    if isinstance(source, bytes):
        return sequence_info(BytesIO(source), max_pixels) if is_sequence(source) else picture_info(source, max_pixels)
    with open(source, "rb") as file:
        start = file.read(START_BYTES)
        if is_sequence(start) and file.seekable():
            return sequence_info(file, max_pixels)
        return info(start + file.read(), max_pixels=max_pixels)


def is_sequence(start: bytes) -> bool:
    """Whether a file is a sequence, by its first `START_BYTES` bytes."""
    return start[:START_BYTES] == MAGIC + bytes([SEQUENCE_VERSION])


def fingerprint_of(source: bytes | str | Path | BinaryIO) -> bytes:
    """Read the 4 bytes that name the model in a file, its bytes, its path, or an open file at its start.

    Only the header is read. Raises a FormatError if it is not sound.
    """
    if isinstance(source, bytes):
        return fingerprint_of(BytesIO(source))
    if isinstance(source, str | Path):
        with open(source, "rb") as file:
            return fingerprint_of(file)
    start = source.read(START_BYTES)
    if is_sequence(start):
        source.seek(0)
        return read_header(source, None).fingerprint
    return read_head(start + source.read(MAX_HEADER_BYTES)).header.fingerprint


def model_for(source: bytes | str | Path) -> InstalledModel:
    """Find the installed model that made a file, its bytes or its path.

    Raises a FormatError for a file that is not sound as far as it is read, UnknownModelError, which names the package
    to install, OSError.
    """
    try:
        return model_that_made(fingerprint_of(source))
    except UnknownModelError:
        check_front(source)
        raise


def check_front(source: bytes | str | Path) -> None:
    """Raise a FormatError for a picture that is damaged at its front: its fingerprint can be wrong.

    The header of a sequence has a checksum of its own.
    """
    if not isinstance(source, bytes):
        with open(source, "rb") as file:
            start = file.read(START_BYTES)
            source = start if is_sequence(start) else start + file.read()
    if not is_sequence(source):
        remains(source, max_pixels=None)


def by_model(files: Sequence[bytes], model: str | Path | None = None) -> dict[Path, list[int]]:
    """Group the indices of files by the directory of the model that made each, or of one model for all.

    Raises as `model_for`, or ModelError if there is no such model.
    """
    if model is not None:
        return {model_directory(model): list(range(len(files)))}
    groups: dict[Path, list[int]] = {}
    for index, data in enumerate(files):
        groups.setdefault(model_for(data).directory, []).append(index)
    return groups


def model_info(fingerprint: bytes) -> dict[str, str | None]:
    """Describe the model of a file: its label if it is installed, the package that has it, and the fingerprint."""
    model = model_of(fingerprint)
    label, package = (None, earlier_package(fingerprint.hex())) if model is None else (model.label, model.package)
    return {"model": label, "package": package, "fingerprint": fingerprint.hex()}


def picture_info(data: bytes, max_pixels: int | None = MAX_PIXELS) -> dict[str, Any]:
    """Describe a picture. Raises FormatError."""
    container = Container.from_bytes(data, max_pixels=max_pixels)
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
        **model_info(container.header.fingerprint),
        "file_bytes": len(data),
        "overhead_bytes": container.overhead_bytes,
        "attachment_bytes": {kind.name.lower(): len(content) for kind, content in container.attachments},
        "segment_bytes": [len(segment) for segment in container.segments],
        "bits_per_pixel": 8 * len(data) / container.header.n_pixels,
    }


def sequence_info(file: BinaryIO, max_pixels: int | None = MAX_PIXELS) -> dict[str, Any]:
    """Describe a sequence in a file that can seek. Raises FormatError."""
    reader = SequenceReader(file, max_pixels=max_pixels)
    clip, end, is_complete = reader.clip, 0, True
    n_frames = n_predicted = media_bytes = payload_bytes = 0
    qualities: list[int] = []
    try:
        for part in reader.read():
            if isinstance(part, bytes):
                media_bytes += len(part)
                continue
            n_frames += 1
            end = part.time + clip.nominal_time(n_frames) - clip.nominal_time(n_frames - 1)
            record = part.source.record
            if part.is_repetition:
                continue
            payload_bytes += len(record.payload or b"") + len(record.motion or b"")
            if record.is_predicted:
                n_predicted += 1
            else:
                qualities.append(record.quality)
    except TruncatedError:
        is_complete = False
    file_bytes = reader.size_bytes or 0
    duration_s = float(clip.seconds((reader.index.end if reader.index else end) - clip.start))
    video_bits = 8 * (file_bytes - media_bytes)
    return {
        "version": SEQUENCE_VERSION,
        "width": clip.width,
        "height": clip.height,
        "layout": clip.layout.name,
        "bit_depth": clip.bit_depth,
        "chroma": clip.chroma.name,
        "primaries": clip.primaries,
        "transfer": clip.transfer,
        "matrix": clip.matrix,
        "full_range": clip.full_range,
        "sample_aspect": str(clip.sample_aspect),
        "frame_rate": str(clip.frame_rate),
        "n_frames": n_frames,
        "n_intra": len(qualities),
        "n_predicted": n_predicted,
        "gop": reader.header.gop,
        "duration_s": duration_s,
        "quality": sum(qualities) / len(qualities) if qualities else None,
        **model_info(reader.header.fingerprint),
        "complete": is_complete,
        "file_bytes": file_bytes,
        "overhead_bytes": file_bytes - media_bytes - payload_bytes,
        "media_bytes": media_bytes,
        "kbit_per_s": video_bits / duration_s / 1000 if duration_s else None,
        "bits_per_pixel": video_bits / (clip.n_pixels * n_frames) if n_frames else None,
    }
