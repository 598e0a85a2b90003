"""Files with lossless samples, which the codec writes if they are not larger."""

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

import ulcodec
from ulcodec.codec.image import Codec, Encoding, decode_batch, encode_batch
from ulcodec.codec.pixels import without_hidden
from ulcodec.codec.rate_control import encode_to_quality, encode_to_size
from ulcodec.errors import FormatError
from ulcodec.format.container import N_SEGMENTS, Attachment, Container, Layout
from ulcodec.format.primitives import leb128
from ulcodec.io.picture import Picture

ROWS, COLUMNS = np.mgrid[:61, :90]
DRAWING = np.where(((ROWS // 4 + COLUMNS // 4) % 2 == 0)[:, :, None], [0, 0, 255], [255, 255, 0]).astype(np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (61, 90, 3), dtype=np.uint8)
ALPHA = np.where((ROWS - 30) ** 2 + (COLUMNS - 40) ** 2 < 900, 255, 0).astype(np.uint8)


def test_drawings_are_stored_lossless_and_noise_is_not(tiny_codec: Codec) -> None:
    for pixels in (DRAWING, DRAWING[:, :, 0]):
        data = tiny_codec.encode(pixels, quality=100)
        assert ulcodec.info(data)["lossless"]
        np.testing.assert_array_equal(tiny_codec.decode_array(data), pixels)
    assert not ulcodec.info(tiny_codec.encode(NOISE, quality=100))["lossless"]


@pytest.mark.parametrize("quality", [0, 50, 100])
def test_smaller_of_learned_and_lossless_file_is_written(tiny_codec: Codec, quality: int) -> None:
    learned = Encoding(tiny_codec, Picture(DRAWING), exact_if_smaller=False).code_once(quality)
    data = tiny_codec.encode(DRAWING, quality=quality)
    assert len(data) <= len(learned)
    assert ulcodec.info(data)["lossless"] == (data != learned)
    assert ulcodec.info(data)["quality"] == quality


def test_lossless_file_decodes_in_every_way(tiny_codec: Codec) -> None:
    picture = Picture(DRAWING, ALPHA, xmp=b"<x/>")
    data = tiny_codec.encode(picture, quality=100)
    assert encode_batch(tiny_codec, [picture, NOISE], quality=100)[0] == data
    decoded = tiny_codec.decode_picture(data)
    np.testing.assert_array_equal(decoded.pixels[ALPHA > 0], DRAWING[ALPHA > 0])
    np.testing.assert_array_equal(decoded.alpha, ALPHA)
    assert decoded.xmp == b"<x/>"
    other = tiny_codec.encode(NOISE, quality=100)
    both = decode_batch(tiny_codec, [data, other, data])
    np.testing.assert_array_equal(both[0].pixels, decoded.pixels)
    np.testing.assert_array_equal(both[2].pixels, decoded.pixels)
    np.testing.assert_array_equal(both[1].pixels, tiny_codec.decode_array(other))
    crop = tiny_codec.decode_picture(data, crop=(7, 5, 30, 20))
    np.testing.assert_array_equal(crop.pixels, decoded.pixels[5:25, 7:37])
    np.testing.assert_array_equal(crop.alpha, ALPHA[5:25, 7:37])
    for whole in (tiny_codec.decode_picture(data, fraction=0.3), tiny_codec.recover(data).picture):
        np.testing.assert_array_equal(whole.pixels, decoded.pixels)
    filled = without_hidden(decoded.pixels, ALPHA)
    np.testing.assert_array_equal(tiny_codec.thumbnail(data).pixels, np.asarray(Image.fromarray(filled).reduce(8)))
    assert tiny_codec.describe(data)["payload_bits"] == 0
    cut = Container.from_bytes(data).truncated(1).to_bytes()
    np.testing.assert_array_equal(tiny_codec.decode_picture(cut).pixels, decoded.pixels)


def test_targets_may_be_met_by_lossless_files(tiny_codec: Codec) -> None:
    picture = Picture(DRAWING)
    exact = tiny_codec.encode(picture, quality=100)
    np.testing.assert_array_equal(
        tiny_codec.decode_array(encode_to_quality(tiny_codec, picture, "psnr_db", 90.0)), DRAWING
    )
    assert len(encode_to_size(tiny_codec, picture, len(exact))) <= len(exact)


def test_alpha_quality_keeps_lossless_alpha_if_smaller(tiny_codec: Codec) -> None:
    data = tiny_codec.encode(Picture(NOISE, ALPHA), alpha_quality=60)
    assert Container.from_bytes(data).attachments[0][0] is Attachment.ALPHA
    np.testing.assert_array_equal(tiny_codec.decode_picture(data).alpha, ALPHA)
    data = tiny_codec.encode(Picture(NOISE, NOISE[:, :, 0]), alpha_quality=0)
    assert Container.from_bytes(data).attachments[0][0] is Attachment.ALPHA_ULC


@pytest.mark.parametrize("damage", ["size", "bytes", "cut", "segments", "depth", "check", "lossy"])
def test_invalid_lossless_samples_are_refused(tiny_codec: Codec, damage: str) -> None:
    container = Container.from_bytes(tiny_codec.encode(DRAWING, quality=100))
    header = container.header
    samples = dict(container.attachments)[Attachment.SAMPLES]
    buffer = BytesIO()
    Image.fromarray(DRAWING).save(buffer, "WEBP", quality=50)
    lossy = buffer.getvalue()
    forged = {
        "size": replace(container, header=replace(header, width=header.width + 1)),
        "bytes": replace(container, attachments=((Attachment.SAMPLES, samples + b"x"),)),
        "cut": replace(container, attachments=((Attachment.SAMPLES, samples[:-20]),)),
        "segments": replace(container, segments=(b"x",) * N_SEGMENTS),
        "depth": replace(container, header=replace(header, bit_depth=16)),
        "check": replace(container, symbol_check=7),
        "lossy": replace(container, attachments=((Attachment.SAMPLES, leb128(len(lossy)) + lossy),)),
    }[damage]
    for read in (tiny_codec.decode, tiny_codec.thumbnail, lambda data: decode_batch(tiny_codec, [data])):
        with pytest.raises(FormatError):
            read(forged.to_bytes())
    grey = replace(container.header, layout=Layout.GREY)
    forged = replace(container, header=grey, attachments=((Attachment.SAMPLES, b""),))
    with pytest.raises(FormatError):
        tiny_codec.decode(forged.to_bytes())
