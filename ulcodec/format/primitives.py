"""Numbers and checksums of the container: LEB128, CRC-8 and CRC-16."""

from binascii import crc_hqx

from ulcodec.errors import (
    CorruptDataError,
    LimitError,
    TruncatedError,
)

MAX_LEB128_BYTES = 4
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
    value = 0
    for i, byte in enumerate(data[position : position + MAX_LEB128_BYTES]):
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            break
    else:
        if position + MAX_LEB128_BYTES > len(data):
            raise TruncatedError("the file ends inside a number")
        raise LimitError(f"a number in the file is longer than {MAX_LEB128_BYTES} bytes")
    if value > limit:
        raise LimitError(f"a number in the file is {value}; the limit is {limit}")
    if i and not byte:
        raise CorruptDataError("a number in the file is not in its shortest form")
    return value, position + i + 1


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
