"""Read a sequence: record by record, from any frame, and behind damage. `sequence` has its parts."""

from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from heapq import heappop, heappush
from io import SEEK_END, RawIOBase
from math import gcd
from typing import Any, BinaryIO, NamedTuple

from ulcodec.errors import (
    ChecksumError,
    CorruptDataError,
    FormatError,
    LimitError,
    NotUlcError,
    TruncatedError,
    UnsupportedVersionError,
)
from ulcodec.format.container import (
    FINGERPRINT_BYTES,
    MAGIC,
    MAX_PIXELS,
    MAX_QUALITY,
    MAX_SIDE,
    SEQUENCE_VERSION,
    Layout,
)
from ulcodec.format.primitives import CRC_BYTES, MAX_LEB128_BYTES, crc16, read_leb128, read_signed_leb128
from ulcodec.format.sequence import (
    CHROMA_SHIFT,
    CORRECTION_FLAG,
    FRAME_FLAG,
    INDEX_TAG,
    INTRA_TAG,
    KEPT_ANCHORS,
    KEPT_BETWEEN,
    LATENT_FLAG,
    MARKER,
    MAX_DISTANCE,
    MAX_INDEX,
    MAX_OFFSET,
    MAX_RECORD_BYTES,
    MAX_REFERENCES,
    MAX_REORDERING,
    MAX_TERM,
    MAX_TICKS,
    MEDIA_TAG,
    MOTION_FLAG,
    PASSING_FLAG,
    RANGE_FLAG,
    REFERENCES_MASK,
    REPEAT_TAG,
    TRAILER_BYTES,
    Chroma,
    ClipFormat,
    FrameRecord,
    IndexBuilder,
    IndexEntry,
    SequenceHeader,
)

PREDICTED_TAGS = {
    FRAME_FLAG | MOTION_FLAG | n_references | latent | passing
    for n_references in range(1, MAX_REFERENCES + 1)
    for latent in (0, LATENT_FLAG)
    for passing in (0, PASSING_FLAG)
}
FRAME_TAGS = {tag | more for tag in (INTRA_TAG, REPEAT_TAG, *PREDICTED_TAGS) for more in (0, CORRECTION_FLAG)}
KNOWN_TAGS = {MEDIA_TAG, INDEX_TAG, *FRAME_TAGS}

PIECE_BYTES = 2**20
"""Bytes that are read at once, so that a forged length takes no memory."""

SEARCH_PIECE_BYTES = 2**12
SEARCHED_BYTES_PER_BYTE = 16
"""Bytes that a search for sound records may read in vain, for every byte of the file: forged markers cost no more."""
MAX_ERRORS = 100
LEAST_FRAME_BYTES = 6
"""Size of the shortest record of a frame."""


@contextmanager
def whole_contents() -> Iterator[None]:
    """Context and decorator for the contents of a record: a number cut off there is no end of the file."""
    try:
        yield
    except TruncatedError as error:
        raise CorruptDataError("the contents of a record end inside a number") from error


class Index:
    """The index of a sequence: `n_frames`, the `end` of the last one in ticks, and where the intra frames are."""

    @whole_contents()
    def __init__(self, contents: bytes, clip: ClipFormat) -> None:
        """Parse the contents of the record. Raises a FormatError."""
        self.n_frames, position = read_leb128(contents, 0, MAX_INDEX + 1)
        self.end_correction, position = read_signed_leb128(contents, position, MAX_TICKS)
        self.end = clip.nominal_time(self.n_frames) + self.end_correction
        n_intra, position = read_leb128(contents, position, MAX_INDEX + 1)
        self.offsets, self.indices, self.times = array("q"), array("q"), array("q")
        last, last_time = IndexEntry(0, 0, 0), -1
        for _ in range(n_intra):
            offset, position = read_leb128(contents, position, MAX_OFFSET)
            index, position = read_leb128(contents, position, MAX_INDEX)
            correction, position = read_signed_leb128(contents, position, MAX_TICKS)
            last = IndexEntry(last.offset + offset, last.index + index, correction)
            if last.offset > MAX_OFFSET or last.index > MAX_INDEX:
                raise LimitError("the index names a frame beyond the limits of the format")
            time = clip.nominal_time(last.index) + correction
            if not last_time < time <= MAX_TICKS or (self.offsets and not (offset and index)):
                raise CorruptDataError("the index names intra frames that do not follow each other")
            self.offsets.append(last.offset)
            self.indices.append(last.index)
            self.times.append(time)
            last_time = time
        if position != len(contents) or not self.offsets or last.index >= self.n_frames:
            raise CorruptDataError("the index does not describe a sequence")
        if not last_time < self.end <= MAX_TICKS:
            raise CorruptDataError("the index states an end that is not after its frames")

    def intra_at(self, index: int) -> int | None:
        """Place in the index of the last intra frame that is not shown after frame `index`; None if there is none."""
        return bisect_right(self.indices, index) - 1 if index >= self.indices[0] else None

    def intra_at_time(self, time: int) -> int | None:
        """Place in the index of the last intra frame that is not shown after `time` in ticks; None if there is none."""
        return bisect_right(self.times, time) - 1 if time >= self.times[0] else None


class Record(NamedTuple):
    """A record as read: its tag, its contents, and its number of bytes."""

    tag: int
    contents: bytes
    size_bytes: int


@dataclass
class CodedFrame:
    """A frame with those that it refers to, as far as they are not decoded.

    `decoded`: for the use of a decoder, which then has no more use for the references.
    """

    record: FrameRecord
    references: tuple["CodedFrame", ...] = field(default=(), compare=False, repr=False)
    decoded: Any = field(default=None, compare=False, repr=False)

    def keep(self, decoded: Any) -> None:
        """Set what the frame was decoded to. Its references are let go."""
        self.decoded, self.references = decoded, ()


@dataclass(frozen=True)
class ShownFrame:
    """A frame in the order of display: its index, its time in ticks, and the intra or predicted frame that it shows."""

    index: int
    time: int
    source: CodedFrame

    @property
    def is_repetition(self) -> bool:
        return self.source.record.index != self.index


class Order:
    """Checks frames that come in the order of the file, finds what each of them shows, and gives them in display order.

    `first`: index of the intra frame where reading began; frames before it are left out. `lenient`: frames may be
    missing.
    """

    def __init__(self, clip: ClipFormat, first: int, lenient: bool) -> None:
        self.clip, self.first, self.lenient = clip, first, lenient
        self.next_index, self.highest_index, self.last_time = first, first, -1
        self.waiting: list[tuple[int, ShownFrame]] = []
        self.seen: set[int] = set()
        self.intra_indices: list[int] = []
        self.anchors, self.between = (deque[CodedFrame](maxlen=length) for length in (KEPT_ANCHORS, KEPT_BETWEEN))
        self.latest: CodedFrame | None = None

    def add(self, frame: FrameRecord) -> None:
        """Take the next frame of the file. Raises CorruptDataError."""
        if frame.index < self.first:
            return
        if frame.index < self.next_index or frame.index in self.seen:
            raise CorruptDataError(f"frame {frame.index} is there twice, or comes too late")
        if frame.index - self.next_index >= MAX_REORDERING and not self.lenient:
            raise CorruptDataError(f"frame {frame.index} comes too early: frame {self.next_index} is missing")
        shown = ShownFrame(frame.index, self.clip.nominal_time(frame.index) + frame.correction, self._source(frame))
        heappush(self.waiting, (frame.index, shown))
        self.highest_index = max(self.highest_index, frame.index)
        self.seen.add(frame.index)
        if frame.index - self.next_index >= MAX_REORDERING:  # frames are missing, and no longer waited for
            self.next_index = frame.index - MAX_REORDERING + 1
            self.seen = {index for index in self.seen if index >= self.next_index}
        while self.next_index in self.seen:
            self.seen.remove(self.next_index)
            self.next_index += 1

    def _source(self, frame: FrameRecord) -> CodedFrame:
        """The frame of which a frame shows the picture: itself, unless it is a repetition. Raises CorruptDataError."""
        if frame.is_intra and frame.index < self.highest_index:
            raise CorruptDataError(f"intra frame {frame.index} comes after frame {self.highest_index}")
        references = tuple(self._reference(frame, index) for index in frame.references)
        if frame.is_repetition:
            return references[0]
        coded = self.latest = CodedFrame(frame, references)
        if frame.is_intra:
            self.intra_indices.append(frame.index)
            while len(self.intra_indices) > 1 and self.intra_indices[1] < self.next_index:
                self.intra_indices.pop(0)  # no frame that is still to come lies between these two
        if frame.is_kept:
            (self.between if len(references) == MAX_REFERENCES else self.anchors).append(coded)
        return coded

    def _reference(self, frame: FrameRecord, index: int) -> CodedFrame:
        """Find a frame that another one refers to. Raises CorruptDataError if it must not."""
        nearest_intra = max((intra for intra in self.intra_indices if intra < frame.index), default=-1)
        for coded in (*self.anchors, *self.between):
            if coded.record.index == index and index >= nearest_intra:
                return coded
        latest = self.latest
        if frame.is_repetition and latest is not None and latest.record.index == index >= nearest_intra:
            return latest
        raise CorruptDataError(f"frame {frame.index} refers to frame {index}, which it cannot use")

    @property
    def is_ready(self) -> bool:
        """Whether the turn of the earliest frame that waits has come."""
        return bool(self.waiting) and self.waiting[0][0] < self.next_index

    def pop(self) -> ShownFrame:
        """Give the earliest frame that waits. Raises CorruptDataError."""
        shown = heappop(self.waiting)[1]
        if not self.last_time < shown.time <= MAX_TICKS:
            raise CorruptDataError(f"frame {shown.index} is shown at a time that is not after the frame before it")
        self.last_time = shown.time
        return shown


class SequenceReader:
    """Reads a binary file that is a sequence: forward, or from any frame if it can seek and has an index.

    `recover`: skip damage, up to the next intra frame; the file must seek. `damage` holds the errors found, at most
    `MAX_ERRORS`. Raises a FormatError for a header that is not sound, ValueError for `recover` without seeking.
    """

    def __init__(self, file: BinaryIO, *, max_pixels: int | None = MAX_PIXELS, recover: bool = False) -> None:
        self.file, self.recover = file, recover
        self.damage: list[FormatError] = []
        self.size_bytes = file_size(file)
        if recover and self.size_bytes is None:
            raise ValueError("recover needs a file that can seek")
        if self.size_bytes is not None:
            file.seek(0)
        self.header = read_header(file, max_pixels)
        self.first_record = len(self.header.to_bytes())
        self.index = None if self.size_bytes is None else self._read_index(self.size_bytes)

    @property
    def clip(self) -> ClipFormat:
        return self.header.clip

    def _read_index(self, size_bytes: int) -> Index | None:
        """Read the index at the end of the file; None if there is none."""
        place, end = self.file.tell(), size_bytes - TRAILER_BYTES
        try:
            self.file.seek(max(end, 0))
            length = int.from_bytes(read_up_to(self.file, TRAILER_BYTES), "big")
            start = end - length
            if not self.first_record <= start < end:
                return None
            self.file.seek(start)
            record = read_record(self.file)
            if record is None or record.tag != INDEX_TAG or record.size_bytes != length:
                return None
            index = Index(record.contents, self.clip)
            fits = self.first_record <= index.offsets[0] and index.offsets[-1] < start
            return index if fits and index.n_frames * LEAST_FRAME_BYTES <= start else None
        except FormatError:
            return None
        finally:
            self.file.seek(place)

    def read(self, place: int | None = None) -> Iterator[ShownFrame | bytes]:
        """Iterate over the frames, in the order of display, and over the pieces of the Matroska stream.

        `place`: begin at an intra frame of the index, by its place there. Raises a FormatError for damage, and
        TruncatedError after the last whole frame of a file that ends before its index.
        """
        builder: IndexBuilder | None = IndexBuilder()
        first, offset = 0, self.first_record
        if place is not None and self.index is not None:
            first, offset, builder = self.index.indices[place], self.index.offsets[place], None
        order = Order(self.clip, first, self.recover)
        for start, record in self.records(offset):
            if record.tag == INDEX_TAG:
                if order.seen and not self.recover:
                    raise CorruptDataError(f"frame {order.next_index} is missing")
                yield from self._shown(order, at_end=True)
                self._check_end(record, start, order, builder)
                return
            if record.tag == MEDIA_TAG:
                yield record.contents
                continue
            try:
                frame = parse_frame(record)
                if start == offset and place is not None:
                    self._check_place(frame, place)
                order.add(frame)
            except FormatError as error:
                self._note(error)
                continue
            if builder is not None:
                builder.add(frame, start)
            yield from self._shown(order)
        yield from self._shown(order, at_end=True)
        if self.index is None:
            self._note(TruncatedError("the file ends before its index: it is incomplete"))

    def _shown(self, order: Order, at_end: bool = False) -> Iterator[ShownFrame]:
        """Iterate over the frames whose turn has come; at the end, over all that wait."""
        while order.is_ready or (at_end and order.waiting):
            try:
                shown = order.pop()
            except FormatError as error:
                self._note(error)
            else:
                yield shown

    def records(self, offset: int) -> Iterator[tuple[int, Record]]:
        """Iterate over records and their offsets. Ends where the file ends, if it has no index."""
        search = MarkerSearch(self.file, SEARCHED_BYTES_PER_BYTE * (self.size_bytes or 0))
        while True:
            if self.size_bytes is not None:
                self.file.seek(offset)
            try:
                record = read_record(self.file)
                if record is None:
                    raise TruncatedError("the file ends between two records")
            except FormatError as error:
                found = search.find(offset + 1) if self.recover else None
                is_end = isinstance(error, TruncatedError) and self.index is None and found is None
                if not is_end:
                    self._note(type(error)(f"{error} (at byte {offset})"))
                if found is None:
                    return
                offset = found
                continue
            yield offset, record
            if record.tag == INDEX_TAG:
                return
            offset += record.size_bytes

    def _note(self, error: FormatError) -> None:
        """Keep an error that `recover` skips; raise it otherwise."""
        if not self.recover:
            raise error
        is_known = str(error) in map(str, self.damage)  # from an earlier iteration
        if len(self.damage) < MAX_ERRORS and not is_known:
            self.damage.append(error.with_traceback(None))  # a traceback keeps the contents of the record

    def _check_place(self, frame: FrameRecord, place: int) -> None:
        """Check the frame where reading began against the index. Raises CorruptDataError."""
        time = self.clip.nominal_time(frame.index) + frame.correction
        if self.index is not None and (frame.index, time) != (self.index.indices[place], self.index.times[place]):
            raise CorruptDataError("the index does not belong to the frames")

    def _check_end(self, record: Record, start: int, order: Order, builder: IndexBuilder | None) -> None:
        """Check the index, whose record begins at `start`, against the frames, and that the file ends with it."""
        try:
            index = Index(record.contents, self.clip)
            self._check_trailer(record, start)
            if builder is not None and builder.contents(index.end_correction) != record.contents:
                raise CorruptDataError("the index does not belong to the frames")
            if order.seen or order.next_index != index.n_frames or not order.last_time < index.end <= MAX_TICKS:
                raise CorruptDataError(f"the index counts {index.n_frames} frames; others are there")
            self.index = index
        except FormatError as error:
            if not self.damage:  # damage before it explains why it does not match
                self._note(error)

    def _check_trailer(self, record: Record, start: int) -> None:
        """Check the bytes after the index."""
        if self.size_bytes is not None:
            self.file.seek(start + record.size_bytes)
        trailer = read_up_to(self.file, TRAILER_BYTES + 1)
        if len(trailer) < TRAILER_BYTES:
            raise TruncatedError("the file ends inside its last bytes")
        if trailer != record.size_bytes.to_bytes(TRAILER_BYTES, "big"):
            raise CorruptDataError("the bytes after the index are not its length")


class MarkerSearch:
    """Finds intra frames behind damage. `n_bytes`: how much it may read in vain, because of forged markers."""

    def __init__(self, file: BinaryIO, n_bytes: int) -> None:
        self.file, self.n_bytes = file, n_bytes

    def find(self, offset: int) -> int | None:
        """Offset of the next sound record of an intra frame, from `offset` on; None if there is none."""
        for place in marker_offsets(self.file, offset):
            self.file.seek(place)
            try:
                record = read_record(self.file)
                if record is not None:
                    parse_frame(record)
                    return place
            except FormatError:
                self.n_bytes -= self.file.tell() - place
            if self.n_bytes < 0:
                break
        return None


# Parts of a file


def marker_offsets(file: BinaryIO, offset: int) -> Iterator[int]:
    """Iterate over the offsets of the markers from `offset` on. The place in the file may change in between."""
    data = b""
    file.seek(offset)
    while piece := file.read(SEARCH_PIECE_BYTES):
        data = data[1 - len(MARKER) :] + piece
        offset += len(piece)
        found = data.find(MARKER)
        while found >= 0:
            yield offset - len(data) + found
            found = data.find(MARKER, found + 1)
        file.seek(offset)


def read_header(file: BinaryIO, max_pixels: int | None = MAX_PIXELS) -> SequenceHeader:
    """Read the header at the start of a file. Raises a FormatError."""
    start = read_up_to(file, len(MAGIC) + 1)
    if start[: len(MAGIC)] != MAGIC[: len(start)] or not start:
        raise NotUlcError("not a .ulc file")
    if len(start) <= len(MAGIC):
        raise TruncatedError("the file ends inside its header")
    if start[-1] != SEQUENCE_VERSION:
        raise UnsupportedVersionError(f"format version {start[-1]}; a sequence has version {SEQUENCE_VERSION}")
    try:
        fixed = read_exactly(file, FINGERPRINT_BYTES + 1)
        fields = read_exactly(file, fixed[-1])
        checksum = read_exactly(file, CRC_BYTES)
    except TruncatedError as error:
        raise TruncatedError("the file ends inside its header") from error
    if crc16(start + fixed + fields) != checksum:
        raise ChecksumError("the checksum of the header does not match: the file is damaged")
    header = parse_header(fixed[:FINGERPRINT_BYTES], fields)
    if max_pixels is not None and header.clip.n_pixels > max_pixels:
        size = f"{header.clip.width}x{header.clip.height}"
        raise LimitError(f"a frame has {size} pixels; the limit is {max_pixels}")
    return header


@whole_contents()
def parse_header(fingerprint: bytes, fields: bytes) -> SequenceHeader:
    """Parse the fields of a header. Raises a FormatError."""
    width, position = read_leb128(fields, 0, MAX_SIDE)
    height, position = read_leb128(fields, position, MAX_SIDE)
    if len(fields) < position + 5:
        raise CorruptDataError("the header is too short")
    flags, bit_depth, primaries, transfer, matrix = fields[position : position + 5]
    position += 5
    numbers = []
    for limit in (*[MAX_TERM] * 6, MAX_TICKS, MAX_TERM):
        number, position = read_leb128(fields, position, limit)
        numbers.append(number)
    *terms, start, gop = numbers
    layout, chroma = flags & 1, flags >> CHROMA_SHIFT & 3
    if position != len(fields) or flags >= 2 * RANGE_FLAG:
        raise CorruptDataError("the header has contents that no encoder writes")
    aspect, time_base, frame_rate = (fraction(*pair) for pair in zip(terms[::2], terms[1::2], strict=True))
    try:
        clip = ClipFormat(
            width=width, height=height, time_base=time_base, frame_rate=frame_rate, start=start, layout=Layout(layout),
            bit_depth=bit_depth, chroma=Chroma(chroma), full_range=bool(flags & RANGE_FLAG), primaries=primaries,
            transfer=transfer, matrix=matrix, sample_aspect=aspect,
        )  # fmt: skip
    except ValueError as error:
        raise CorruptDataError(f"the header has contents that no encoder writes: {error}") from error
    return SequenceHeader(fingerprint, clip, gop)


def fraction(numerator: int, denominator: int) -> Fraction:
    """A fraction of the header. Raises CorruptDataError unless it is positive and in its lowest terms."""
    if not numerator or not denominator or gcd(numerator, denominator) != 1:
        raise CorruptDataError(f"{numerator}/{denominator} is not a fraction in its lowest terms")
    return Fraction(numerator, denominator)


def read_record(file: BinaryIO) -> Record | None:
    """Read the record at the present place of a file; None at its end. Raises a FormatError."""
    data = file.read(1)
    if not data:
        return None
    if data == MARKER[:1]:
        data += read_exactly(file, len(MARKER))
    *marker, tag = data
    if tag not in KNOWN_TAGS or bytes(marker) != (MARKER if tag & ~CORRECTION_FLAG == INTRA_TAG else b""):
        raise CorruptDataError(f"a record of tag {tag} does not belong there")
    number = read_exactly(file, 1)
    while number[-1] >= 0x80 and len(number) < MAX_LEB128_BYTES:
        number += read_exactly(file, 1)
    length, _ = read_leb128(number, 0, MAX_RECORD_BYTES)
    contents = read_exactly(file, length)
    data += number + contents
    if crc16(data) != read_exactly(file, CRC_BYTES):
        raise ChecksumError("the checksum of a record does not match: the file is damaged")
    if tag == MEDIA_TAG and not contents:
        raise CorruptDataError("a piece of the attached stream is empty")
    return Record(tag, contents, len(data) + CRC_BYTES)


@whole_contents()
def parse_frame(record: Record) -> FrameRecord:
    """Parse the record of a frame. Raises a FormatError."""
    contents, tag = record.contents, record.tag
    index, position = read_leb128(contents, 0, MAX_INDEX)
    references, position = parse_references(contents, position, index, tag & REFERENCES_MASK)
    correction, quality, symbol_check, end = 0, 0, 0, len(contents)
    unusual = CorruptDataError(f"frame {index} has contents that no encoder writes")
    if tag & CORRECTION_FLAG:
        correction, position = read_signed_leb128(contents, position, MAX_TICKS)
        if not correction:
            raise unusual
    if tag & LATENT_FLAG:
        end -= CRC_BYTES
        if position >= end or contents[position] > MAX_QUALITY:
            raise unusual
        quality, symbol_check = contents[position], int.from_bytes(contents[end:], "big")
        position += 1
    rest, motion, payload = contents[position:end], None, None
    if tag & LATENT_FLAG and tag & MOTION_FLAG:
        n_motion_bytes, start = read_leb128(rest, 0, MAX_RECORD_BYTES)
        motion, payload = rest[start : start + n_motion_bytes], rest[start + n_motion_bytes :]
        if len(motion) < n_motion_bytes:
            raise unusual
    elif tag & MOTION_FLAG:
        motion = rest
    elif tag & LATENT_FLAG:
        payload = rest
    elif rest:
        raise unusual
    is_kept = not tag & PASSING_FLAG
    return FrameRecord(index, references, correction, quality, payload, symbol_check, motion, is_kept)


def parse_references(contents: bytes, position: int, index: int, count: int) -> tuple[tuple[int, ...], int]:
    """Parse the indices of the references of frame `index`; return them and the position after them."""
    references: tuple[int, ...] = ()
    for _ in range(count):
        distance, position = read_signed_leb128(contents, position, MAX_DISTANCE)
        reference = index - distance
        if reference < 0 or reference in (index, *references):
            raise CorruptDataError(f"frame {index} has contents that no encoder writes")
        references += (reference,)
    return references, position


def read_exactly(file: BinaryIO, n_bytes: int) -> bytes:
    """Read `n_bytes`. Raises TruncatedError if the file has fewer."""
    data = read_up_to(file, n_bytes)
    if len(data) < n_bytes:
        raise TruncatedError("the file ends inside a record")
    return data


def read_up_to(file: BinaryIO, n_bytes: int) -> bytes:
    """Read `n_bytes`, or fewer at the end of the file; memory is taken only for those that it has."""
    pieces: list[bytes] = []
    while n_bytes > 0 and (piece := file.read(min(n_bytes, PIECE_BYTES))):
        pieces.append(piece)
        n_bytes -= len(piece)
    return b"".join(pieces)


def file_size(file: BinaryIO) -> int | None:
    """Number of bytes of a file; None if it cannot seek. The present place stays."""
    if not file.seekable():
        return None
    place = file.tell()
    size_bytes = file.seek(0, SEEK_END)
    file.seek(place)
    return size_bytes


class MediaStream(RawIOBase):
    """The Matroska stream of a sequence, to be read forward: its pieces, one after another.

    It uses the file of `reader`, which must seek: frames and media can be read by turns. Raises a FormatError for
    damage; a reader with `recover` leaves out what is damaged. `owner`: what keeps that file open.
    """

    def __init__(self, reader: SequenceReader, owner: object = None) -> None:
        self.owner = owner
        records = SequenceReader(reader.file, max_pixels=None, recover=reader.recover).records(reader.first_record)
        self.pieces = (record.contents for _, record in records if record.tag == MEDIA_TAG)
        self.rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self.rest and (piece := next(self.pieces, None)) is not None:
            self.rest = memoryview(piece)
        n_bytes = min(len(buffer), len(self.rest))
        buffer[:n_bytes], self.rest = self.rest[:n_bytes], self.rest[n_bytes:]
        return n_bytes
