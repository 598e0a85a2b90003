"""The container as `docs/format.md` specifies it: layout, limits, and refusal of damaged files."""

import dataclasses
from binascii import crc_hqx

import pytest
from hypothesis import given
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
from ulcodec.format import container
from ulcodec.format.container import (
    MAX_HEADER_BYTES,
    MAX_PIXELS,
    MAX_SEGMENT_BYTES,
    MAX_SIDE,
    Attachment,
    Container,
    Header,
    Layout,
    read_head,
)
from ulcodec.format.primitives import crc8, leb128, read_leb128

HEADER = Header(b"\xde\xad\xbe\xef", 50, 768, 512, Layout.RGB)
SMALL = Container(HEADER, segments=(b"one", b"", b"three", b"the rest"), symbol_check=0x1234)


HEADER_FIELDS = {field.name for field in dataclasses.fields(Header)}


def with_fields(container: Container, **fields: object) -> Container:
    """Replace fields of a container or of its header."""
    header = {name: fields.pop(name) for name in HEADER_FIELDS & set(fields)}
    return dataclasses.replace(container, header=dataclasses.replace(container.header, **header), **fields)


GREY = with_fields(SMALL, layout=Layout.GREY, width=1, height=1)
DEEP = with_fields(
    SMALL, layout=Layout.GREY, bit_depth=16, attachments=((Attachment.EXIF, b"\xab\xcd"), (Attachment.ALPHA, b""))
)
CUT = dataclasses.replace(SMALL, segments=SMALL.segments[:2], symbol_check=None)

GOLDEN = bytes.fromhex("554c43 01 deadbeef 32 8006 8004 03 6f6e65 09 00 ee 05 7468726565 fd 7468652072657374 1234 fd61")
GOLDEN_GREY = bytes.fromhex(
    "554c43 01 deadbeef b2 01 01 01 03 6f6e65 38 00 39 05 7468726565 31 7468652072657374 1234 529d"
)
GOLDEN_DEEP = bytes.fromhex(
    "554c43 01 deadbeef b2 8006 8004 15 02 02 abcd 04 00 00 cf"
    "03 6f6e65 cb 00 c0 05 7468726565 32 7468652072657374 1234 3571"
)
GOLDEN_CUT = bytes.fromhex("554c43 01 deadbeef b2 8006 8004 c0 03 6f6e65 a1 0ead")
"""Files of format version 1, which all later versions must read. Do not regenerate them."""
FILES = (GOLDEN, GOLDEN_GREY, GOLDEN_DEEP, GOLDEN_CUT)

headers = st.builds(
    Header,
    st.binary(min_size=4, max_size=4),
    st.integers(0, 100),
    st.integers(1, MAX_SIDE),
    st.integers(1, MAX_SIDE),
    st.sampled_from(Layout),
    st.sampled_from((8, 16)),
)
contents_by_kind = st.dictionaries(st.sampled_from(Attachment), st.binary(max_size=300))
containers = st.builds(
    Container,
    headers,
    segments=st.tuples(*[st.binary(max_size=300)] * 4),
    symbol_check=st.integers(0, 2**16 - 1),
    attachments=contents_by_kind.map(lambda contents: tuple(sorted(contents.items()))),
)
cut_containers = st.builds(Container.truncated, containers, st.integers(1, 4)) | st.builds(
    Container.within, containers, st.integers(0, 2000)
)


def seal(body: bytes) -> bytes:
    """Append the right file checksum to the bytes of a file, valid or not."""
    return body + (crc_hqx(body, 0xFFFF) ^ 0xFFFF).to_bytes(2, "big")


def replace_head(head: bytes) -> bytes:
    """Return a file with another header, the segments of `SMALL`, and right checksums."""
    body = head
    for segment in SMALL.segments[:-1]:
        body += leb128(len(segment)) + segment
        body += bytes([crc8(body)])
    return seal(body + SMALL.segments[-1] + SMALL.symbol_check.to_bytes(2, "big"))


HEAD = GOLDEN[:9]


@pytest.mark.parametrize(
    ("contents", "data"), [(SMALL, GOLDEN), (GREY, GOLDEN_GREY), (DEEP, GOLDEN_DEEP), (CUT, GOLDEN_CUT)]
)
def test_golden_files_are_written_and_read(contents: Container, data: bytes) -> None:
    assert contents.to_bytes() == data
    assert Container.from_bytes(data) == contents


@given(cut_containers)
def test_container_round_trips(contents: Container) -> None:
    data = contents.to_bytes()
    assert Container.from_bytes(data, max_pixels=None) == contents
    attachment_bytes = sum(len(attachment) for _, attachment in contents.attachments)
    assert contents.overhead_bytes == len(data) - sum(map(len, contents.segments)) - attachment_bytes


@given(cut_containers)
def test_header_is_read_from_the_start_of_a_file(contents: Container) -> None:
    head = read_head(contents.to_bytes()[:MAX_HEADER_BYTES])
    assert head.header == contents.header
    assert head.size_bytes <= MAX_HEADER_BYTES


def test_largest_overhead_without_attachments_is_26_bytes() -> None:
    header = Header(bytes(4), 50, 16383, 16383, Layout.RGB)
    plain = Container(header, segments=(bytes(16383),) * 4, symbol_check=0)
    assert plain.overhead_bytes == 26
    assert SMALL.header.n_pixels == 768 * 512


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        Container.from_bytes(data)


@given(st.binary(max_size=60))
def test_random_bytes_after_a_valid_header_are_refused_or_reproduced(data: bytes) -> None:
    """A file that is accepted is written again with the same bytes, so every byte has a meaning."""
    file = seal(HEAD + data)
    try:
        contents = Container.from_bytes(file)
    except FormatError:
        return
    assert contents.to_bytes() == file


@pytest.mark.parametrize("data", FILES)
def test_every_bit_flip_of_a_golden_file_is_detected(data: bytes) -> None:
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FormatError):
            Container.from_bytes(bytes(flipped))


@pytest.mark.parametrize("data", FILES)
def test_16_bit_bursts_before_the_checksum_are_detected(data: bytes) -> None:
    for start in range(len(data) - 3):
        for mask in range(1, 2**16, 997):
            damaged = bytearray(data)
            damaged[start] ^= mask >> 8
            damaged[start + 1] ^= mask & 0xFF
            with pytest.raises(FormatError):
                Container.from_bytes(bytes(damaged))


@pytest.mark.parametrize("data", [GOLDEN, GOLDEN_GREY])
def test_truncation_at_every_length_is_reported(data: bytes) -> None:
    last_segment = len(data) - 2 - len(SMALL.segments[-1])
    for length in range(1, len(data)):
        # The file does not store the length of the last segment, so only the checksum detects the cut there.
        with pytest.raises(TruncatedError if length < last_segment + 2 else ChecksumError):
            Container.from_bytes(data[:length])


@pytest.mark.parametrize("data", FILES)
def test_every_prefix_of_a_file_is_refused(data: bytes) -> None:
    for length in range(len(data)):
        with pytest.raises(FormatError):
            Container.from_bytes(data[:length])


@pytest.mark.parametrize(
    "attachments", [b"", b"\0", b"\x0b\0\0", b"\1\1", b"\3\0\1\0\0", b"\2\0\2\0\0", b"\1\x81\0x\0", b"\1\0"]
)
def test_invalid_attachments_are_refused(attachments: bytes) -> None:
    head = HEAD[:8] + bytes([0x80 | 50]) + leb128(768) + leb128(512) + b"\x10" + attachments
    with pytest.raises(FormatError):
        Container.from_bytes(replace_head(head + bytes([crc8(head)])))


def test_attachments_have_a_separate_checksum() -> None:
    damaged = bytearray(GOLDEN_DEEP[:-2])
    damaged[16] ^= 1
    with pytest.raises(ChecksumError, match="attachments"):
        Container.from_bytes(seal(bytes(damaged)))


def test_within_keeps_as_much_as_fits_into_the_limit() -> None:
    smallest = SMALL.truncated(1)
    for n_bytes in range(len(GOLDEN)):
        front = SMALL.within(n_bytes)
        assert front.symbol_check is None
        assert len(front.to_bytes()) <= n_bytes or front == smallest
        assert front == smallest or len(front.to_bytes()) >= n_bytes - 3, "a further segment takes 3 bytes"
        assert all(whole.startswith(cut) for whole, cut in zip(SMALL.segments, front.segments, strict=False))
        assert front.segments[:-1] == SMALL.segments[: len(front.segments) - 1]
        assert Container.from_bytes(front.to_bytes()) == front
    assert SMALL.within(len(GOLDEN)) is SMALL
    assert CUT.within(10**6) is CUT


def test_appended_bytes_are_detected() -> None:
    for extra in (b"\0", b"\0\0", b"\xff", GOLDEN):
        with pytest.raises(ChecksumError):
            Container.from_bytes(GOLDEN + extra)


@pytest.mark.parametrize("data", [b"", b"P", b"\x89PNG\r\n\x1a\n", b"ulc" + GOLDEN[3:], bytes(40)])
def test_file_of_another_format_is_refused(data: bytes) -> None:
    with pytest.raises(NotUlcError):
        Container.from_bytes(data)


@pytest.mark.parametrize("version", [0, 3, 255])
def test_unknown_version_is_refused(version: int) -> None:
    with pytest.raises(UnsupportedVersionError, match=f"version {version}; .* version 1"):
        Container.from_bytes(replace_head(b"ULC" + bytes([version]) + HEAD[4:] + leb128(768) + leb128(512)))


@pytest.mark.parametrize("quality", [101, 127])
def test_quality_above_100_is_refused(quality: int) -> None:
    with pytest.raises(CorruptDataError, match=f"quality {quality}"):
        Container.from_bytes(replace_head(HEAD[:8] + bytes([quality]) + leb128(768) + leb128(512)))


@pytest.mark.parametrize(("width", "height"), [(0, 1), (1, 0), (0, 0)])
def test_side_of_zero_is_refused(width: int, height: int) -> None:
    with pytest.raises(CorruptDataError, match=f"{width}x{height}"):
        Container.from_bytes(replace_head(HEAD + leb128(width) + leb128(height)))


@pytest.mark.parametrize("sides", [leb128(2**24) + b"\1", b"\1" + leb128(2**24), b"\xff\xff\xff\xff\1\1"])
def test_side_above_the_limit_is_refused(sides: bytes) -> None:
    with pytest.raises(LimitError):
        Container.from_bytes(replace_head(HEAD + sides))


def test_pixels_above_the_limit_are_refused() -> None:
    huge = with_fields(SMALL, width=2**14, height=2**14 + 1)
    with pytest.raises(LimitError, match=f"16384x16385 pixels; the limit is {MAX_PIXELS}"):
        Container.from_bytes(huge.to_bytes())
    assert Container.from_bytes(huge.to_bytes(), max_pixels=None) == huge
    with pytest.raises(LimitError):
        Container.from_bytes(GOLDEN, max_pixels=768 * 512 - 1)
    assert Container.from_bytes(GOLDEN, max_pixels=768 * 512) == SMALL


@pytest.mark.parametrize("extension", [0x00, 0x02, 0x03, 0x08, 0x0D, 0x20, 0x41, 0x60, 0xA0])
def test_unknown_bits_of_the_extension_byte_are_refused(extension: int) -> None:
    head = HEAD[:8] + bytes([0x80 | 50]) + leb128(768) + leb128(512)
    assert Container.from_bytes(replace_head(head + b"\1")).header.layout is Layout.GREY
    with pytest.raises(CorruptDataError, match=f"extension byte {extension:#04x}"):
        Container.from_bytes(replace_head(head + bytes([extension])))


@pytest.mark.parametrize("sides", [b"\x80\0\1", b"\x81\0\1", b"\1\x81\x80\0", b"\1\x80\x80\0"])
def test_side_in_a_longer_form_than_necessary_is_refused(sides: bytes) -> None:
    with pytest.raises(CorruptDataError, match="shortest form"):
        Container.from_bytes(replace_head(HEAD + sides))


def test_segment_length_in_a_longer_form_than_necessary_is_refused() -> None:
    body = HEAD + b"\1\1" + b"\x83\0" + b"one"
    with pytest.raises(CorruptDataError, match="shortest form"):
        Container.from_bytes(seal(body + bytes([crc8(body)]) + bytes(20)))


def test_segment_length_above_the_limit_is_refused() -> None:
    with pytest.raises(LimitError, match="longer than 4 bytes"):
        Container.from_bytes(seal(HEAD + b"\1\1" + b"\xff\xff\xff\xff\1" + bytes(20)))


def test_segment_beyond_the_end_of_the_file_is_refused() -> None:
    """A file of a few bytes declares the largest length of a segment."""
    with pytest.raises(TruncatedError, match="segment 0"):
        Container.from_bytes(seal(HEAD + b"\1\1" + leb128(MAX_SEGMENT_BYTES) + bytes(20)))


def test_last_segment_above_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "MAX_SEGMENT_BYTES", 7)
    with pytest.raises(LimitError, match="last segment"):
        Container.from_bytes(GOLDEN)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_segment_checksum_detects_damage(number: int) -> None:
    """The checksum of the segment detects the damage although the checksum of the file is right."""
    position = {0: 17, 1: 19, 2: 26}[number]
    damaged = bytearray(GOLDEN[:-2])
    damaged[position] ^= 1
    with pytest.raises(ChecksumError, match=f"segment {number}"):
        Container.from_bytes(seal(bytes(damaged)))


def test_wrong_file_checksum_is_refused() -> None:
    with pytest.raises(ChecksumError, match="the file does not match"):
        Container.from_bytes(GOLDEN[:-1] + bytes([GOLDEN[-1] ^ 0x80]))


def bitwise_crc(data: bytes, n_bits: int, polynomial: int, seed: int) -> int:
    """Compute a CRC bit by bit from its definition, neither reflected nor inverted at the end."""
    remainder = seed
    for byte in data:
        for shift in range(7, -1, -1):
            carry = remainder >> (n_bits - 1) ^ byte >> shift & 1
            remainder = (remainder << 1 & ((1 << n_bits) - 1)) ^ (polynomial if carry else 0)
    return remainder


@given(st.binary(max_size=50))
def test_checksums_equal_their_definition(data: bytes) -> None:
    assert bitwise_crc(b"123456789", 16, 0x1021, 0xFFFF) == 0x29B1
    assert bitwise_crc(b"123456789", 8, 0x07, 0) == 0xF4
    crc16 = bitwise_crc(data, 16, 0x1021, 0xFFFF) ^ 0xFFFF
    assert seal(data) == data + crc16.to_bytes(2, "big")
    assert crc8(data) == bitwise_crc(crc16.to_bytes(2, "big"), 8, 0x07, 0xFF)


@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": b"abc"},
        {"quality": -1},
        {"quality": 101},
        {"width": 0},
        {"height": MAX_SIDE + 1},
        {"segments": (b"",) * 3},
        {"segments": (b"",) * 5},
        {"segments": ()},
        {"segments": (b"",)},
        {"symbol_check": 2**16},
        {"bit_depth": 10},
        {"attachments": ((Attachment.XMP, b""), (Attachment.ICC, b""))},
        {"attachments": ((Attachment.XMP, b""), (Attachment.XMP, b""))},
    ],
    ids=str,
)
def test_field_out_of_range_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must|need 2|belongs to|are of rising"):
        with_fields(SMALL, **change)


def test_too_long_segment_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "MAX_SEGMENT_BYTES", 4)
    with pytest.raises(ValueError, match="at most 4 bytes"):
        dataclasses.replace(SMALL)


@given(st.integers(0, 2**28 - 1))
def test_leb128_round_trip(value: int) -> None:
    encoded = leb128(value)
    assert len(encoded) == max(1, -(-value.bit_length() // 7))
    assert read_leb128(b"x" + encoded + b"y", 1, 2**28 - 1) == (value, 1 + len(encoded))
    for length in range(len(encoded)):
        with pytest.raises(TruncatedError):
            read_leb128(encoded[:length], 0, 2**28 - 1)


def test_leb128_of_more_than_four_bytes_is_refused() -> None:
    for data in (b"\x80" * 4, b"\x80" * 4 + b"\1", b"\xff" * 9):
        with pytest.raises(LimitError, match="longer than 4 bytes"):
            read_leb128(data, 0, 2**28 - 1)
