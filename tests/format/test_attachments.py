"""Metadata and alpha channels beside the picture."""

import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ulcodec.codec.image import Codec, decode_batch
from ulcodec.codec.pixels import without_hidden
from ulcodec.errors import CorruptDataError, FormatError, LimitError
from ulcodec.format import lossless
from ulcodec.format.attachments import MAX_METADATA_BYTES, deflate, from_full_range, inflate
from ulcodec.format.container import Attachment, Container
from ulcodec.format.lossless import decode_lossless, encode_lossless


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
    monkeypatch.setattr(lossless, "TILE_PX", 16)
    alpha = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    data = encode_lossless(alpha)
    np.testing.assert_array_equal(decode_lossless(data, shape, "alpha"), alpha)
    for damaged in (data[:-1], data + b"x", data[: len(data) // 2], b""):
        with pytest.raises(FormatError):
            decode_lossless(damaged, shape, "alpha")
    with pytest.raises(FormatError):
        decode_lossless(data, (shape[0], shape[1] + 1), "alpha")


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


@pytest.mark.parametrize("bits", [1, 8, 10, 12, 14])
@pytest.mark.parametrize("grey", [True, False])
def test_samples_of_few_bits_use_the_whole_range(tiny_codec: Codec, bits: int, grey: bool) -> None:
    """The file of n-bit samples is that of the same picture in 16 bits, but for what says so."""
    peak = 2**bits - 1
    shape = (40, 48) if grey else (40, 48, 3)
    samples = np.random.default_rng(bits).integers(0, peak + 1, shape, dtype=np.uint16)
    samples.flat[0] = peak
    whole = ((samples.astype(np.uint32) * 65535 + peak // 2) // peak).astype(np.uint16)
    data, other = (tiny_codec.encode(pixels, quality=100) for pixels in (samples, whole))
    assert Container.from_bytes(data).segments == Container.from_bytes(other).segments
    decoded, full = tiny_codec.decode_picture(data), tiny_codec.decode_picture(other).pixels
    assert decoded.bit_depth == 16
    np.testing.assert_array_equal(decoded.pixels, np.floor(full.astype(float) / 65535 * peak + 0.5))
    np.testing.assert_array_equal(decode_batch(tiny_codec, [data])[0].pixels, decoded.pixels)
    crop = tiny_codec.decode_picture(data, crop=(3, 5, 20, 10)).pixels
    np.testing.assert_array_equal(crop, decoded.pixels[5:15, 3:23])
    assert tiny_codec.thumbnail(data).pixels.max() <= peak
    np.testing.assert_array_equal(from_full_range(whole, Container.from_bytes(data)), samples)


@pytest.mark.parametrize("peak", [0, 2**14, 65535])
def test_samples_of_many_bits_stay(tiny_codec: Codec, peak: int) -> None:
    data = tiny_codec.encode(np.full((16, 16), peak, np.uint16))
    assert Container.from_bytes(data).attachments == ()


@pytest.mark.parametrize(("stated", "depth"), [(b"", 16), (b"\0", 16), (b"\17", 16), (b"\1\1", 16), (b"\12", 8)])
def test_significant_bits_that_are_refused(tiny_codec: Codec, stated: bytes, depth: int) -> None:
    said = Container.from_bytes(tiny_codec.encode(np.full((16, 16), 7, np.uint16 if depth == 16 else np.uint8)))
    data = replace(said, attachments=((Attachment.SIGNIFICANT_BITS, stated),)).to_bytes()
    with pytest.raises(CorruptDataError, match="significant bits"):
        tiny_codec.decode(data)


def test_hidden_samples_do_not_count_for_the_range(tiny_codec: Codec) -> None:
    samples = np.full((16, 16, 2), 4000, np.uint16)
    samples[:8, :, 1] = 65535
    samples[8:] = 65535, 0
    said = Container.from_bytes(tiny_codec.encode(samples))
    assert dict(said.attachments)[Attachment.SIGNIFICANT_BITS] == bytes([12])
