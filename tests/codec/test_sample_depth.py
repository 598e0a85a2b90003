"""Samples of more than 8 bits, and samples that use only some of their bits."""

from dataclasses import replace

import numpy as np
import pytest

import ulcodec
from ulcodec.codec.image import Codec, decode_batch
from ulcodec.errors import CorruptDataError
from ulcodec.format.attachments import from_full_range
from ulcodec.format.container import Attachment, Container


def test_sixteen_bit_samples_round_trip(tiny_codec: Codec, picture: np.ndarray) -> None:
    deep = picture.astype(np.uint16) * 257
    data = tiny_codec.encode(deep, quality=70)
    decoded = tiny_codec.decode_array(data)
    assert decoded.dtype == np.uint16
    shallow = tiny_codec.decode_array(tiny_codec.encode(picture, quality=70))
    assert np.abs(decoded / 257 - shallow).max() <= 0.51
    assert len(np.unique(decoded)) > 256
    assert ulcodec.info(data)["bit_depth"] == 16
    assert tiny_codec.decode(tiny_codec.encode(deep[:, :, 0])).mode == "I;16"
    assert tiny_codec.decode(data).mode == "RGB"


@pytest.mark.parametrize("bits", [1, 8, 10, 12, 14])
@pytest.mark.parametrize("grey", [True, False])
def test_samples_of_few_bits_are_scaled_to_16_bits(tiny_codec: Codec, bits: int, grey: bool) -> None:
    """The segments equal those of the same picture with 16-bit samples; an attachment stores the number of bits."""
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
def test_samples_of_15_or_16_bits_are_not_scaled(tiny_codec: Codec, peak: int) -> None:
    data = tiny_codec.encode(np.full((16, 16), peak, np.uint16))
    assert Container.from_bytes(data).attachments == ()


@pytest.mark.parametrize(("stated", "depth"), [(b"", 16), (b"\0", 16), (b"\17", 16), (b"\1\1", 16), (b"\12", 8)])
def test_wrong_significant_bits_are_refused(tiny_codec: Codec, stated: bytes, depth: int) -> None:
    container = Container.from_bytes(tiny_codec.encode(np.full((16, 16), 7, np.uint16 if depth == 16 else np.uint8)))
    data = replace(container, attachments=((Attachment.SIGNIFICANT_BITS, stated),)).to_bytes()
    with pytest.raises(CorruptDataError, match="significant bits"):
        tiny_codec.decode(data)


def test_hidden_samples_do_not_widen_the_range(tiny_codec: Codec) -> None:
    samples = np.full((16, 16, 2), 4000, np.uint16)
    samples[:8, :, 1] = 65535
    samples[8:] = 65535, 0
    container = Container.from_bytes(tiny_codec.encode(samples))
    assert dict(container.attachments)[Attachment.SIGNIFICANT_BITS] == bytes([12])
