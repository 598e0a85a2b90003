"""Damaged and forged `.ulc` files from sound ones."""

import random

from ulcodec.errors import FormatError
from ulcodec.format.container import FIXED_HEADER_BYTES, read_head
from ulcodec.format.primitives import CRC_BYTES, crc8, crc16, leb128, read_leb128

MAX_SIDE_PX = 200
"""Forged sides stay below this, so that what a forged file may cost stays small."""


def flip_bits(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def set_bytes(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    for position in range(start, min(len(data), start + rng.randrange(1, 9))):
        data[position] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def cut_out(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    del data[start : start + rng.randrange(1, 20)]


def truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def insert(data: bytearray, rng: random.Random) -> None:
    position = rng.randrange(len(data) + 1)
    data[position:position] = rng.randbytes(rng.randrange(1, 20))


def forge_sides(data: bytearray, rng: random.Random) -> None:
    """Another width on the same payload, where the width has one byte."""
    if len(data) > FIXED_HEADER_BYTES:
        data[FIXED_HEADER_BYTES : FIXED_HEADER_BYTES + 1] = leb128(rng.randrange(1, MAX_SIDE_PX))


MUTATIONS = (flip_bits, set_bytes, cut_out, truncate, insert, forge_sides)


def splice(data: bytes, other: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


def mutated(files: list[bytes], rng: random.Random) -> bytes:
    """One file with one to three mutations or spliced with another; in half of the cases with right checksums."""
    data = rng.choice(files)
    if rng.random() < 0.1:
        data = splice(data, rng.choice(files), rng)
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        if changed:
            rng.choice(MUTATIONS)(changed, rng)
    return sealed(bytes(changed)) if rng.random() < 0.5 else bytes(changed)


def sealed(data: bytes) -> bytes:
    """The file with the checksums that its bytes ask for, as far as its structure can be followed."""
    body = bytearray(data)
    try:
        head = read_head(data)
        position = head.size_bytes
        if head.has_attachments:
            while body[position]:
                length, start = read_leb128(data, position + 1, len(body))
                position = start + length
            body[position + 1] = crc8(body[: position + 1])
            position += 2
        for _ in range(head.n_segments - 1):
            length, start = read_leb128(bytes(body), position, len(body))
            position = start + length
            if position + 1 + CRC_BYTES * (1 if head.is_cut else 2) > len(body):
                return data
            body[position] = crc8(bytes(body[:position]))
            position += 1
    except (FormatError, IndexError):
        return data
    return bytes(body[:-CRC_BYTES]) + crc16(body[:-CRC_BYTES])
