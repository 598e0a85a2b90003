"""Mutations of `.ulc` files, with and without right checksums."""

import random

from ulcodec.errors import FormatError
from ulcodec.format.container import FIXED_HEADER_BYTES, read_head
from ulcodec.format.primitives import CRC_BYTES, crc8, crc16, leb128, read_leb128

MAX_SIDE_PX = 200
"""Limit of forged widths, which bounds the time to decode a forged file."""


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
    """Replace the first byte of the width by another width."""
    if len(data) > FIXED_HEADER_BYTES:
        data[FIXED_HEADER_BYTES : FIXED_HEADER_BYTES + 1] = leb128(rng.randrange(1, MAX_SIDE_PX))


MUTATIONS = (flip_bits, set_bytes, cut_out, truncate, insert, forge_sides)


def splice(data: bytes, other: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


def mutate(files: list[bytes], rng: random.Random) -> bytes:
    """Apply one to three mutations to one of the files, in a tenth of the cases after a splice with another file.

    About half of the results have right checksums.
    """
    data = rng.choice(files)
    if rng.random() < 0.1:
        data = splice(data, rng.choice(files), rng)
    mutated = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        if mutated:
            rng.choice(MUTATIONS)(mutated, rng)
    return seal(bytes(mutated)) if rng.random() < 0.5 else bytes(mutated)


def seal(data: bytes) -> bytes:
    """Replace all checksums by the right ones, as far as the structure of the file can be read."""
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
