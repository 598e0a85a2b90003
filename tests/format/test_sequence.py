"""The container of a sequence as `docs/format.md` specifies it: layout, order, limits, damage, and recovery."""

import dataclasses
import random
import time
import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from io import BytesIO, UnsupportedOperation
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ulcodec.errors import (
    ChecksumError,
    CorruptDataError,
    FormatError,
    LimitError,
    NotUlcError,
    TruncatedError,
    UnsupportedVersionError,
)
from ulcodec.format.container import MAX_PIXELS, MAX_SIDE, Layout
from ulcodec.format.primitives import crc16, leb128, signed_leb128
from ulcodec.format.sequence import (
    MARKER,
    MAX_TERM,
    MAX_TICKS,
    Chroma,
    ClipFormat,
    FrameRecord,
    IndexBuilder,
    SequenceHeader,
    media_record,
    record_bytes,
)
from ulcodec.format.sequence_reader import (
    MAX_ERRORS,
    CodedFrame,
    MediaStream,
    SequenceReader,
    ShownFrame,
    parse_frame,
    read_header,
)

CLIP = ClipFormat(
    768, 512, Fraction(1, 1000), Fraction(30000, 1001), start=40, chroma=Chroma.YUV420, full_range=False,
    primaries=1, transfer=5, matrix=6, sample_aspect=Fraction(4, 3),
)  # fmt: skip
HEADER = SequenceHeader(b"\xde\xad\xbe\xef", CLIP, gop=250)
FRAMES = (
    FrameRecord(0, (), 0, 50, b"one", 0x1234),
    FrameRecord(1, (0,)),
    FrameRecord(3, (), 2, 75, b"second", 0xABCD),
    FrameRecord(2, (3,), -1),
    FrameRecord(4, (3,)),
)
SHOWN = [
    ShownFrame(0, 40, CodedFrame(FRAMES[0])),
    ShownFrame(1, 73, CodedFrame(FRAMES[0])),
    ShownFrame(2, 106, CodedFrame(FRAMES[2])),
    ShownFrame(3, 142, CodedFrame(FRAMES[2])),
    ShownFrame(4, 173, CodedFrame(FRAMES[2])),
]
END = 204
GREY = SequenceHeader(
    HEADER.fingerprint, ClipFormat(1, 1, Fraction(1, 25), Fraction(25), layout=Layout.GREY, bit_depth=16)
)
GREY_FRAME = FrameRecord(0, (), 0, 100, b"", 0xFFFF)

GOLDEN = bytes.fromhex(
    "554c43 02 deadbeef 16 8006 8004 04 08 01 05 06 0403 01e807 b0ea01e907 28 fa01 35e3"
    "554c4349 84 07 00 32 6f6e65 1234 df27"
    "81 02 01 02 ada0"
    "01 05 617564696f d3bc"
    "554c4349 94 0b 03 04 4b 7365636f6e64 abcd 7ee6"
    "91 03 02 01 01 b484"
    "81 02 04 02 5255"
    "02 09 05 05 02 21 00 00 1e 03 04 ccc1 0000000d"
)
GOLDEN_GREY = bytes.fromhex(
    "554c43 02 deadbeef 0f 01 01 09 10 02 02 02 0101 0119 1901 00 00 93ae"
    "554c4349 84 04 00 64 ffff 1955"
    "02 06 01 00 01 1a 00 00 57f4 0000000a"
)
"""Files of format version 2, which all later versions must read. Do not regenerate them."""
FILES = (GOLDEN, GOLDEN_GREY)

FRAME_STARTS = (33, 48, 63, 82, 89)
"""Offsets of the frames of `GOLDEN` in the order of the file."""
INDEX_START = 95
PREDICTED_TAGS = bytes.fromhex("89 8a 8d 8e 99 9a 9d 9e a9 aa ad ae b9 ba bd be")
HEADER_FIELDS = {
    "width": "8006", "height": "8004", "flags": "04", "bit depth": "08", "colours": "010506", "aspect": "0403",
    "time base": "01e807", "frame rate": "b0ea01e907", "start": "28", "GOP": "fa01",
}  # fmt: skip

Part = FrameRecord | bytes
"""A frame, or the bytes of any record."""


class Pipe(BytesIO):
    """A stream that cannot seek, and gives at most three bytes at once."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_: Any) -> int:
        raise UnsupportedOperation("seek")

    def tell(self) -> int:
        raise UnsupportedOperation("tell")

    def read(self, size: int | None = -1) -> bytes:
        return super().read(3 if size is None or size < 0 else min(size, 3))


class CountingFile(BytesIO):
    """A file that counts the bytes that are read from it."""

    n_read = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.n_read += len(data)
        return data


# Files


def intra(index: int, correction: int = 0, payload: bytes = b"payload") -> FrameRecord:
    return FrameRecord(index, (), correction, 50, payload, index % 2**16)


def repeat(index: int, reference: int, correction: int = 0) -> FrameRecord:
    return FrameRecord(index, (reference,), correction)


def predicted(index: int, *references: int, is_kept: bool = True) -> FrameRecord:
    return FrameRecord(index, references, 0, 50, b"payload", index % 2**16, b"motion", is_kept)


def body_of(*parts: Part, header: SequenceHeader = HEADER) -> bytes:
    """Serialise a header and records, without an index."""
    return header.to_bytes() + b"".join(part if isinstance(part, bytes) else part.to_bytes() for part in parts)


def file_of(*parts: Part, header: SequenceHeader = HEADER, end_correction: int = 0) -> bytes:
    """Serialise a sequence with the index of its frames."""
    builder, offset = IndexBuilder(), len(header.to_bytes())
    for part in parts:
        if isinstance(part, FrameRecord):
            builder.add(part, offset)
        offset += len(part if isinstance(part, bytes) else part.to_bytes())
    return body_of(*parts, header=header) + builder.to_bytes(end_correction)


def indexed(contents: bytes) -> bytes:
    """`GOLDEN` with other contents of the index, and with right checksums."""
    record = record_bytes(2, contents)
    return GOLDEN[:INDEX_START] + record + len(record).to_bytes(4, "big")


def headed(changes: dict[str, str], version: int = 2) -> bytes:
    """`GOLDEN` with other fields of the header, in hexadecimal digits, and with a right checksum."""
    fields = bytes.fromhex("".join((HEADER_FIELDS | changes).values()))
    head = b"ULC" + bytes([version]) + HEADER.fingerprint + bytes([len(fields)]) + fields
    return head + crc16(head) + GOLDEN[FRAME_STARTS[0] :]


def flipped(data: bytes, *bits: int) -> bytes:
    damaged = bytearray(data)
    for bit in bits:
        damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


# Reading


@dataclasses.dataclass
class Result:
    """What a reader gave until its end, or until `error`."""

    frames: list[ShownFrame]
    media: bytes = b""
    error: FormatError | None = None
    damage: list[FormatError] = dataclasses.field(default_factory=list)


def read_all(source: bytes | BinaryIO, place: int | None = None, **options: Any) -> Result:
    """Read a sequence to its end or to the first error."""
    result = Result([])
    try:
        reader = SequenceReader(BytesIO(source) if isinstance(source, bytes) else source, **options)
        result.damage = reader.damage
        for part in reader.read(place):
            if isinstance(part, ShownFrame):
                result.frames.append(part)
            else:
                result.media += part
    except FormatError as error:
        result.error = error
    return result


def assert_refused(data: bytes, error: type[FormatError], match: str = "") -> None:
    """Check that a reader of a file and of a pipe raises the error at some place."""
    for source in (BytesIO(data), Pipe(data)):
        found = read_all(source, max_pixels=None).error
        assert type(found) is error, f"expected {error.__name__}, got {found!r}"
        assert match in str(found)


def shown_of(parts: list[Part], clip: ClipFormat) -> list[ShownFrame]:
    """The frames of a sound sequence in the order of display, with times in exact arithmetic."""
    frames = {part.index: part for part in parts if isinstance(part, FrameRecord)}
    shown = []
    for index, frame in sorted(frames.items()):
        nominal = clip.start + (Fraction(index) / (clip.time_base * clip.frame_rate) + Fraction(1, 2)).__floor__()
        source = frames[frame.references[0]] if frame.is_repetition else frame
        shown.append(ShownFrame(index, nominal + frame.correction, CodedFrame(source)))
    return shown


# Random sequences

slow = settings(deadline=None, max_examples=50)
fractions = st.builds(Fraction, st.integers(1, 2**14), st.integers(1, 2**14)) | st.sampled_from(
    [Fraction(MAX_TERM), Fraction(1, MAX_TERM), Fraction(MAX_TERM, MAX_TERM - 1)]
)
clips = st.builds(
    ClipFormat,
    width=st.integers(1, MAX_SIDE),
    height=st.integers(1, MAX_SIDE),
    time_base=fractions,
    frame_rate=fractions,
    start=st.integers(0, MAX_TICKS),
    layout=st.sampled_from(Layout),
    bit_depth=st.integers(8, 16),
    chroma=st.sampled_from(Chroma),
    full_range=st.booleans(),
    primaries=st.integers(0, 255),
    transfer=st.integers(0, 255),
    matrix=st.integers(0, 255),
    sample_aspect=fractions,
)
headers = st.builds(SequenceHeader, st.binary(min_size=4, max_size=4), clips, st.integers(0, MAX_TERM))


@dataclasses.dataclass
class Sequence:
    """A sound sequence: its header, its records in the order of the file, and the end of its last frame."""

    header: SequenceHeader
    parts: list[Part]
    end_correction: int

    def to_bytes(self) -> bytes:
        return file_of(*self.parts, header=self.header, end_correction=self.end_correction)

    @property
    def shown(self) -> list[ShownFrame]:
        return shown_of(self.parts, self.header.clip)


class FrameOrder(NamedTuple):
    """A frame in a random order of the file: its index, its references, and what it is if it has some."""

    index: int
    references: tuple[int, ...] = ()
    is_predicted: bool = False
    is_kept: bool = True


def random_order(kinds: list[bool], rng: random.Random) -> list[FrameOrder]:
    """An order of the file in which the frames may come: intra frames, repetitions and predicted frames.

    `kinds`: whether each frame is an intra frame, of which one is among the first 64.
    """
    left, order = list(range(len(kinds))), list[FrameOrder]()
    while left:
        next_intra = next((index for index in left if kinds[index]), len(kinds))
        allowed = [index for index in left if index < left[0] + 64 and index <= next_intra]
        coded = [frame for frame in order if frame.is_predicted or not frame.references]
        kept_frames = [frame for frame in coded if frame.is_kept]
        anchors = [frame.index for frame in kept_frames if len(frame.references) < 2][-4:]
        kept = anchors + [frame.index for frame in kept_frames if len(frame.references) == 2][-8:]
        usable: dict[int, list[int]] = {}
        for index in allowed[: allowed.index(next_intra)] if next_intra in allowed else allowed:
            nearest = max((frame.index for frame in coded if not frame.references and frame.index < index), default=-1)
            usable[index] = [number for number in kept if number >= nearest]
        chosen = max(allowed) if rng.random() < 0.3 else rng.choice(allowed)
        if not usable.get(chosen):
            order.append(FrameOrder(next_intra))
        elif rng.random() < 0.5:
            order.append(FrameOrder(chosen, (rng.choice(usable[chosen]),)))
        else:
            references = tuple(rng.sample(usable[chosen], min(len(usable[chosen]), rng.choice((1, 2)))))
            last_intra = max(index for index in anchors if kinds[index])
            leaves_intra = len(references) == 2 or last_intra in anchors[-3:]
            order.append(FrameOrder(chosen, references, True, leaves_intra and rng.random() < 0.5))
        left.remove(order[-1].index)
    return order


@st.composite
def sequences(draw: Callable[..., Any]) -> Sequence:
    """Sound sequences of up to 150 frames with media; frames come up to 63 places early."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    n_frames, share = draw(st.integers(1, 12) | st.integers(60, 150)), draw(st.sampled_from([0.02, 0.3, 1.0]))
    kinds = [rng.random() < share for _ in range(n_frames)]
    kinds[rng.randrange(min(n_frames, 64))] = True
    gap = draw(st.integers(1, 1000))
    jitter = draw(st.sampled_from([0.0, 0.5, 1.0])) * (gap - 1) / 2
    clip = ClipFormat(64, 48, Fraction(1, 25 * gap), Fraction(25), start=draw(st.integers(1000, 2000)))
    parts: list[Part] = []
    for index, references, is_predicted, is_kept in random_order(kinds, rng):
        correction = round(rng.uniform(-jitter, jitter))
        has_latent = not references or (is_predicted and rng.random() < 0.5)
        latent = (rng.randrange(101), rng.randbytes(rng.randrange(20)), 0xABCD) if has_latent else (0, None, 0)
        motion = rng.randbytes(rng.randrange(20)) if is_predicted else None
        parts.append(FrameRecord(index, references, correction, *latent, motion, is_kept))
        if rng.random() < 0.1:
            parts.append(media_record(rng.randbytes(rng.randrange(1, 20))))
    return Sequence(SequenceHeader(b"abcd", clip), parts, draw(st.integers(1, MAX_TICKS // 2)))


# Golden files and round trips


def test_golden_files_are_written() -> None:
    assert file_of(*FRAMES[:2], media_record(b"audio"), *FRAMES[2:], end_correction=-3) == GOLDEN
    assert file_of(GREY_FRAME, header=GREY) == GOLDEN_GREY


@pytest.mark.parametrize("kind", [BytesIO, Pipe])
def test_golden_files_are_read(kind: type[BytesIO]) -> None:
    reader = SequenceReader(kind(GOLDEN))
    parts = list(reader.read())
    assert (reader.header, parts) == (HEADER, [*SHOWN[:2], b"audio", *SHOWN[2:]])
    assert reader.index is not None
    assert (reader.index.n_frames, reader.index.end) == (5, END)
    assert list(reader.index.offsets) == [FRAME_STARTS[0], FRAME_STARTS[2]]
    assert (list(reader.index.indices), list(reader.index.times)) == ([0, 3], [40, 142])
    grey = SequenceReader(kind(GOLDEN_GREY))
    assert list(grey.read()) == [ShownFrame(0, 0, CodedFrame(GREY_FRAME))]
    assert (grey.header, grey.index.n_frames, grey.index.end) == (GREY, 1, 1)


def test_index_is_read_before_the_frames() -> None:
    index = SequenceReader(BytesIO(GOLDEN)).index
    assert index is not None
    assert (index.n_frames, index.end, list(index.times)) == (5, END, [40, 142])
    assert SequenceReader(Pipe(GOLDEN)).index is None


@given(headers)
def test_header_round_trips(header: SequenceHeader) -> None:
    data = header.to_bytes()
    assert read_header(BytesIO(data + b"rest"), max_pixels=None) == header
    assert len(data) == 9 + data[8] + 2


@given(st.integers(0, 2**20), fractions, fractions)
def test_nominal_time_is_that_of_the_specification(index: int, time_base: Fraction, rate: Fraction) -> None:
    clip = ClipFormat(1, 1, time_base, rate, start=7)
    assert clip.nominal_time(index) == 7 + (index / (time_base * rate) + Fraction(1, 2)).__floor__()
    assert clip.seconds(3) == 3 * time_base


@slow
@given(sequences())
def test_sequence_round_trips(sequence: Sequence) -> None:
    data = sequence.to_bytes()
    media = b"".join(part[2:-2] for part in sequence.parts if isinstance(part, bytes))
    for source in (BytesIO(data), Pipe(data), CountingFile(data)):
        result = read_all(source, recover=isinstance(source, CountingFile))
        assert (result.error, result.damage) == (None, [])
        assert result.frames == sequence.shown
        assert result.media == media


@slow
@given(sequences())
def test_reading_begins_at_any_intra_frame_without_the_frames_before_it(sequence: Sequence) -> None:
    reader = SequenceReader(BytesIO(sequence.to_bytes()))
    assert reader.index is not None
    assert reader.index.end == reader.clip.nominal_time(len(sequence.shown)) + sequence.end_correction
    for place, first in list(enumerate(reader.index.indices))[::9]:
        frames = [part for part in reader.read(place) if isinstance(part, ShownFrame)]
        assert frames == sequence.shown[first:]


@slow
@given(sequences())
def test_index_finds_the_intra_frame_before_each_frame(sequence: Sequence) -> None:
    """Reading from the place that the index gives for a frame, or for its time, finds the frame."""
    reader = SequenceReader(BytesIO(sequence.to_bytes()))
    index = reader.index
    assert index is not None
    for shown in sequence.shown[::7]:
        for place in (index.intra_at(shown.index), index.intra_at_time(shown.time)):
            frames = [part for part in reader.read(place) if isinstance(part, ShownFrame)]
            assert shown in frames
            assert place is None or frames[0].index == index.indices[place] <= shown.index


def test_longest_fields_round_trip() -> None:
    clip = ClipFormat(
        MAX_SIDE, MAX_SIDE, Fraction(MAX_TERM, MAX_TERM - 1), Fraction(MAX_TERM - 1, MAX_TERM), start=MAX_TICKS - 1,
        bit_depth=16, primaries=255, transfer=255, matrix=255, sample_aspect=Fraction(MAX_TERM - 1, MAX_TERM),
    )  # fmt: skip
    header = SequenceHeader(bytes(4), clip, MAX_TERM)
    frame = FrameRecord(0, (), 1 - MAX_TICKS, 100, bytes(300), 0xFFFF)
    last = FrameRecord(1, (0,))
    data = file_of(frame, last, header=header, end_correction=-1)
    assert read_all(data, max_pixels=None).frames == [
        ShownFrame(0, 0, CodedFrame(frame)),
        ShownFrame(1, MAX_TICKS, CodedFrame(frame)),
    ]


# Limits of the order


def test_frame_may_come_63_places_early() -> None:
    frames = [intra(0), repeat(64, 0), *(repeat(index, 0) for index in range(1, 64))]
    result = read_all(file_of(*frames))
    assert result.error is None
    assert [shown.index for shown in result.frames] == list(range(65))
    frames = [intra(63), *(repeat(index, 63) for index in range(63))]
    assert read_all(file_of(*frames)).error is None


def test_reference_may_be_an_old_one() -> None:
    for last in (repeat(1, 2), predicted(1, 2, 5)):
        frames = [intra(0), *(intra(index) for index in range(2, 6)), last]
        assert read_all(file_of(*frames)).error is None
    frames = [intra(0), predicted(10, 0), *(predicted(index, 0, 10) for index in range(2, 10)), predicted(1, 2, 9)]
    assert read_all(file_of(*frames)).error is None
    between = [predicted(index, 0, 20, is_kept=False) for index in range(2, 12)]
    frames = [intra(0), predicted(20, 0), *between, predicted(1, 0, 20), *(repeat(index, 0) for index in range(12, 20))]
    assert read_all(file_of(*frames)).error is None


def test_repetition_may_follow_a_frame_that_is_not_kept() -> None:
    frames = [intra(0), predicted(1, 0, is_kept=False), repeat(2, 1), repeat(3, 1), predicted(4, 0)]
    result = read_all(file_of(*frames))
    assert result.error is None
    assert [shown.source.record.index for shown in result.frames] == [0, 1, 1, 1, 4]


def test_references_are_found_and_let_go() -> None:
    frames = [intra(0), predicted(4, 0), predicted(2, 0, 4), predicted(1, 2, 0), repeat(3, 2)]
    shown = read_all(file_of(*frames)).frames
    assert [[part.record.index for part in frame.source.references] for frame in shown] == [
        [],
        [2, 0],
        [0, 4],
        [0, 4],
        [0],
    ]
    shown[2].source.keep("picture")
    assert (shown[3].source.decoded, shown[3].source.references) == ("picture", ())


def test_reference_may_be_any_later_frame_and_the_nearest_earlier_one() -> None:
    for references in ((0, 2), (2, 4), (4, 4)):
        frames = [intra(0), intra(2), intra(4), repeat(1, references[0]), repeat(3, references[1])]
        result = read_all(file_of(*frames))
        assert result.error is None
        assert [shown.source.record.index for shown in result.frames] == [0, references[0], 2, references[1], 4]


MISORDERED = {
    "frame twice": ([intra(0), repeat(1, 0), repeat(1, 0)], "twice"),
    "frame twice before it is shown": ([intra(0), repeat(2, 0), repeat(2, 0), repeat(1, 0)], "twice"),
    "intra frame twice": ([intra(0), intra(0)], "twice"),
    "frame much too late": ([intra(0), repeat(1, 0), repeat(2, 0), repeat(3, 0), repeat(1, 0)], "twice"),
    "frame 64 places early": ([intra(0), repeat(65, 0), *(repeat(index, 0) for index in range(1, 65))], "too early"),
    "first frame 64 places early": ([intra(64), *(repeat(index, 64) for index in range(64))], "too early"),
    "intra frame after a higher index": ([intra(0), repeat(2, 0), intra(1)], "intra frame 1 comes after frame 2"),
    "intra frame after a higher one, not the last": ([intra(0), repeat(3, 0), repeat(1, 0), intra(2)], "after frame 3"),
    "intra frames in falling order": ([intra(1), intra(0)], "intra frame 0 comes after frame 1"),
    "repetition first": ([repeat(0, 1), intra(1)], "refers"),
    "reference not there": ([intra(0), repeat(1, 5)], "frame 1 refers to frame 5"),
    "reference to a repetition": ([intra(0), repeat(1, 0), repeat(2, 1)], "frame 2 refers to frame 1"),
    "reference that comes later": ([intra(0), repeat(1, 2), intra(2)], "frame 1 refers to frame 2"),
    "reference too old": ([intra(0), *(intra(index) for index in range(2, 7)), repeat(1, 2)], "refers to frame 2"),
    "earlier reference too old": ([intra(0), *(intra(index) for index in range(2, 6)), repeat(1, 0)], "frame 0"),
    "reference with two references too old": (
        [intra(0), predicted(11, 0), *(predicted(index, 0, 11) for index in range(2, 11)), predicted(1, 2)],
        "frame 1 refers to frame 2"),
    "prediction from a passing frame": ([intra(0), predicted(1, 0, is_kept=False), predicted(2, 1)], "to frame 1"),
    "repetition of a frame that was not kept": (
        [intra(0), predicted(1, 0, is_kept=False), predicted(3, 0), repeat(2, 1)], "frame 2 refers to frame 1"),
    "prediction from a repetition": ([intra(0), repeat(1, 0), predicted(2, 1)], "frame 2 refers to frame 1"),
    "predicted reference too old": (
        [intra(0), *(predicted(index, 0) for index in range(2, 6)), predicted(1, 0)], "refers to frame 0"),
    "prediction across an intra frame": ([intra(0), intra(2), predicted(1, 0, 2), predicted(3, 1)], "to frame 1"),
    "reference across an intra frame": ([intra(0), intra(1), repeat(2, 0)], "frame 2 refers to frame 0"),
    "leading frame across one": ([intra(0), intra(2), intra(4), repeat(1, 0), repeat(3, 0)], "3 refers to frame 0"),
    "times that stay": ([intra(0), repeat(1, 0, -33)], "time"),
    "times that fall": ([intra(0), repeat(1, 0, -34)], "time"),
    "times that fall in the order of display": ([intra(0), repeat(2, 0, -34), repeat(1, 0)], "time"),
    "negative time": ([intra(0, -41)], "time"),
    "time beyond 2^54": ([intra(0, MAX_TICKS - 39)], "time"),
}  # fmt: skip


@pytest.mark.parametrize(("frames", "match"), MISORDERED.values(), ids=MISORDERED.keys())
def test_frames_that_break_a_rule_are_refused(frames: list[FrameRecord], match: str) -> None:
    assert_refused(body_of(*frames, record_bytes(2, b"not reached")), CorruptDataError, match)


def test_missing_frame_is_refused_and_no_frame_after_it_is_shown() -> None:
    data = file_of(intra(0), repeat(1, 0), repeat(3, 0), end_correction=100)
    assert_refused(data, CorruptDataError, "frame 2")
    assert [shown.index for shown in read_all(data).frames] == [0, 1]


def test_frames_before_an_error_are_shown() -> None:
    result = read_all(body_of(intra(0), repeat(1, 0), intra(2), repeat(3, 9), repeat(4, 2)))
    assert [shown.index for shown in result.frames] == [0, 1, 2]
    assert isinstance(result.error, CorruptDataError)


def test_earliest_and_latest_times_are_accepted() -> None:
    frames = [intra(0, -40), repeat(1, 0, MAX_TICKS - CLIP.nominal_time(1) - 1)]
    end_correction = MAX_TICKS - CLIP.nominal_time(2)
    data = file_of(*frames, end_correction=end_correction)
    assert [shown.time for shown in read_all(data).frames] == [0, MAX_TICKS - 1]
    assert read_all(data).error is None
    assert_refused(file_of(*frames, end_correction=end_correction + 1), CorruptDataError)
    assert_refused(file_of(*frames, end_correction=end_correction - 1), CorruptDataError)


# Rejections: records

FORGED_RECORDS = {
    "index of 2^28": ("", 0x81, "8080808001 02", LimitError, "longer than 4 bytes"),
    "index not in its shortest form": ("", 0x81, "8100 02", CorruptDataError, "shortest form"),
    "reference to itself": ("", 0x81, "01 00", CorruptDataError, "no encoder writes"),
    "negative reference": ("", 0x81, "01 04", CorruptDataError, "no encoder writes"),
    "reference not in its shortest form": ("", 0x81, "01 8200", CorruptDataError, "shortest form"),
    "reference of 5 bytes": ("", 0x81, "01 8280808001", LimitError, "longer than 4 bytes"),
    "correction of 0": ("", 0x91, "01 02 00", CorruptDataError, "frame 1"),
    "correction above 2^54": ("", 0x91, f"01 02 {signed_leb128(2**54 + 1).hex()}", LimitError, str(2**55 + 2)),
    "correction below -2^54": ("", 0x91, f"01 02 {signed_leb128(-(2**54) - 1).hex()}", LimitError, str(2**55 + 1)),
    "correction of 9 bytes": ("", 0x91, "01 02 818080808080808001", LimitError, "longer than 8 bytes"),
    "correction not in its shortest form": ("", 0x91, "01 02 8100", CorruptDataError, "shortest form"),
    "repetition with more contents": ("", 0x81, "01 02 00", CorruptDataError, "frame 1"),
    "corrected repetition with more contents": ("", 0x91, "01 02 02 00", CorruptDataError, "frame 1"),
    "repetition without a reference": ("", 0x81, "01", CorruptDataError, "number"),
    "corrected repetition without a correction": ("", 0x91, "01 02", CorruptDataError, "number"),
    "frame without contents": ("", 0x81, "", CorruptDataError, "number"),
    "intra frame without contents": ("554c4349", 0x84, "", CorruptDataError, "number"),
    "quality 101": ("554c4349", 0x84, "01 65 1234", CorruptDataError, "frame 1"),
    "corrected intra frame of quality 101": ("554c4349", 0x94, "01 02 65 1234", CorruptDataError, "frame 1"),
    "intra frame without a correction": ("554c4349", 0x94, "01 00 32 1234", CorruptDataError, "frame 1"),
    "intra frame without a check": ("554c4349", 0x84, "01 32 12", CorruptDataError, "frame 1"),
    "intra frame without a marker": ("", 0x84, "01 32 1234", CorruptDataError, "tag 132"),
    "corrected intra frame without a marker": ("", 0x94, "01 02 32 1234", CorruptDataError, "tag 148"),
    "repetition with a marker": ("554c4349", 0x81, "01 02", CorruptDataError, "tag 129"),
    "media with a marker": ("554c4349", 0x01, "61", CorruptDataError, "tag 1"),
    "index with a marker": ("554c4349", 0x02, "61", CorruptDataError, "tag 2"),
    "another marker": ("554c434a", 0x84, "01 32 1234", CorruptDataError, "tag 132"),
    "piece of no bytes": ("", 0x01, "", CorruptDataError, "empty"),
}


@pytest.mark.parametrize(
    ("marker", "tag", "contents", "error", "match"), FORGED_RECORDS.values(), ids=FORGED_RECORDS.keys()
)
def test_forged_record_is_refused(marker: str, tag: int, contents: str, error: type[FormatError], match: str) -> None:
    record = record_bytes(tag, bytes.fromhex(contents), bytes.fromhex(marker))
    assert_refused(file_of(intra(0), record), error, match)


@pytest.mark.parametrize("marker", [b"", MARKER])
def test_unknown_tags_are_refused(marker: bytes) -> None:
    """With a marker, all tags but those of intra frames are refused."""
    known = {0x84, 0x94} if marker else {0x01, 0x02, 0x81, 0x91, MARKER[0], *PREDICTED_TAGS}
    for tag in set(range(256)) - known:
        data = file_of(intra(0), record_bytes(tag, bytes.fromhex("01 02 32 1234"), marker))
        assert_refused(data, CorruptDataError, f"tag {tag} ")


def test_lengths_that_are_no_legal_number_are_refused() -> None:
    contents = FRAMES[1].to_bytes()[2:4]
    for length, error in ((b"\x82\0", CorruptDataError), (b"\x82\x80\x80\0", CorruptDataError)):
        record = b"\x81" + length + contents
        assert_refused(file_of(intra(0), record + crc16(record)), error, "shortest form")
    record = b"\x81" + b"\x82\x80\x80\x80\1" + contents
    assert_refused(file_of(intra(0), record + crc16(record)), LimitError, "longer than 4 bytes")


def test_length_beyond_the_end_is_refused() -> None:
    assert_refused(file_of(intra(0), b"\x81\x7f"), TruncatedError)


def test_file_that_ends_in_a_record_and_has_an_index_is_damaged() -> None:
    """A forged length hides the index from a reader that cannot seek. A reader that can seek knows better."""
    data = file_of(intra(0), b"\x81\x7f")
    assert "inside a record" in str(read_all(data).error)
    assert "incomplete" in str(read_all(Pipe(data)).error)


@pytest.mark.parametrize("start", [*FRAME_STARTS, INDEX_START, 54])
def test_wrong_checksum_of_a_record_is_refused(start: int) -> None:
    """The last byte of the contents of each record is damaged."""
    ends = (*FRAME_STARTS[1:2], 54, *FRAME_STARTS[2:], INDEX_START, len(GOLDEN) - 4)
    end = min(end for end in ends if end > start)
    assert_refused(flipped(GOLDEN, 8 * (end - 3)), ChecksumError)
    assert_refused(flipped(GOLDEN, 8 * (end - 1)), ChecksumError)


# Rejections: header

FORGED_HEADERS = {
    "width of 0": ({"width": "00"}, CorruptDataError, "0x512"),
    "height of 0": ({"height": "00"}, CorruptDataError, "768x0"),
    "width of 2^24": ({"width": "80808008"}, LimitError, "16777216"),
    "height of 5 bytes": ({"height": "8080808001"}, LimitError, "longer than 4 bytes"),
    "width not in its shortest form": ({"width": "868000"}, CorruptDataError, "shortest form"),
    "chroma 3": ({"flags": "06"}, CorruptDataError, ""),
    "bit 4 of the flags": ({"flags": "14"}, CorruptDataError, ""),
    "bit 5 of the flags": ({"flags": "24"}, CorruptDataError, ""),
    "bit 6 of the flags": ({"flags": "44"}, CorruptDataError, ""),
    "bit 7 of the flags": ({"flags": "84"}, CorruptDataError, ""),
    "7 bits a sample": ({"bit depth": "07"}, CorruptDataError, "bit_depth"),
    "17 bits a sample": ({"bit depth": "11"}, CorruptDataError, "bit_depth"),
    "fraction of 0": ({"aspect": "0003"}, CorruptDataError, "0/3"),
    "fraction over 0": ({"time base": "0100"}, CorruptDataError, "1/0"),
    "aspect not in lowest terms": ({"aspect": "0202"}, CorruptDataError, "2/2"),
    "time base not in lowest terms": ({"time base": "0406"}, CorruptDataError, "4/6"),
    "frame rate not in lowest terms": ({"frame rate": "3202"}, CorruptDataError, "50/2"),
    "numerator of 2^28": ({"frame rate": "808080800101"}, LimitError, "longer than 4 bytes"),
    "term not in its shortest form": ({"aspect": "840003"}, CorruptDataError, "shortest form"),
    "start above 2^54": ({"start": leb128(2**54 + 1).hex()}, LimitError, str(2**54 + 1)),
    "start of 9 bytes": ({"start": "a88080808080808001"}, LimitError, "longer than 8 bytes"),
    "start not in its shortest form": ({"start": "a880808000"}, CorruptDataError, "shortest form"),
    "GOP of 5 bytes": ({"GOP": "fa80808001"}, LimitError, "longer than 4 bytes"),
    "GOP not in its shortest form": ({"GOP": "fa8100"}, CorruptDataError, "shortest form"),
    "field missing": ({"GOP": ""}, CorruptDataError, "number"),
    "fields missing": (dict.fromkeys(list(HEADER_FIELDS)[3:], ""), CorruptDataError, "too short"),
    "no fields": (dict.fromkeys(HEADER_FIELDS, ""), CorruptDataError, "number"),
    "byte too many": ({"GOP": "fa0100"}, CorruptDataError, ""),
}


@pytest.mark.parametrize(("changes", "error", "match"), FORGED_HEADERS.values(), ids=FORGED_HEADERS.keys())
def test_forged_header_is_refused(changes: dict[str, str], error: type[FormatError], match: str) -> None:
    assert headed({}) == GOLDEN
    assert_refused(headed(changes), error, match)


@pytest.mark.parametrize("data", [b"", b"P", b"UL ", b"\x89PNG\r\n\x1a\n", b"ulc" + GOLDEN[3:], bytes(40)])
def test_file_of_another_format_is_refused(data: bytes) -> None:
    assert_refused(data, NotUlcError)


@pytest.mark.parametrize("version", [0, 1, 3, 255])
def test_another_version_is_refused(version: int) -> None:
    assert_refused(headed({}, version), UnsupportedVersionError, f"version {version};")


def test_damaged_header_is_refused_even_with_recovery() -> None:
    for place in range(4, FRAME_STARTS[0]):
        data = flipped(GOLDEN, 8 * place)
        assert isinstance(read_all(data).error, TruncatedError if place == 8 and len(data) < 9 else ChecksumError)
        assert read_all(data, recover=True).error is not None
        assert read_all(data, recover=True).frames == []


def test_pixels_above_the_limit_are_refused() -> None:
    huge = file_of(intra(0), header=SequenceHeader(bytes(4), dataclasses.replace(CLIP, width=2**14, height=2**14 + 1)))
    error = read_all(huge).error
    assert isinstance(error, LimitError)
    assert f"16384x16385 pixels; the limit is {MAX_PIXELS}" in str(error)
    assert read_all(huge, max_pixels=None).error is None
    assert isinstance(read_all(GOLDEN, max_pixels=768 * 512 - 1).error, LimitError)
    assert read_all(GOLDEN, max_pixels=768 * 512).frames == SHOWN


# Rejections: index and end

FORGED_INDICES = {
    "fewer frames": ("04 05 02 21 00 00 1e 03 04", CorruptDataError),
    "more frames": ("06 05 02 21 00 00 1e 03 04", CorruptDataError),
    "no frames": ("00 05 00", CorruptDataError),
    "no frames, but intra frames": ("00 05 02 21 00 00 1e 03 04", CorruptDataError),
    "no intra frames": ("05 05 00", CorruptDataError),
    "an intra frame less": ("05 05 01 21 00 00", CorruptDataError),
    "an intra frame more": ("05 05 03 21 00 00 1e 03 04 07 01 00", CorruptDataError),
    "more intra frames than frames": ("01 05 02 21 00 00 1e 03 04", CorruptDataError),
    "end before the last frame": ("05 43 02 21 00 00 1e 03 04", CorruptDataError),
    "offset of the first one": ("05 05 02 20 00 00 1f 03 04", CorruptDataError),
    "offset of the second one": ("05 05 02 21 00 00 1f 03 04", CorruptDataError),
    "offset that stays": ("05 05 02 21 00 00 00 03 04", CorruptDataError),
    "offset behind the file": ("05 05 02 21 00 00 ffff03 03 04", CorruptDataError),
    "index of the first one": ("05 05 02 21 01 00 1e 02 04", CorruptDataError),
    "index of the second one": ("05 05 02 21 00 00 1e 02 04", CorruptDataError),
    "index that stays": ("05 05 02 21 00 00 1e 00 04", CorruptDataError),
    "index above the number of frames": ("05 05 02 21 00 00 1e 05 04", CorruptDataError),
    "index above the number of frames before a late end": ("05 7e 02 21 00 00 1e 05 04", CorruptDataError),
    "end before the last intra frame": (f"05 {signed_leb128(-70).hex()} 02 21 00 00 1e 03 04", CorruptDataError),
    "end behind 2^54": (f"05 {signed_leb128(2**54).hex()} 02 21 00 00 1e 03 04", CorruptDataError),
    "correction": ("05 05 02 21 00 00 1e 03 06", CorruptDataError),
    "times that do not rise": (f"05 05 02 21 00 00 1e 03 {signed_leb128(-101).hex()}", CorruptDataError),
    "negative time": (f"05 05 02 21 00 {signed_leb128(-41).hex()} 1e 03 04", CorruptDataError),
    "byte too many": ("05 05 02 21 00 00 1e 03 04 00", CorruptDataError),
    "nothing": ("", CorruptDataError),
    "correction missing": ("05 05 02 21 00 00 1e 03", CorruptDataError),
    "entries missing": ("05 05 05 21 00 00 1e 03 04", CorruptDataError),
    "absurd number of intra frames": ("ffffff7f 05 ffffff7f 21 00 00 1e 03 04", CorruptDataError),
    "absurd number of frames": ("ffffff7f 05 02 21 00 00 1e 03 04", CorruptDataError),
    "number of frames of 5 bytes": ("8580808001 05 02 21 00 00 1e 03 04", LimitError),
    "number of frames not in its shortest form": ("8500 05 02 21 00 00 1e 03 04", CorruptDataError),
    "sum of offsets": ("05 05 02 21 00 00 ffffffffffffff7f 03 04", LimitError),
    "sum of indices": ("ffffff7f 05 03 21 00 00 1e 03 04 00 ffffff7f 00", LimitError),
    "offset of 9 bytes": ("05 05 02 21 00 00 9e8080808080808001 03 04", LimitError),
    "end of more than 2^54": (f"05 {signed_leb128(2**54 + 1).hex()} 02 21 00 00 1e 03 04", LimitError),
    "correction of more than 2^54": (f"05 05 02 21 00 00 1e 03 {signed_leb128(-(2**54) - 1).hex()}", LimitError),
}  # fmt: skip


PLAUSIBLE_INDICES = {
    "fewer frames",
    "more frames",
    "an intra frame less",
    "an intra frame more",
    "end before the last frame",
    "offset of the second one",
    "index of the first one",
    "index of the second one",
    "correction",
}
"""Those that could be right for other frames. A reader does not use the others to find frames."""


@pytest.mark.parametrize(("contents", "error"), FORGED_INDICES.values(), ids=FORGED_INDICES.keys())
def test_forged_index_is_refused_after_the_frames(contents: str, error: type[FormatError]) -> None:
    data = indexed(bytes.fromhex(contents))
    assert_refused(data, error)
    assert read_all(data).frames == SHOWN
    recovered = read_all(data, recover=True)
    assert (recovered.error, recovered.frames) == (None, SHOWN)
    assert type(recovered.damage[0]) is error


@pytest.mark.parametrize("name", FORGED_INDICES)
def test_index_that_contradicts_itself_is_not_used(name: str) -> None:
    index = SequenceReader(BytesIO(indexed(bytes.fromhex(FORGED_INDICES[name][0])))).index
    assert (index is not None) == (name in PLAUSIBLE_INDICES)


def test_rates_that_give_huge_times_are_refused() -> None:
    """The nominal time of frame 1 is about 2^56 ticks, and that of frame 200 has more than 64 bits."""
    header = SequenceHeader(bytes(4), ClipFormat(8, 8, Fraction(1, MAX_TERM), Fraction(1, MAX_TERM)))
    data = file_of(intra(0), *(repeat(index, 0) for index in range(1, 200)), intra(200), header=header)
    assert SequenceReader(BytesIO(data)).index is None
    assert_refused(data, CorruptDataError, "frame 1 is shown at a time")
    assert [shown.index for shown in read_all(data, recover=True).frames] == [0]


@pytest.mark.parametrize("name", ["fewer frames", "more frames", "end before the last frame"])
def test_wrong_counts_are_refused_where_reading_began_at_an_intra_frame(name: str) -> None:
    result = read_all(indexed(bytes.fromhex(FORGED_INDICES[name][0])), place=1)
    assert result.frames == SHOWN[3:]
    assert isinstance(result.error, CorruptDataError)


def test_other_records_are_not_taken_for_an_index() -> None:
    contents = GOLDEN[INDEX_START + 2 : -6]
    assert SequenceReader(BytesIO(indexed(contents))).index is not None
    media = media_record(contents)
    for end in (media + len(media).to_bytes(4, "big"), GOLDEN[INDEX_START:-4] + b"more" + bytes([0, 0, 0, 17])):
        assert SequenceReader(BytesIO(GOLDEN[:INDEX_START] + end)).index is None


@pytest.mark.parametrize(
    "forged",
    [
        {"index": 3},
        {"correction": 1},
        {"index": 3, "correction": CLIP.nominal_time(2) - CLIP.nominal_time(3)},
        {"offset": len(intra(0).to_bytes())},
        {"offset": -1},
        {"offset": 1},
    ],
    ids=str,
)
def test_wrong_entry_does_not_lead_astray(forged: dict[str, int]) -> None:
    """Reading from an intra frame that the index describes wrongly gives no frame."""
    frames, builder, offset = [intra(0), intra(1), intra(2), intra(3)], IndexBuilder(), len(HEADER.to_bytes())
    for frame in frames[:3]:
        change = dict(forged) if frame.index == 2 else {}
        shift = change.pop("offset", 0)
        builder.add(dataclasses.replace(frame, **change), offset + shift)
        offset += len(frame.to_bytes())
    builder.n_frames = 4
    reader = SequenceReader(BytesIO(body_of(*frames) + builder.to_bytes(0)))
    assert reader.index is not None
    with pytest.raises(FormatError):
        next(reader.read(2))


def test_offset_behind_the_end_of_a_file_is_no_error_of_the_operating_system(tmp_path: Path) -> None:
    path = tmp_path / "clip.ulc"
    path.write_bytes(indexed(bytes.fromhex("05 05 02 21 00 00") + leb128(2**55) + bytes.fromhex("03 04")))
    with path.open("rb") as file:
        reader = SequenceReader(file)
        assert reader.index is None
        with pytest.raises(CorruptDataError):
            list(reader.read(1))


@pytest.mark.parametrize(
    ("trailer", "error"),
    [
        ("0000000c", CorruptDataError),
        ("0000000e", CorruptDataError),
        ("0d000000", CorruptDataError),
        ("00000000", CorruptDataError),
        ("ffffffff", CorruptDataError),
        ("0000000d00", CorruptDataError),
        ("0000000d0000000d", CorruptDataError),
        ("00000d", TruncatedError),
        ("", TruncatedError),
    ],
)
def test_wrong_end_is_refused_after_the_frames(trailer: str, error: type[FormatError]) -> None:
    data = GOLDEN[:-4] + bytes.fromhex(trailer)
    assert_refused(data, error)
    assert read_all(data).frames == SHOWN


def test_records_after_the_index_are_refused() -> None:
    assert_refused(GOLDEN + GOLDEN[INDEX_START:], CorruptDataError, "after the index")
    assert_refused(GOLDEN[:-4] + FRAMES[1].to_bytes() + GOLDEN[-4:], CorruptDataError, "after the index")


def test_file_without_frames_is_refused() -> None:
    assert_refused(file_of(), CorruptDataError)
    assert_refused(file_of(media_record(b"audio")), CorruptDataError)
    assert_refused(body_of(), TruncatedError, "incomplete")


# Damage


@pytest.mark.parametrize("kind", [BytesIO, Pipe])
def test_truncation_at_every_length_gives_the_whole_frames_before_it(kind: type[BytesIO]) -> None:
    ends = [*FRAME_STARTS[1:2], 54, *FRAME_STARTS[3:], INDEX_START]
    for length in range(len(GOLDEN)):
        result = read_all(kind(GOLDEN[:length]))
        assert type(result.error) is (TruncatedError if length else NotUlcError)
        whole = {frame.index for frame, end in zip(FRAMES, ends, strict=True) if end <= length}
        assert result.frames == [shown for shown in SHOWN if shown.index in whole]
        assert result.media == (b"audio" if length >= FRAME_STARTS[2] else b"")


@pytest.mark.parametrize("data", FILES)
@pytest.mark.parametrize("options", [{}, {"recover": True}])
def test_every_bit_flip_is_detected(data: bytes, options: dict[str, Any]) -> None:
    """No frame is changed: those that are shown are some of the right ones, in order, and there is an error."""
    sound = read_all(data).frames
    for bit in range(8 * len(data)):
        for kind in (BytesIO, Pipe) if not options else (BytesIO,):
            result = read_all(kind(flipped(data, bit)), **options)
            assert result.error is not None or result.damage
            assert [shown for shown in sound if shown in result.frames] == result.frames


@given(st.binary(max_size=60))
def test_random_bytes_after_a_header_are_refused(rest: bytes) -> None:
    for data in (HEADER.to_bytes() + rest, body_of(intra(0)) + rest):
        assert read_all(data).error is not None
        assert read_all(data, recover=True).damage


def test_frames_of_an_unfinished_file_are_read_with_recovery() -> None:
    result = read_all(GOLDEN[:INDEX_START], recover=True)
    assert (result.frames, result.error) == (SHOWN, None)
    assert [type(error) for error in result.damage] == [TruncatedError]


# Recovery


def records_of(sequence: Sequence) -> list[tuple[int, int, Part]]:
    """Start and end in the file, and the record itself, of each record but the index."""
    offset, records = len(sequence.header.to_bytes()), []
    for part in sequence.parts:
        size_bytes = len(part if isinstance(part, bytes) else part.to_bytes())
        records.append((offset, offset + size_bytes, part))
        offset += size_bytes
    return records


def expected_after(sequence: Sequence, damaged: list[int]) -> list[ShownFrame]:
    """The frames that a reader recovers if it skips each damaged byte up to the next sound intra frame."""
    is_lost, kept = False, set()
    for start, end, part in records_of(sequence):
        is_intra = isinstance(part, FrameRecord) and part.is_intra
        is_lost = any(start <= place < end for place in damaged) or (is_lost and not is_intra)
        if isinstance(part, FrameRecord) and not is_lost and kept.issuperset(part.references):
            kept.add(part.index)
    return [shown for shown in sequence.shown if shown.index in kept]


def groups(n_groups: int = 6) -> Sequence:
    """Groups of four frames: an intra frame, a frame shown before it, media, and two repetitions."""
    parts: list[Part] = [intra(0), repeat(1, 0)]
    for index in range(3, 4 * n_groups + 3, 4):
        parts += [intra(index, index % 2), repeat(index - 1, index), media_record(b"a piece")]
        parts += [repeat(index + 1, index, 5), repeat(index + 2, index)]
    return Sequence(HEADER, parts, 10)


def test_recovery_goes_on_at_the_next_intra_frame_whatever_byte_is_damaged() -> None:
    sequence = groups()
    data, start = sequence.to_bytes(), len(HEADER.to_bytes())
    for place in range(start, len(data)):
        for bit in (0, 6, 7):
            result = read_all(flipped(data, 8 * place + bit), recover=True)
            assert result.error is None
            assert result.frames == expected_after(sequence, [place]), f"byte {place}, bit {bit}"
            assert result.damage


@slow
@given(sequences(), st.data())
def test_recovery_from_damage_at_several_places(sequence: Sequence, data: st.DataObject) -> None:
    file, start = sequence.to_bytes(), len(sequence.header.to_bytes())
    places = data.draw(st.sets(st.integers(start, len(file) - 1), min_size=1, max_size=6))
    result = read_all(flipped(file, *(8 * place + place % 8 for place in places)), recover=True)
    assert result.error is None
    assert result.frames == expected_after(sequence, sorted(places))
    assert result.damage


def test_damage_names_each_error() -> None:
    sequence = groups()
    frames = [(start, end) for start, end, part in records_of(sequence) if isinstance(part, FrameRecord)]
    media = [(start, end) for start, end, part in records_of(sequence) if isinstance(part, bytes)]
    data = bytearray(sequence.to_bytes())
    data[frames[2][1] - 3] ^= 1  # the contents of an intra frame
    data[media[1][0] + 2] ^= 1  # a piece of media
    data[frames[12][0]] ^= 0x40  # a tag
    data[frames[16][0] + 1 : frames[16][0] + 2] = b"\xff\xff\xff\x7f"  # a length, which goes behind the file
    data[-10] ^= 1  # the index
    result = read_all(bytes(data), recover=True)
    errors = [type(error) for error in result.damage]
    assert errors == [ChecksumError, ChecksumError, CorruptDataError, TruncatedError, ChecksumError, TruncatedError]
    assert "tag" in str(result.damage[2])


def test_wrong_length_and_wrong_index_do_not_end_recovery() -> None:
    """A length that reaches behind the end of a file without an index may be damage, and not the end of the file."""
    sequence = groups()
    starts = [start for start, _, part in records_of(sequence) if isinstance(part, FrameRecord)]
    data = bytearray(sequence.to_bytes())
    data[starts[1] + 1 : starts[1] + 4] = b"\xff\xff\x7f"
    for end in (flipped(bytes(data), 8 * len(data) - 50), bytes(data[:-20])):
        result = read_all(end, recover=True)
        assert result.frames == expected_after(sequence, [starts[1] + 1])
        assert type(result.damage[0]) is TruncatedError


def test_frames_with_forged_contents_are_left_out() -> None:
    """The record after a sound one that breaks a rule is read, although it has no marker."""
    parts = [intra(0), repeat(1, 5), repeat(1, 0), repeat(3, 0, -60), repeat(2, 0), repeat(4, 0)]
    result = read_all(file_of(*parts, end_correction=100), recover=True)
    assert [shown.index for shown in result.frames] == [0, 1, 2, 4]
    assert [type(error) for error in result.damage] == [CorruptDataError] * 2


def test_recovery_after_more_frames_were_lost_than_may_wait() -> None:
    parts = [intra(0), *(repeat(index, 0) for index in range(1, 200)), intra(200), repeat(201, 200)]
    data = bytearray(file_of(*parts))
    data[len(HEADER.to_bytes()) + 40] ^= 1
    result = read_all(bytes(data), recover=True)
    assert [shown.index for shown in result.frames][-2:] == [200, 201]
    assert len(result.frames) < 20


def test_missing_frames_delay_no_frame_for_ever() -> None:
    """Frames after a gap are shown as soon as the missing ones can no longer come, not at the end of the file."""
    parts = [intra(0), *(intra(index) for index in range(2, 200))]
    reader = SequenceReader(BytesIO(file_of(*parts)), recover=True)
    shown = iter(reader.read())
    assert [next(shown).index for _ in range(3)] == [0, 2, 3]
    assert reader.file.tell() < 80 * len(parts[0].to_bytes())


def test_recovery_reads_on_after_every_pass() -> None:
    """A reader that is used often recovers as much the last time as the first time."""
    data = bytearray(groups().to_bytes())
    data[60] ^= 1
    data[-8] ^= 1
    reader = SequenceReader(BytesIO(bytes(data)), recover=True)
    first = list(reader.read())
    assert len(first) > 20
    for _ in range(40):
        assert list(reader.read()) == first


def test_recovery_of_a_file_with_damage_everywhere() -> None:
    """Every second group is damaged, and each is much shorter than the pieces in which the reader searches."""
    sequence = groups(2000)
    places = [end - 1 for _, end, part in records_of(sequence) if isinstance(part, FrameRecord) and part.is_intra]
    result = read_all(flipped(sequence.to_bytes(), *(8 * place for place in places[::2])), recover=True)
    assert len(result.damage) == MAX_ERRORS
    assert len(result.frames) >= 3 * len(places[1::2])


def test_recovery_does_not_depend_on_the_index_at_the_start_of_reading() -> None:
    data = flipped(GOLDEN, 8 * (FRAME_STARTS[2] + 8))
    result = read_all(data, place=1, recover=True)
    assert result.frames == []
    assert [type(error) for error in result.damage] == [ChecksumError]
    assert isinstance(read_all(data, place=1).error, ChecksumError)
    assert read_all(flipped(GOLDEN, 8 * (FRAME_STARTS[0] + 8)), place=1).frames == SHOWN[3:]


# Forgeries cost neither time nor memory


@pytest.mark.parametrize("start", [b"\x81", b"\1", b"\2", MARKER + b"\x84"])
@pytest.mark.parametrize("recover", [False, True])
def test_forged_length_takes_no_memory(start: bytes, recover: bool, tmp_path: Path) -> None:
    """Python's files, unlike `BytesIO`, take the memory for a read before they know what is there."""
    path = tmp_path / "clip.ulc"
    path.write_bytes(body_of(intra(0)) + start + leb128(2**28 - 1) + bytes(1000))
    with path.open("rb") as file:
        tracemalloc.start()
        result = read_all(file, recover=recover)
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert len(result.frames) == 1
    assert peak_bytes < 2**22


def test_forged_counts_take_no_memory() -> None:
    tracemalloc.start()
    result = read_all(indexed(bytes.fromhex("ffffff7f 05 ffffff7f 21 00 00")))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(result.error, CorruptDataError)
    assert peak_bytes < 2**21


def test_forged_number_of_frames_is_no_length() -> None:
    """The number of frames, which a caller may take memory for, is known only if the file can hold so many."""
    assert SequenceReader(BytesIO(indexed(bytes.fromhex("ffffff7f 05 02 21 00 00 1e 03 04")))).index is None


@pytest.mark.parametrize("reach", [2**28 - 1, 100_000, 5000])
def test_forged_markers_with_lengths_that_run_far_ahead_take_no_time(reach: int) -> None:
    forged = MARKER + b"\x84" + leb128(reach)
    data = body_of(intra(0)) + b"\x81" + forged * 40_000 + intra(1).to_bytes() + bytes(5000)
    file, start_s = CountingFile(data), time.perf_counter()
    result = read_all(file, recover=True)
    assert time.perf_counter() - start_s < 5
    assert file.n_read < 30 * len(data)
    assert result.damage
    assert result.frames[0].index == 0


def test_false_markers_do_not_hide_the_next_intra_frame() -> None:
    payload = b"".join(MARKER + bytes([0x84, number]) for number in range(100))
    parts = [intra(0), intra(1, payload=payload), intra(2)]
    data = bytearray(file_of(*parts))
    data[len(body_of(*parts[:1])) + 20] ^= 1
    assert [shown.index for shown in read_all(bytes(data), recover=True).frames] == [0, 2]


def test_false_markers_before_the_piece_with_the_next_intra_frame() -> None:
    """Each false marker lets the reader try a record that reaches behind the true one."""
    false = (MARKER + b"\x84" + leb128(9000)) * 20
    parts = [intra(0), media_record(false + bytes(5000)), intra(1), media_record(bytes(10_000))]
    data = flipped(file_of(*parts), 8 * len(body_of(intra(0))))
    assert [shown.index for shown in read_all(data, recover=True).frames] == [0, 1]


def test_recovery_does_not_go_on_at_an_intra_frame_with_forged_contents() -> None:
    forged = record_bytes(0x84, bytes.fromhex("01 65 1234"), MARKER)
    parts = [intra(0), media_record(b"damaged"), forged, media_record(b"lost"), intra(2), media_record(b"kept")]
    result = read_all(flipped(body_of(*parts), 8 * len(body_of(intra(0)))), recover=True)
    assert [shown.index for shown in result.frames] == [0, 2]
    assert result.media == b"kept"
    assert [type(error) for error in result.damage] == [CorruptDataError, TruncatedError]


def test_search_takes_no_memory() -> None:
    data = flipped(body_of(intra(0), repeat(1, 0), media_record(bytes(2**24)), intra(2)), 8 * len(body_of(intra(0))))
    reader = SequenceReader(BytesIO(data), recover=True)
    tracemalloc.start()
    frames = list(reader.read())
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(frames) == 2
    assert peak_bytes < 2**17


def test_marker_is_found_wherever_it_lies_in_the_pieces_of_a_search() -> None:
    for n_bytes in range(4080, 4110):
        parts = [intra(0), media_record(bytes(n_bytes)), intra(1)]
        data = flipped(file_of(*parts), 8 * len(body_of(*parts[:1])))
        assert [shown.index for shown in read_all(data, recover=True).frames] == [0, 1]


def test_memory_does_not_grow_with_the_length_of_a_sequence() -> None:
    """Neither whole files nor damaged records are kept, nor contents of frames that were shown."""
    payload = bytes(100_000)
    sound = file_of(*(intra(index, payload=payload) for index in range(100)))
    record_size = len(intra(0, payload=payload).to_bytes())
    damaged = flipped(sound, *(8 * (2000 + number * record_size) for number in range(0, 100, 2)))
    for data, options in ((sound, {}), (damaged, {"recover": True})):
        reader = SequenceReader(BytesIO(data), **options)
        tracemalloc.start()
        n_frames = sum(1 for _ in reader.read())
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert n_frames == (50 if options else 100)
        assert peak_bytes < (80 if options else 16) * len(payload)  # frames wait for those that are missing
        del reader


def test_damage_keeps_no_contents() -> None:
    payload = bytes(100_000)
    data = file_of(*(intra(index, payload=payload) for index in range(40)))
    record_size = len(intra(0, payload=payload).to_bytes())
    reader = SequenceReader(
        BytesIO(flipped(data, *(8 * (2000 + number * record_size) for number in range(40)))), recover=True
    )
    tracemalloc.start()
    assert list(reader.read()) == []
    held_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(reader.damage) == 1
    assert held_bytes < 2 * len(payload)


# The attached stream


def with_media() -> tuple[bytes, bytes]:
    """A sequence with pieces of media of many sizes, and the bytes of these pieces."""
    pieces = [bytes([number]) * (37 * number**2 + 1) for number in range(40)]
    parts: list[Part] = [media_record(pieces[0])]
    for index in range(1, 40):
        parts += [intra(index - 1), media_record(pieces[index])]
    return file_of(*parts), b"".join(pieces)


@pytest.mark.parametrize("n_bytes", [1, 7, 1000, 2**20])
def test_media_stream_gives_the_bytes_of_the_pieces(n_bytes: int) -> None:
    data, media = with_media()
    stream = MediaStream(SequenceReader(BytesIO(data)))
    assert stream.readable()
    assert b"".join(iter(lambda: stream.read(n_bytes), b"")) == media
    assert stream.read(1) == b""
    assert MediaStream(SequenceReader(BytesIO(data))).readall() == media
    assert MediaStream(SequenceReader(BytesIO(file_of(intra(0))))).readall() == b""


def test_media_and_frames_are_read_by_turns() -> None:
    """Each of them goes on where it was, also at the end of the file."""
    data, media = with_media()
    reader = SequenceReader(BytesIO(data))
    stream, other = MediaStream(reader), reader.read()
    got, n_frames = b"", 0
    for part in reader.read():
        got += stream.read(900)
        next(other, None)
        n_frames += isinstance(part, ShownFrame)
    assert n_frames == 39
    assert got + stream.readall() == media


def test_media_is_read_while_frames_that_waited_are_given_out() -> None:
    """The frame after a lost one comes after the index was read, and before its trailer is checked."""
    data = file_of(media_record(b"audio"), intra(0), repeat(2, 0), end_correction=100)
    reader = SequenceReader(BytesIO(data), recover=True)
    for _ in reader.read():
        assert MediaStream(reader).read(5) == b"audio"
    assert [str(error) for error in reader.damage] == ["the index counts 2 frames; others are there"]


def test_damage_in_the_media_stream() -> None:
    data, media = with_media()
    damaged = flipped(data, 8 * (data.index(bytes([20]) * 100) + 50))
    stream = MediaStream(SequenceReader(BytesIO(damaged)))
    with pytest.raises(ChecksumError):
        stream.readall()
    recovered = MediaStream(SequenceReader(BytesIO(damaged), recover=True)).readall()
    start = media.index(bytes([20]))
    assert recovered == media[:start] + media[media.index(bytes([21])) :]


def test_large_piece_is_read_in_small_steps_in_little_time() -> None:
    data = file_of(intra(0), media_record(bytes(2**25)))
    stream, start_s = MediaStream(SequenceReader(BytesIO(data))), time.perf_counter()
    buffer = bytearray(4096)
    assert sum(iter(lambda: stream.readinto(buffer), 0)) == 2**25
    assert time.perf_counter() - start_s < 3


# Values that no file may have


@pytest.mark.parametrize(
    "change",
    [
        {"width": 0},
        {"height": MAX_SIDE + 1},
        {"bit_depth": 7},
        {"bit_depth": 17},
        {"start": -1},
        {"start": MAX_TICKS + 1},
        {"time_base": Fraction(0)},
        {"frame_rate": Fraction(MAX_TERM + 1)},
        {"sample_aspect": Fraction(1, MAX_TERM + 1)},
    ],
    ids=str,
)
def test_field_out_of_range_is_not_written(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        dataclasses.replace(CLIP, **change)


def test_header_record_and_frame_out_of_range_are_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    for make in (
        lambda: SequenceHeader(b"abc", CLIP),
        lambda: SequenceHeader(b"abcd", CLIP, -1),
        lambda: SequenceHeader(b"abcd", CLIP, MAX_TERM + 1),
        lambda: FrameRecord(0, (), 0, 101, b""),
        lambda: FrameRecord(-1, payload=b""),
        lambda: FrameRecord(2**28, payload=b""),
        lambda: FrameRecord(0, (), MAX_TICKS + 1, 0, b""),
        lambda: FrameRecord(2**27, (0,)),
    ):
        with pytest.raises(ValueError, match=r"must|limits|too far"):
            make()
    monkeypatch.setattr("ulcodec.format.sequence.MAX_RECORD_BYTES", 4)
    with pytest.raises(ValueError, match="at most 4 bytes"):
        record_bytes(1, bytes(5))


@given(st.integers(-MAX_TICKS, MAX_TICKS))
def test_correction_round_trips(correction: int) -> None:
    frame = FrameRecord(5, (4,), correction)
    data = frame.to_bytes()
    [tag, _, *contents] = data[:-2]
    assert tag == (0x91 if correction else 0x81)
    assert bytes(contents[2:]) == (
        leb128(2 * correction if correction >= 0 else -2 * correction - 1) if correction else b""
    )
    reader = SequenceReader(BytesIO(body_of(data)))
    [(_, record)] = reader.records(reader.first_record)
    assert parse_frame(record) == frame
