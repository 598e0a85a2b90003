"""Mutations of sequences: of their records, with right checksums afterwards, and of their bytes."""

import random
from dataclasses import dataclass
from typing import NamedTuple

from mutations import MAX_SIDE_PX, MUTATIONS, splice

from ulcodec.errors import FormatError
from ulcodec.format.primitives import CRC_BYTES, crc16, leb128, read_leb128, signed_leb128
from ulcodec.format.sequence import (
    CORRECTION_FLAG,
    FRAME_FLAG,
    INDEX_TAG,
    LATENT_FLAG,
    MARKER,
    MEDIA_TAG,
    REFERENCES_MASK,
    TRAILER_BYTES,
    record_bytes,
)

LENGTH_PLACE = 8
"""Offset of the length of the header's fields."""
N_FIXED_FIELDS = 5
"""Bytes between the sides and the other numbers of the header."""
LIMITS = (2**27, 2**28 - 1, 2**28, 2**32, 2**54, 2**54 + 1, 2**55, 2**56 - 1, 2**56, 2**63)
TAGS = (0x01, 0x02, 0x81, 0x84, 0x85, 0x86, 0x89, 0x8A, 0x8B, 0x8D, 0x8E, 0x91, 0x94, 0x95, 0x97, 0x9E, 0xA9, 0xBD)


class RawRecord(NamedTuple):
    """A record without its checksum. `length`: what it claims instead of the length of its contents."""

    marker: bytes
    tag: int
    contents: bytes
    length: int | None = None

    def to_bytes(self) -> bytes:
        if self.length is None:
            return record_bytes(self.tag, self.contents, self.marker)
        data = self.marker + bytes([self.tag]) + leb128(self.length) + self.contents
        return data + crc16(data)

    @property
    def is_intra(self) -> bool:
        return self.tag & ~CORRECTION_FLAG == FRAME_FLAG | LATENT_FLAG


@dataclass
class Parts:
    """A sequence taken apart: its header up to the fields, the fields, the records, and what follows them."""

    head: bytes
    fields: bytes
    records: list[RawRecord]
    tail: bytes


def take_apart(data: bytes) -> Parts | None:
    """Take a file apart, whatever its checksums are; None if there is no header."""
    if len(data) <= LENGTH_PLACE:
        return None
    end = LENGTH_PLACE + 1 + data[LENGTH_PLACE]
    parts = Parts(data[:LENGTH_PLACE], data[LENGTH_PLACE + 1 : end], [], b"")
    position = end + CRC_BYTES
    try:
        while not parts.records or parts.records[-1].tag != INDEX_TAG:
            marker = MARKER if data[position : position + len(MARKER)] == MARKER else b""
            tag = data[position + len(marker)]
            length, start = read_leb128(data, position + len(marker) + 1, len(data))
            if start + length > len(data):
                break
            parts.records.append(RawRecord(marker, tag, data[start : start + length]))
            position = start + length + CRC_BYTES
    except (FormatError, IndexError):
        pass
    parts.tail = data[position:]
    return parts


def put_together(parts: Parts) -> bytes:
    """Write a file with right checksums; its last bytes are right if the index is its last record."""
    head = parts.head + bytes([len(parts.fields) % 256]) + parts.fields
    records = [record.to_bytes() for record in parts.records]
    has_index = bool(parts.records) and parts.records[-1].tag == INDEX_TAG
    tail = len(records[-1]).to_bytes(TRAILER_BYTES, "big") + parts.tail[TRAILER_BYTES:] if has_index else parts.tail
    return head + crc16(head) + b"".join(records) + tail


# Numbers


def forged_number(value: int, rng: random.Random) -> int:
    """Another number: near to the right one, or near to a limit of the format."""
    near = value + rng.choice((-3, -2, -1, 1, 2, 3, 62, 63, 64, 65, 126, 128))
    return max(rng.choice((near, near, near, 0, 1, rng.randrange(200), rng.choice(LIMITS))), 0)


def numbers_of(data: bytes, most: int) -> tuple[list[int], bytes]:
    """Up to `most` numbers at the beginning of some bytes, and the rest."""
    numbers, position = [], 0
    try:
        while len(numbers) < most:
            number, position = read_leb128(data, position, 2**56 - 1)
            numbers.append(number)
    except FormatError:
        pass
    return numbers, data[position:]


def with_forged_number(data: bytes, most: int, rng: random.Random) -> bytes:
    """Replace one of up to `most` numbers at the beginning of some bytes."""
    numbers, rest = numbers_of(data, most)
    if not numbers:
        return data
    place = rng.randrange(len(numbers))
    numbers[place] = forged_number(numbers[place], rng)
    encoded = [leb128(number) for number in numbers]
    if rng.random() < 0.05:
        encoded[place] = encoded[place][:-1] + bytes([encoded[place][-1] | 0x80, 0])  # not the shortest form
    return b"".join(encoded) + rest


# Mutations of the records


def swap(parts: Parts, rng: random.Random) -> None:
    first, second = rng.randrange(len(parts.records)), rng.randrange(len(parts.records))
    records = parts.records
    records[first], records[second] = records[second], records[first]


def drop(parts: Parts, rng: random.Random) -> None:
    start = rng.randrange(len(parts.records))
    del parts.records[start : start + rng.choice((1, 1, 2, 5))]


def duplicate(parts: Parts, rng: random.Random) -> None:
    start = rng.randrange(len(parts.records))
    copied = parts.records[start : start + rng.choice((1, 1, 3))] * rng.choice((1, 1, 80))
    place = rng.choice((start, rng.randrange(len(parts.records) + 1)))
    parts.records[place:place] = copied


def reorder(parts: Parts, rng: random.Random) -> None:
    start = rng.randrange(len(parts.records))
    stop = start + rng.randrange(2, 8)
    window = parts.records[start:stop]
    rng.shuffle(window)
    parts.records[start:stop] = window


def forge_frame(parts: Parts, rng: random.Random) -> None:
    """Replace the index, a reference, the correction or the quality of a frame, or add a correction."""
    frames = [place for place, record in enumerate(parts.records) if record.tag & FRAME_FLAG]
    if not frames:
        return
    place = rng.choice(frames)
    record = parts.records[place]
    n_numbers = 1 + (record.tag & REFERENCES_MASK) + bool(record.tag & CORRECTION_FLAG)
    numbers, rest = numbers_of(record.contents, n_numbers)
    if rng.random() < 0.2 and record.tag & LATENT_FLAG and rest:
        rest = bytes([rng.choice((0, 40, 100, 101, 127, 255))]) + rest[1:]
        contents = b"".join(map(leb128, numbers)) + rest
    elif rng.random() < 0.3 and not record.tag & CORRECTION_FLAG:
        correction = rng.choice((-1, 1)) * forged_number(1, rng)
        record = record._replace(tag=record.tag | CORRECTION_FLAG)
        contents = b"".join(map(leb128, numbers)) + signed_leb128(correction) + rest
    else:
        contents = with_forged_number(record.contents, n_numbers, rng)
    parts.records[place] = record._replace(contents=contents)


def forge_tag(parts: Parts, rng: random.Random) -> None:
    place = rng.randrange(len(parts.records))
    marker = rng.choice((MARKER, b"", parts.records[place].marker))
    parts.records[place] = parts.records[place]._replace(tag=rng.choice(TAGS), marker=marker)


def forge_length(parts: Parts, rng: random.Random) -> None:
    """Let a record claim another length, often one far beyond the end of the file."""
    place = rng.randrange(len(parts.records))
    length = forged_number(len(parts.records[place].contents), rng)
    parts.records[place] = parts.records[place]._replace(length=length)


def forge_payload(parts: Parts, rng: random.Random) -> None:
    """Change the bytes of a record: a payload that does not decode, or one of another symbol check."""
    place = rng.randrange(len(parts.records))
    contents = bytearray(parts.records[place].contents)
    if contents:
        rng.choice(MUTATIONS)(contents, rng)
    parts.records[place] = parts.records[place]._replace(contents=bytes(contents))


def insert_media(parts: Parts, rng: random.Random) -> None:
    """Insert a piece of media: of no bytes, of false markers, or of any bytes."""
    false = b"".join(MARKER + b"\x84" + leb128(forged_number(20, rng)) for _ in range(rng.choice((1, 100))))
    piece = rng.choice((b"", false, rng.randbytes(rng.randrange(1, 5000))))
    parts.records.insert(rng.randrange(len(parts.records) + 1), RawRecord(b"", MEDIA_TAG, piece))


def forge_index(parts: Parts, rng: random.Random) -> None:
    """Replace one of the numbers of the index, or leave it out."""
    for place, record in enumerate(parts.records):
        if record.tag == INDEX_TAG:
            if rng.random() < 0.1:
                numbers, rest = numbers_of(record.contents, 10**6)
                del numbers[rng.randrange(len(numbers) + 1) :]
                contents = b"".join(map(leb128, numbers)) + rest
            else:
                contents = with_forged_number(record.contents, 10**6, rng)
            parts.records[place] = record._replace(contents=contents)


def forge_header(parts: Parts, rng: random.Random) -> None:
    """Replace a side, a property of the samples, a term of a fraction, the start or the GOP."""
    sides, rest = numbers_of(parts.fields, 2)
    if len(sides) < 2 or len(rest) < N_FIXED_FIELDS:
        return
    fixed, numbers = bytearray(rest[:N_FIXED_FIELDS]), rest[N_FIXED_FIELDS:]
    kind = rng.randrange(4)
    if kind == 0:
        sides[rng.randrange(2)] = rng.choice((0, rng.randrange(1, MAX_SIDE_PX), 2**24 - 1, 2**24))
    elif kind == 1:
        fixed[rng.randrange(N_FIXED_FIELDS)] = rng.choice((0, 1, 2, 4, 6, 8, 9, 12, 16, 17, 0x80, rng.randrange(256)))
    else:
        numbers = with_forged_number(numbers, 8, rng)
    parts.fields = b"".join(map(leb128, sides)) + bytes(fixed) + numbers


def rebuild_index(parts: Parts, rng: random.Random) -> None:
    """Write the index that belongs to the records, so that only what is wrong in the frames is wrong."""
    n_frames, intra, offset = 0, [], LENGTH_PLACE + 1 + len(parts.fields) + CRC_BYTES
    for record in parts.records:
        if record.is_intra:
            numbers, _ = numbers_of(record.contents, 2)
            correction = numbers[1] if record.tag & CORRECTION_FLAG and len(numbers) > 1 else 0
            intra.append((offset, numbers[0] if numbers else 0, correction))
        n_frames += bool(record.tag & FRAME_FLAG)
        offset += len(record.to_bytes())
    contents, last = leb128(n_frames) + leb128(rng.choice((0, 0, 2000))) + leb128(len(intra)), (0, 0)
    for place, index, correction in intra:
        contents += leb128(place - last[0]) + leb128(max(index - last[1], 0)) + leb128(correction)
        last = place, index
    parts.records = [record for record in parts.records if record.tag != INDEX_TAG]
    parts.records.append(RawRecord(b"", INDEX_TAG, contents))


RECORD_MUTATIONS = (
    swap,
    drop,
    duplicate,
    reorder,
    forge_frame,
    forge_frame,
    forge_frame,
    forge_tag,
    forge_length,
    forge_payload,
    insert_media,
    forge_index,
    forge_header,
)


def mutate_records(data: bytes, rng: random.Random) -> bytes:
    """Apply one to three mutations to the records; write right checksums, and often the index that belongs to them."""
    parts = take_apart(data)
    if parts is None:
        return data
    for _ in range(rng.choice((1, 1, 2, 3))):
        if parts.records:
            rng.choice(RECORD_MUTATIONS)(parts, rng)
    if rng.random() < 0.5:
        rebuild_index(parts, rng)
    return put_together(parts)


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Apply one to three mutations to the bytes; write right checksums in half of the cases."""
    mutated = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        if mutated:
            rng.choice(MUTATIONS)(mutated, rng)
    parts = take_apart(bytes(mutated)) if rng.random() < 0.5 else None
    return bytes(mutated) if parts is None else put_together(parts)


def mutate_sequence(files: list[bytes], rng: random.Random) -> bytes:
    """Mutate one of the files: its records, its bytes or both; in a tenth of the cases after a splice with another."""
    data = rng.choice(files)
    if rng.random() < 0.1:
        data = splice(data, rng.choice(files), rng)
    kind = rng.random()
    if kind < 0.75:
        data = mutate_records(data, rng)
    if kind > 0.6:
        data = mutate_bytes(data, rng)
    return data
