"""The container of a sequence: a `.ulc` file of frames. `docs/format.md`, section 3, is the specification.

A sequence is a header and then records, each with a checksum of its own: frames in coding order, pieces of the attached
Matroska stream, and at the end an index. It is written and read record by record, so that memory does not grow with
the length, and an unfinished file holds whole frames.
"""

from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction

from ulcodec.format.container import FINGERPRINT_BYTES, MAGIC, MAX_QUALITY, MAX_SIDE, SEQUENCE_VERSION, Layout
from ulcodec.format.primitives import CRC_BYTES, crc16, leb128, signed_leb128

CHROMA_SHIFT, RANGE_FLAG = 1, 0x08
MARKER = b"ULCI"
"""Begins the record of an intra frame, so that a reader finds one behind damage."""
MEDIA_TAG, INDEX_TAG, FRAME_FLAG = 1, 2, 0x80
LATENT_FLAG, MOTION_FLAG, CORRECTION_FLAG, PASSING_FLAG = 0x04, 0x08, 0x10, 0x20
INTRA_TAG, REPEAT_TAG = FRAME_FLAG | LATENT_FLAG, FRAME_FLAG | 1
REFERENCES_MASK, MAX_REFERENCES = 0x03, 2
TRAILER_BYTES = 4
MAX_RECORD_BYTES = 2**28 - 1
MAX_INDEX = 2**28 - 2
"""Largest index of a frame; the number of frames is at most one more."""
MAX_DISTANCE = 2**27 - 1
"""Largest distance of a frame from its reference, in frames: it has 4 bytes."""
MAX_TICKS = 2**54
"""Largest time, and largest correction of a time, in ticks."""
MAX_OFFSET = 2**56 - 1
MAX_REORDERING = 64
"""A frame is shown before this many frames that follow it in the file; a reader holds so many."""
KEPT_ANCHORS, KEPT_BETWEEN = 4, 8
"""Frames that a reader keeps for others to refer to: the last ones with at most one reference, and with two."""

MIN_DEPTH, MAX_DEPTH = 8, 16
MAX_TERM = 2**28 - 1
"""Largest numerator and denominator of a fraction in the header."""
UNSPECIFIED = 2
"""Code point of ITU-T H.273 for an unknown property of the colours."""


def may_predict(gop: int) -> bool:
    """Whether frames of a sequence may be predicted, by the GOP in its header."""
    return gop != 1


class Chroma(IntEnum):
    """Sampling of the source's chroma, as in the header. The coded samples are RGB or grey in any case."""

    YUV444 = 0
    YUV422 = 1
    YUV420 = 2


@dataclass(frozen=True)
class ClipFormat:
    """What all frames of a clip have in common.

    `width`, `height`: pixels of a frame as shown, upright; `bit_depth`: bits a sample of the source, 8 to 16; `chroma`
    and `full_range`: how the source held its samples, RGB if `matrix` is 0; `primaries`, `transfer`, `matrix`: code
    points of ITU-T H.273, 2 if unspecified; `sample_aspect`: width of a pixel in heights; `time_base`: seconds a tick;
    `frame_rate`: nominal frames a second; `start`: time of the first frame in ticks. Raises ValueError for a field out
    of range.
    """

    width: int
    height: int
    time_base: Fraction
    frame_rate: Fraction
    start: int = 0
    layout: Layout = Layout.RGB
    bit_depth: int = MIN_DEPTH
    chroma: Chroma = Chroma.YUV444
    full_range: bool = True
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
    matrix: int = UNSPECIFIED
    sample_aspect: Fraction = Fraction(1)

    def __post_init__(self) -> None:
        if not (1 <= self.width <= MAX_SIDE and 1 <= self.height <= MAX_SIDE):
            raise ValueError(f"sides must be 1 to {MAX_SIDE}, got {self.width}x{self.height}")
        if not MIN_DEPTH <= self.bit_depth <= MAX_DEPTH:
            raise ValueError(f"bit_depth must be {MIN_DEPTH} to {MAX_DEPTH}, got {self.bit_depth}")
        if not 0 <= self.start <= MAX_TICKS:
            raise ValueError(f"start must be 0 to {MAX_TICKS} ticks, got {self.start}")
        for fraction in (self.time_base, self.frame_rate, self.sample_aspect):
            if not (1 <= fraction.numerator <= MAX_TERM and fraction.denominator <= MAX_TERM):
                raise ValueError(f"fractions must have terms from 1 to {MAX_TERM}, got {fraction}")

    @property
    def n_pixels(self) -> int:
        return self.width * self.height

    def nominal_time(self, index: int) -> int:
        """Time in ticks of a frame, counted from 0 in the order of display, at the nominal rate."""
        ticks = self.frame_rate * self.time_base
        return self.start + (2 * index * ticks.denominator + ticks.numerator) // (2 * ticks.numerator)

    def seconds(self, time: int) -> Fraction:
        """A time in ticks as seconds."""
        return time * self.time_base


@dataclass(frozen=True)
class SequenceHeader:
    """What a sequence states about itself: 4 bytes that name the model, the clip, and the GOP.

    `gop`: largest distance between two intra frames in the order of display, 0 if unknown. Raises ValueError for a
    field out of range.
    """

    fingerprint: bytes
    clip: ClipFormat
    gop: int = 0

    def __post_init__(self) -> None:
        if len(self.fingerprint) != FINGERPRINT_BYTES:
            raise ValueError(f"fingerprint must be {FINGERPRINT_BYTES} bytes, got {len(self.fingerprint)}")
        if not 0 <= self.gop <= MAX_TERM:
            raise ValueError(f"gop must be 0 to {MAX_TERM}, got {self.gop}")

    @property
    def is_predictive(self) -> bool:
        """Whether frames may be predicted."""
        return may_predict(self.gop)

    def to_bytes(self) -> bytes:
        """Serialise the header."""
        clip = self.clip
        data = leb128(clip.width) + leb128(clip.height)
        data += bytes([clip.layout | clip.chroma << CHROMA_SHIFT | clip.full_range * RANGE_FLAG, clip.bit_depth])
        data += bytes([clip.primaries, clip.transfer, clip.matrix])
        for fraction in (clip.sample_aspect, clip.time_base, clip.frame_rate):
            data += leb128(fraction.numerator) + leb128(fraction.denominator)
        data += leb128(clip.start) + leb128(self.gop)
        data = MAGIC + bytes([SEQUENCE_VERSION]) + self.fingerprint + bytes([len(data)]) + data
        return data + crc16(data)


@dataclass(frozen=True)
class FrameRecord:
    """A frame as stored: an intra frame, a predicted frame, or the repetition of another one.

    `index`: its place in the order of display, from 0; `references`: indices of the frames that it is predicted from,
    or of the one that it repeats; `correction`: its time less `ClipFormat.nominal_time`, in ticks; `quality`,
    `payload`, `symbol_check`: its latent, which an intra frame has, a predicted frame may have, and a repetition has
    not (payload None); `motion`: the coded motion field of a predicted frame; `is_kept`: whether frames may refer to
    it.
    """

    index: int
    references: tuple[int, ...] = ()
    correction: int = 0
    quality: int = 0
    payload: bytes | None = None
    symbol_check: int = 0
    motion: bytes | None = None
    is_kept: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.index <= MAX_INDEX or abs(self.correction) > MAX_TICKS:
            raise ValueError(f"frame {self.index}, corrected by {self.correction} ticks, is beyond the limits")
        if any(abs(self.index - reference) > MAX_DISTANCE for reference in self.references):
            raise ValueError(f"frame {self.index} is too far from its references {self.references}")
        if not 0 <= self.quality <= MAX_QUALITY:
            raise ValueError(f"quality must be 0 to {MAX_QUALITY}, got {self.quality}")
        kinds = {0: self.payload is not None and self.motion is None, 1: self.is_predicted or self.payload is None}
        if not kinds.get(len(self.references), self.is_predicted and len(self.references) == MAX_REFERENCES):
            raise ValueError(f"frame {self.index} is neither intra, nor predicted, nor a repetition")

    @property
    def is_intra(self) -> bool:
        return not self.references

    @property
    def is_predicted(self) -> bool:
        return self.motion is not None

    @property
    def is_repetition(self) -> bool:
        return not (self.is_intra or self.is_predicted)

    @property
    def tag(self) -> int:
        """Tag of the record."""
        tag = FRAME_FLAG | len(self.references) | (CORRECTION_FLAG if self.correction else 0)
        tag |= (0 if self.payload is None else LATENT_FLAG) | (MOTION_FLAG if self.is_predicted else 0)
        return tag | (0 if self.is_kept or not self.is_predicted else PASSING_FLAG)

    def to_bytes(self) -> bytes:
        """Serialise the record, from its marker, if it has one, to its checksum."""
        contents = leb128(self.index)
        for reference in self.references:
            contents += signed_leb128(self.index - reference)
        if self.correction:
            contents += signed_leb128(self.correction)
        if self.payload is not None:
            contents += bytes([self.quality])
            contents += b"" if self.motion is None else leb128(len(self.motion))
        contents += self.motion or b""
        if self.payload is not None:
            contents += self.payload + self.symbol_check.to_bytes(CRC_BYTES, "big")
        return record_bytes(self.tag, contents, MARKER if self.is_intra else b"")


def record_bytes(tag: int, contents: bytes, marker: bytes = b"") -> bytes:
    """Serialise a record. Raises ValueError for contents of more than `MAX_RECORD_BYTES`."""
    if len(contents) > MAX_RECORD_BYTES:
        raise ValueError(f"a record holds at most {MAX_RECORD_BYTES} bytes, got {len(contents)}")
    data = marker + bytes([tag]) + leb128(len(contents)) + contents
    return data + crc16(data)


def media_record(piece: bytes) -> bytes:
    """Serialise a piece of the attached Matroska stream."""
    return record_bytes(MEDIA_TAG, piece)


@dataclass(frozen=True)
class IndexEntry:
    """An intra frame in the index: where its record begins, its index in the order of display, and its correction."""

    offset: int
    index: int
    correction: int


class IndexBuilder:
    """Collects the index of a sequence, frame by frame, in the order of the file."""

    def __init__(self) -> None:
        self.n_frames, self.n_intra = 0, 0
        self.last = IndexEntry(0, 0, 0)
        self.entries = bytearray()

    def add(self, frame: FrameRecord, offset: int) -> None:
        """Add the frame whose record begins at `offset` bytes."""
        self.n_frames += 1
        if frame.is_intra:
            self.entries += leb128(offset - self.last.offset) + leb128(frame.index - self.last.index)
            self.entries += signed_leb128(frame.correction)
            self.last = IndexEntry(offset, frame.index, frame.correction)
            self.n_intra += 1

    def contents(self, end_correction: int) -> bytes:
        """Serialise the index; `end_correction`: end of the last frame, less the nominal time of a frame after it."""
        return leb128(self.n_frames) + signed_leb128(end_correction) + leb128(self.n_intra) + bytes(self.entries)

    def to_bytes(self, end_correction: int) -> bytes:
        """Serialise the end of a file: the record of the index, and its length."""
        record = record_bytes(INDEX_TAG, self.contents(end_correction))
        return record + len(record).to_bytes(TRAILER_BYTES, "big")
