"""Compressed metadata."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ulcodec.errors import CorruptDataError, LimitError
from ulcodec.format.attachments import MAX_METADATA_BYTES, deflate, inflate


@given(st.binary(max_size=2000))
def test_metadata_round_trip(data: bytes) -> None:
    assert inflate(deflate(data)) == data


def test_damaged_and_too_long_metadata_is_refused() -> None:
    packed = deflate(b"a profile" * 100)
    for damaged in (b"", packed[:-1], packed + b"x", b"\xff" * 20):
        with pytest.raises(CorruptDataError):
            inflate(damaged)
    with pytest.raises(LimitError):
        inflate(deflate(bytes(MAX_METADATA_BYTES + 1)))
    bomb = zlib.compressobj(9, wbits=-15)
    with pytest.raises(LimitError):
        inflate(bomb.compress(bytes(2**28)) + bomb.flush())
