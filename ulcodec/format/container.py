"""The container of a `.ulc` file: parse it, verify it, write it. `docs/format.md` is the specification."""

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, replace
from enum import IntEnum
from typing import NamedTuple

from ulcodec.errors import (
    ChecksumError,
    CorruptDataError,
    FormatError,
    ImageError,
    LimitError,
    NotUlcError,
    TruncatedError,
    UnsupportedVersionError,
)
from ulcodec.format.primitives import CRC_BYTES, MAX_LEB128_BYTES, crc8, crc16, leb128, read_leb128

MAGIC = b"ULC"
VERSION, SEQUENCE_VERSION = 1, 2
FINGERPRINT_BYTES = 4
N_SEGMENTS = 4
MAX_QUALITY = 100
MAX_SIDE = 2**24 - 1
THUMBNAIL_PX = 8
"""Thumbnail downscaling factor."""

MAX_PIXELS = 2**28
MAX_SEGMENT_BYTES = 2**28 - 1
FIXED_HEADER_BYTES = 9
MAX_HEADER_BYTES = FIXED_HEADER_BYTES + 2 * MAX_LEB128_BYTES + 1
EXTENSION_FLAG = 0x80
BIT_DEPTHS = (8, 16)
DEPTH_SHIFT, ATTACHMENTS_FLAG, SEGMENTS_SHIFT, CUT_FLAG = 2, 0x10, 5, 0x80
MAX_ATTACHMENT_BYTES = 2**28 - 1

Crop = tuple[int, int, int, int]
"""Left, top, width, height of a crop in pixels."""


class Layout(IntEnum):
    """Channel layout of the picture, as in the extension byte."""

    RGB = 0
    GREY = 1


class Attachment(IntEnum):
    """Kinds of attachments. `attachments` and `lossless` encode their contents."""

    ICC = 1
    EXIF = 2
    XMP = 3
    ALPHA = 4
    ALPHA_ULC = 5
    CICP = 6
    SIGNIFICANT_BITS = 7
    SAMPLES = 8


@dataclass(frozen=True)
class Header:
    """What a file states about its picture.

    `fingerprint`: 4 bytes that name the model; `quality`: 0 to 100; `width`, `height` in pixels, 1 to `MAX_SIDE`;
    `bit_depth`: bits a sample of the source, 8 or 16. Raises ValueError for a field out of range.
    """

    fingerprint: bytes
    quality: int
    width: int
    height: int
    layout: Layout
    bit_depth: int = BIT_DEPTHS[0]

    def __post_init__(self) -> None:
        if len(self.fingerprint) != FINGERPRINT_BYTES:
            raise ValueError(f"fingerprint must be {FINGERPRINT_BYTES} bytes, got {len(self.fingerprint)}")
        if not 0 <= self.quality <= MAX_QUALITY:
            raise ValueError(f"quality must be 0 to {MAX_QUALITY}, got {self.quality}")
        if not (1 <= self.width <= MAX_SIDE and 1 <= self.height <= MAX_SIDE):
            raise ValueError(f"sides must be 1 to {MAX_SIDE}, got {self.width}x{self.height}")
        if self.bit_depth not in BIT_DEPTHS:
            raise ValueError(f"bit_depth must be one of {BIT_DEPTHS}, got {self.bit_depth}")

    @property
    def n_pixels(self) -> int:
        return self.width * self.height


class Head(NamedTuple):
    """The parsed front of a file: its header, and how the rest is laid out.

    `is_cut`: the file was truncated on purpose; the last segment is only the front of one, perhaps empty.
    `size_bytes`: length of the head, at most `MAX_HEADER_BYTES`.
    """

    header: Header
    has_attachments: bool
    n_segments: int
    is_cut: bool
    size_bytes: int


@dataclass(frozen=True)
class Container:
    """The contents of a `.ulc` file.

    `segments`: `N_SEGMENTS` payloads, one per reveal pass (the first also holds the hyper-latent); a cut file has
    fewer, the last of which may be incomplete. `symbol_check`: CRC-16 of the symbols that the segments decode to, None
    for a cut file. `attachments`: by kind, in rising order. Raises ValueError for a field out of range.
    """

    header: Header
    _: KW_ONLY
    segments: tuple[bytes, ...]
    symbol_check: int | None
    attachments: tuple[tuple[Attachment, bytes], ...] = ()

    def __post_init__(self) -> None:
        if not 2 <= len(self.segments) <= N_SEGMENTS or max(map(len, self.segments)) > MAX_SEGMENT_BYTES:
            raise ValueError(f"need 2 to {N_SEGMENTS} segments of at most {MAX_SEGMENT_BYTES} bytes")
        if self.symbol_check is not None and len(self.segments) < N_SEGMENTS:
            raise ValueError("symbol_check belongs to a file with all segments")
        if self.symbol_check is not None and not 0 <= self.symbol_check <= 0xFFFF:
            raise ValueError(f"symbol_check must have 16 bits, got {self.symbol_check}")
        kinds = [kind for kind, _ in self.attachments]
        if kinds != sorted(set(kinds)) or any(len(data) > MAX_ATTACHMENT_BYTES for _, data in self.attachments):
            raise ValueError(f"attachments are of rising kinds and at most {MAX_ATTACHMENT_BYTES} bytes")

    @property
    def is_lossless(self) -> bool:
        """Whether the file holds the samples without loss."""
        return any(kind is Attachment.SAMPLES for kind, _ in self.attachments)

    @property
    def n_whole_segments(self) -> int:
        return len(self.segments) - (self.symbol_check is None)

    @property
    def overhead_bytes(self) -> int:
        """Bytes of the file that are neither payload nor attachment."""
        return len(self.to_bytes()) - sum(map(len, [*self.segments, *(data for _, data in self.attachments)]))

    def to_bytes(self) -> bytes:
        """Serialise the file."""
        data = self._head_bytes()
        if self.attachments:
            for kind, attached in self.attachments:
                data += bytes([kind]) + leb128(len(attached)) + attached
            data.append(0)
            data.append(crc8(data))
        for segment in self.segments[:-1]:
            data += leb128(len(segment)) + segment
            data.append(crc8(data))
        data += self.segments[-1]
        if self.symbol_check is not None:
            data += self.symbol_check.to_bytes(CRC_BYTES, "big")
        return bytes(data) + crc16(data)

    def _head_bytes(self) -> bytearray:
        header = self.header
        extension = header.layout | BIT_DEPTHS.index(header.bit_depth) << DEPTH_SHIFT
        extension |= ATTACHMENTS_FLAG if self.attachments else 0
        extension |= len(self.segments) % N_SEGMENTS << SEGMENTS_SHIFT
        extension |= CUT_FLAG if self.symbol_check is None else 0
        data = bytearray(MAGIC + bytes([VERSION]) + header.fingerprint)
        data.append(header.quality | (EXTENSION_FLAG if extension else 0))
        data += leb128(header.width) + leb128(header.height)
        if extension:
            data.append(extension)
        return data

    @classmethod
    def from_bytes(cls, data: bytes, *, max_pixels: int | None = MAX_PIXELS) -> "Container":
        """Parse and verify a whole file, every byte of it. Raises a FormatError."""
        head = read_head(data, max_pixels)
        attachments, position = read_attachments(data, head)
        segments = tuple(read_segments(data, position, head))
        symbol_check = None if head.is_cut else int.from_bytes(data[-2 * CRC_BYTES : -CRC_BYTES], "big")
        return cls(head.header, segments=segments, symbol_check=symbol_check, attachments=attachments)

    def within(self, n_bytes: int) -> "Container":
        """Cut the file to at most `n_bytes`, or to its first segment if that is larger."""
        if len(self.to_bytes()) <= n_bytes:
            return self
        for n in range(len(self.segments) - 1, 0, -1):
            front = replace(self, segments=(*self.segments[:n], b""), symbol_check=None)
            room = n_bytes - len(front.to_bytes())
            if room >= 0:
                return replace(front, segments=(*self.segments[:n], self.segments[n][:room]))
        return self.truncated(1)

    def truncated(self, n_segments: int) -> "Container":
        """Cut the file to its first `n_segments`, at least 1."""
        if n_segments >= self.n_whole_segments:
            return self
        return replace(self, segments=(*self.segments[:n_segments], b""), symbol_check=None)


def remains(data: bytes, *, max_pixels: int | None = MAX_PIXELS) -> Container:
    """Parse a damaged file up to the damage. Raises a FormatError if not even the first segment is sound."""
    head = read_head(data, max_pixels)
    attachments, position = read_attachments(data, head)
    segments: list[bytes] = []
    try:
        segments.extend(read_segments(data, position, head))
    except FormatError:
        if not segments:
            raise
    else:
        return Container.from_bytes(data, max_pixels=max_pixels)
    return Container(head.header, segments=(*segments, b""), symbol_check=None, attachments=attachments)


def read_head(data: bytes, max_pixels: int | None = None) -> Head:
    """Parse the head of a file, for which its first `MAX_HEADER_BYTES` bytes are enough. Raises a FormatError.

    The head is not verified: its checksum comes later, see `Container.from_bytes`.
    """
    if data[: len(MAGIC)] != MAGIC[: len(data)] or not data:
        raise NotUlcError("not a .ulc file")
    if len(data) < FIXED_HEADER_BYTES:
        raise TruncatedError("the file ends inside its header")
    if data[3] == SEQUENCE_VERSION:
        raise UnsupportedVersionError("the file is a sequence of frames, not a picture")
    if data[3] != VERSION:
        raise UnsupportedVersionError(f"format version {data[3]}; this ulcodec reads version {VERSION}")
    fingerprint, flags = data[4:8], data[8]
    quality = flags & ~EXTENSION_FLAG
    if quality > MAX_QUALITY:
        raise CorruptDataError(f"quality {quality} is out of range")
    width, position = read_leb128(data, FIXED_HEADER_BYTES, MAX_SIDE)
    height, position = read_leb128(data, position, MAX_SIDE)
    if not width or not height:
        raise CorruptDataError(f"a picture of {width}x{height} pixels")
    extension = 0
    if flags & EXTENSION_FLAG:
        extension, position = read_extension(data, position)
    if max_pixels is not None and width * height > max_pixels:
        raise LimitError(f"the picture has {width}x{height} pixels; the limit is {max_pixels}")
    layout, bit_depth = Layout(extension & 3), BIT_DEPTHS[extension >> DEPTH_SHIFT & 3]
    return Head(
        Header(fingerprint, quality, width, height, layout, bit_depth),
        has_attachments=bool(extension & ATTACHMENTS_FLAG),
        n_segments=(extension >> SEGMENTS_SHIFT & 3) or N_SEGMENTS,
        is_cut=bool(extension & CUT_FLAG),
        size_bytes=position,
    )


def read_extension(data: bytes, position: int) -> tuple[int, int]:
    if position >= len(data):
        raise TruncatedError("the file ends inside its header")
    extension = data[position]
    layout, depth = extension & 3, extension >> DEPTH_SHIFT & 3
    n_segments = extension >> SEGMENTS_SHIFT & 3
    miscounted = n_segments == 1 if extension & CUT_FLAG else n_segments > 0
    if not extension or layout > Layout.GREY or depth >= len(BIT_DEPTHS) or miscounted:
        raise CorruptDataError(f"unknown extension byte {extension:#04x}")
    return extension, position + 1


def read_attachments(data: bytes, head: Head) -> tuple[tuple[tuple[Attachment, bytes], ...], int]:
    """Read the attachments, if there are any; return them with the position after them. Raises a FormatError."""
    attachments: list[tuple[Attachment, bytes]] = []
    position = head.size_bytes
    if not head.has_attachments:
        return (), position
    while kind := data[position] if position < len(data) else -1:
        if kind < 0:
            raise TruncatedError("the file ends inside its attachments")
        if kind > max(Attachment) or (attachments and kind <= attachments[-1][0]):
            raise CorruptDataError(f"an attachment of kind {kind} does not belong there")
        length, start = read_leb128(data, position + 1, MAX_ATTACHMENT_BYTES)
        position = start + length
        attachments.append((Attachment(kind), data[start:position]))
    if not attachments:
        raise CorruptDataError("the header promises attachments")
    if position + 1 >= len(data):
        raise TruncatedError("the file ends inside its attachments")
    if crc8(data[: position + 1]) != data[position + 1]:
        raise ChecksumError("the checksum of the attachments does not match: the file is damaged")
    return tuple(attachments), position + 2


def check_crop(crop: Crop, header: Header) -> None:
    """Raise ImageError if the crop is not inside the picture."""
    left, top, width, height = crop
    if min(left, top) < 0 or min(width, height) <= 0 or left + width > header.width or top + height > header.height:
        raise ImageError(f"the crop {crop} is not inside {header.width}x{header.height} pixels")


def read_segments(data: bytes, position: int, head: Head) -> Iterator[bytes]:
    """Read the segments from `position` on, each after a check of its checksum. Raises a FormatError."""
    end = len(data) - CRC_BYTES
    last_stop = end - (0 if head.is_cut else CRC_BYTES)
    for number in range(head.n_segments - 1):
        length, start = read_leb128(data, position, MAX_SEGMENT_BYTES)
        stop = start + length
        if stop >= last_stop:
            raise TruncatedError(f"the file ends inside segment {number}")
        if crc8(data[:stop]) != data[stop]:
            raise ChecksumError(f"the checksum of segment {number} does not match: the file is damaged")
        yield data[start:stop]
        position = stop + 1
    if last_stop - position > MAX_SEGMENT_BYTES:
        raise LimitError(f"the last segment is longer than {MAX_SEGMENT_BYTES} bytes")
    if crc16(data[:end]) != data[end:]:
        raise ChecksumError("the checksum of the file does not match: the file is damaged")
    yield data[position:last_stop]
