"""Metadata and alpha channels beside the picture."""

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ulcodec import attachments
from ulcodec.attachments import MAX_METADATA_BYTES, decode_alpha, deflate, encode_alpha, inflate, without_hidden
from ulcodec.errors import CorruptDataError, FormatError, LimitError


@given(st.binary(max_size=2000))
def test_metadata_round_trip(data: bytes) -> None:
    assert inflate(deflate(data)) == data


def test_metadata_that_is_refused() -> None:
    packed = deflate(b"a profile" * 100)
    for damaged in (b"", packed[:-1], packed + b"x", b"\xff" * 20):
        with pytest.raises(CorruptDataError):
            inflate(damaged)
    with pytest.raises(LimitError):
        inflate(deflate(bytes(MAX_METADATA_BYTES + 1)))
    bomb = zlib.compressobj(9, wbits=-15)
    with pytest.raises(LimitError):
        inflate(bomb.compress(bytes(2**28)) + bomb.flush())


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (40, 33), (1, 60)])
def test_alpha_round_trip(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attachments, "ALPHA_TILE_PX", 16)
    alpha = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    data = encode_alpha(alpha)
    np.testing.assert_array_equal(decode_alpha(data, shape[1], shape[0]), alpha)
    for damaged in (data[:-1], data + b"x", data[: len(data) // 2], b""):
        with pytest.raises(FormatError):
            decode_alpha(damaged, shape[1], shape[0])
    with pytest.raises(FormatError):
        decode_alpha(data, shape[1] + 1, shape[0])


def test_hidden_samples_become_smooth() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (37, 50, 3), dtype=np.uint8)
    pixels[:, :20] = 100
    alpha = np.zeros((37, 50), np.uint8)
    alpha[5:30, 3:20] = 1
    shown = without_hidden(pixels, alpha)
    np.testing.assert_array_equal(shown, 100)
    for kept in (np.full((37, 50), 255, np.uint8), rng.integers(1, 256, (37, 50), dtype=np.uint8)):
        np.testing.assert_array_equal(without_hidden(pixels, kept), pixels)
    np.testing.assert_array_equal(without_hidden(pixels, np.zeros((37, 50), np.uint8)), 0)
    part = without_hidden(pixels, np.where(rng.random((37, 50)) < 0.5, 0, 255).astype(np.uint8))
    assert part.dtype == np.uint8
    grey = without_hidden(pixels[:, :, 0].astype(np.uint16) * 257, alpha)
    np.testing.assert_array_equal(grey, 25700)
