"""Numbers and checksums of the container: LEB128, CRC-8 and CRC-16."""

from binascii import crc_hqx

from ulcodec.errors import (
    CorruptDataError,
    LimitError,
    TruncatedError,
)

MAX_LEB128_BYTES = 4
"""Length of a number whose limit is below 2^28."""
LONG_LEB128_BYTES = 8
"""Length of any other number: its limit is below 2^56."""
CRC_BYTES = 2
CRC8_POLYNOMIAL = 0x07
CRC16_SEED = CRC16_FINAL_XOR = 0xFFFF


def leb128(value: int) -> bytes:
    """Encode as unsigned LEB128: seven bits per byte, lowest first, the top bit set on all bytes but the last."""
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def read_leb128(data: bytes, position: int, limit: int) -> tuple[int, int]:
    """Read the number at `position`; return it with the position after it.

    Raises a FormatError for a number that is incomplete, above `limit`, or longer than its shortest form.
    """
    value, most_bytes = 0, MAX_LEB128_BYTES if limit < 2 ** (7 * MAX_LEB128_BYTES) else LONG_LEB128_BYTES
    for i, byte in enumerate(data[position : position + most_bytes]):
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            break
    else:
        if position + most_bytes > len(data):
            raise TruncatedError("the file ends inside a number")
        raise LimitError(f"a number in the file is longer than {most_bytes} bytes")
    if value > limit:
        raise LimitError(f"a number in the file is {value}; the limit is {limit}")
    if i and not byte:
        raise CorruptDataError("a number in the file is not in its shortest form")
    return value, position + i + 1


def signed_leb128(value: int) -> bytes:
    """Encode a signed number as the LEB128 of 2 value, or of -2 value - 1 if it is negative."""
    return leb128(2 * value if value >= 0 else -2 * value - 1)


def read_signed_leb128(data: bytes, position: int, limit: int) -> tuple[int, int]:
    """Read like `read_leb128`, from -limit to limit."""
    folded, position = read_leb128(data, position, 2 * limit)
    return -(folded // 2) - 1 if folded % 2 else folded // 2, position


def _crc8_table() -> bytes:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value << 1) ^ (CRC8_POLYNOMIAL if value & 0x80 else 0)
        table.append(value & 0xFF)
    return bytes(table)


CRC8_TABLE = _crc8_table()


def crc16(data: bytes | bytearray) -> bytes:
    """CRC-16/GENIBUS (polynomial 0x1021, seed and final XOR 0xFFFF, not reflected) of `data`, high byte first."""
    return (crc_hqx(data, CRC16_SEED) ^ CRC16_FINAL_XOR).to_bytes(CRC_BYTES, "big")


def crc8(data: bytes | bytearray) -> int:
    """CRC-8 (polynomial 0x07, seed 0xFF, not reflected, no final XOR) of the CRC-16 of `data`."""
    crc = 0xFF
    for byte in crc16(data):
        crc = CRC8_TABLE[crc ^ byte]
    return crc
