"""Alpha and metadata, which a file holds beside the latent."""

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

import ulcodec
from ulcodec.codec.image import Codec, decode_batch, encode_batch
from ulcodec.errors import FormatError
from ulcodec.format.attachments import MAX_METADATA_BYTES, deflate
from ulcodec.format.container import Attachment, Container
from ulcodec.io.picture import Picture
from ulcodec.io.pictures import load_image

SMOOTH = np.stack(np.broadcast_arrays(np.arange(24)[:, None] * 9, np.arange(40) * 5, 90), axis=2).astype(np.uint8)
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"


@pytest.mark.parametrize("grey", [False, True])
def test_alpha_is_kept_exactly(tiny_codec: Codec, picture: np.ndarray, soft_disc: np.ndarray, grey: bool) -> None:
    pixels, alpha = picture[:, :, 0] if grey else picture, soft_disc
    decoded = tiny_codec.decode_array(tiny_codec.encode(np.dstack([pixels, alpha]), quality=90))
    np.testing.assert_array_equal(decoded[:, :, -1], alpha)
    opaque = tiny_codec.decode_array(tiny_codec.encode(pixels, quality=90))
    errors = [np.abs(a[alpha == 255] - np.dstack([pixels])[alpha == 255].astype(float)).mean()
              for a in (decoded[:, :, :-1], np.dstack([opaque]))]  # fmt: skip
    assert errors[0] < 1.2 * errors[1]
    image = tiny_codec.decode(tiny_codec.encode(Image.fromarray(np.dstack([pixels, alpha]))))
    assert image.mode == ("LA" if grey else "RGBA")


def test_hidden_colour_takes_no_bits(tiny_codec: Codec, picture: np.ndarray, soft_disc: np.ndarray) -> None:
    noise = np.random.default_rng(0).integers(0, 256, picture.shape, dtype=np.uint8)
    noisy = np.where(soft_disc[:, :, None] > 0, picture, noise)
    assert tiny_codec.encode(np.dstack([noisy, soft_disc])) == tiny_codec.encode(np.dstack([picture, soft_disc]))
    transparent, visible = (np.full(soft_disc.shape, value, np.uint8) for value in (0, 254))
    n_bytes = [len(tiny_codec.encode(np.dstack([noise, alpha]))) for alpha in (transparent, visible)]
    assert n_bytes[0] < n_bytes[1]


def test_opaque_alpha_is_not_stored(tiny_codec: Codec, picture: np.ndarray) -> None:
    opaque = np.full(picture.shape[:2], 255, np.uint8)
    assert tiny_codec.encode(np.dstack([picture, opaque])) == tiny_codec.encode(picture)


def test_alpha_quality_is_separate(tiny_codec: Codec, picture: np.ndarray, soft_disc: np.ndarray) -> None:
    samples = np.dstack([picture, soft_disc])
    files = [tiny_codec.encode(samples, alpha_quality=quality) for quality in (0, 95)]
    errors = [np.abs(tiny_codec.decode_array(f)[:, :, 3].astype(int) - samples[:, :, 3]).mean() for f in files]
    assert errors[1] < errors[0]
    assert set(ulcodec.info(files[0])["attachment_bytes"]) == {"alpha_ulc"}
    with pytest.raises(ValueError, match="a whole number"):
        tiny_codec.encode(samples, alpha_quality=101)


def test_alpha_of_another_size_or_kind_is_refused(tiny_codec: Codec, picture: np.ndarray) -> None:
    container = Container.from_bytes(tiny_codec.encode(picture))
    grey, small = picture[:, :, 0], picture[:40, :, 0]
    nested = tiny_codec.encode(np.dstack([grey, grey]))
    for alpha in (
        tiny_codec.encode(picture),
        tiny_codec.encode(small),
        tiny_codec.encode(grey.astype(np.uint16)),
        nested,
    ):
        forged = replace(container, attachments=((Attachment.ALPHA_ULC, alpha),))
        with pytest.raises(FormatError):
            tiny_codec.decode(forged.to_bytes())


def test_metadata_survives_a_round_trip(tiny_codec: Codec, picture: np.ndarray) -> None:
    whole = Picture(picture, None, b"a profile" * 99, b"MM\0*", b"<x/>")
    data = tiny_codec.encode(whole)
    decoded = tiny_codec.decode_picture(data)
    assert (decoded.icc, decoded.exif, decoded.xmp) == (whole.icc, whole.exif, whole.xmp)
    stripped = tiny_codec.decode_picture(tiny_codec.encode(whole, strip=True))
    assert (stripped.icc, stripped.exif, stripped.xmp) == (whole.icc, None, None)
    info = tiny_codec.decode(data).info
    assert info == {"icc_profile": whole.icc, "exif": b"Exif\0\0MM\0*", "xmp": b"<x/>"}
    assert len(data) < len(tiny_codec.encode(picture)) + 60


def test_metadata_beyond_the_limit_of_the_format_is_left_out_with_a_warning(tiny_codec: Codec) -> None:
    picture = Picture(SMOOTH, xmp=b"<x:xmpmeta>" + b" " * MAX_METADATA_BYTES + b"</x:xmpmeta>", icc=None)
    with pytest.warns(UserWarning, match="XMP of more than"):
        data = tiny_codec.encode(picture)
    assert data == tiny_codec.encode(SMOOTH)


def test_file_with_too_long_metadata_decodes_with_a_warning(tiny_codec: Codec) -> None:
    container = Container.from_bytes(tiny_codec.encode(Picture(SMOOTH, xmp=XMP)))
    attachments = ((Attachment.XMP, deflate(bytes(MAX_METADATA_BYTES + 1))),)
    data = replace(container, attachments=attachments).to_bytes()
    for read in (tiny_codec.decode, tiny_codec.thumbnail, tiny_codec.recover, lambda d: decode_batch(tiny_codec, [d])):
        with pytest.warns(UserWarning, match="XMP is left out"):
            read(data)


def test_stripping_the_orientation_turns_the_pixels(tiny_codec: Codec) -> None:
    buffer, exif = BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(SMOOTH).save(buffer, "PNG", exif=exif)
    stored = load_image(buffer.getvalue(), upright=False)
    data = tiny_codec.encode(stored, strip=True)
    assert data == tiny_codec.encode(stored.upright(), strip=True)
    assert data == encode_batch(tiny_codec, [stored], strip=True)[0]
    assert Container.from_bytes(data).header.width == 24
