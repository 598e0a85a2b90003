"""Colour spaces that a file declares without an ICC profile: gamma, primaries, CICP."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from ulcodec.codec.image import Codec
from ulcodec.format.cicp import Cicp
from ulcodec.io.colour import cicp_of, cicp_profile
from ulcodec.io.picture import Picture
from ulcodec.io.picture_files import picture_file
from ulcodec.io.pictures import load_image

COLOUR = np.full((24, 40, 3), (200, 90, 40), np.uint8)
P3 = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
SRGB_PRIMARIES = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)


def png(*chunks: tuple[bytes, bytes], pixels: np.ndarray = COLOUR) -> bytes:
    """Return a PNG file with further chunks after its header."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    data = buffer.getvalue()
    packed = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return data[:33] + b"".join(packed) + data[33:]


def as_srgb(picture: Picture) -> np.ndarray:
    """Convert the first pixel to sRGB by the picture's profile."""
    image = Image.fromarray(picture.pixels[:1, :1])
    converted = ImageCms.profileToProfile(
        image,
        ImageCms.ImageCmsProfile(BytesIO(picture.icc)),
        ImageCms.createProfile("sRGB"),
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB" if picture.pixels.ndim == 3 else "L",
    )
    return np.asarray(converted)[0, 0].astype(int)


def test_linear_light_becomes_a_profile() -> None:
    picture = load_image(png((b"gAMA", struct.pack(">I", 100000))))
    light = COLOUR[0, 0] / 255
    expected = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(as_srgb(picture), expected, atol=1.5)
    assert load_image(picture_file(picture, "JPEG")).icc == picture.icc


def test_grey_gamma_becomes_a_grey_profile() -> None:
    picture = load_image(png((b"gAMA", struct.pack(">I", 100000)), pixels=COLOUR[:, :, 1]))
    assert picture.icc is not None
    assert picture.icc[16:20] == b"GRAY"


def test_primaries_become_a_profile() -> None:
    """A colour of Display P3 within sRGB is converted as by the matrices of both standards."""
    mild = np.full((4, 4, 3), (150, 100, 100), np.uint8)
    picture = load_image(png((b"cHRM", P3), pixels=mild))
    to_xyz_p3 = np.array([[0.4866, 0.2657, 0.1982], [0.2290, 0.6917, 0.0793], [0.0, 0.0451, 1.0439]])
    from_xyz = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])
    light = from_xyz @ to_xyz_p3 @ (((mild[0, 0] / 255 + 0.055) / 1.055) ** 2.4)
    np.testing.assert_allclose(as_srgb(picture), 255 * (1.055 * light ** (1 / 2.4) - 0.055), atol=1.5)


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"gAMA", struct.pack(">I", 45455))],
        [(b"cHRM", SRGB_PRIMARIES), (b"gAMA", struct.pack(">I", 45455))],
        [(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100000))],
        [(b"cICP", bytes([1, 13, 0, 1]))],
        [(b"cICP", bytes([9, 16, 9, 1]))],
        [(b"gAMA", bytes(4))],
        [(b"cHRM", bytes(32))],
    ],
)
def test_srgb_and_invalid_chunks_give_no_profile(chunks: list[tuple[bytes, bytes]]) -> None:
    picture = load_image(png(*chunks))
    assert (picture.icc, picture.cicp) == (None, None)


@pytest.mark.parametrize("cicp", [Cicp(9, 16), Cicp(9, 18), Cicp(12, 13)])
@pytest.mark.parametrize("name", ["PNG", "AVIF"])
def test_cicp_survives_codec_and_picture_files(tiny_codec: Codec, cicp: Cicp, name: str) -> None:
    picture = load_image(png((b"cICP", bytes(cicp))))
    assert picture.cicp == cicp
    decoded = tiny_codec.decode_picture(tiny_codec.encode(picture))
    assert decoded.cicp == cicp
    assert decoded.to_pil().info["cicp"] == bytes(cicp)
    file = picture_file(picture, name)
    assert cicp_of(file) == cicp
    assert load_image(file).cicp == cicp
    assert np.abs(load_image(file).pixels.astype(int) - COLOUR).max() <= 4


def test_cicp_becomes_a_profile_if_the_format_has_no_cicp() -> None:
    picture = Picture(COLOUR, cicp=Cicp(12, 13))
    assert load_image(picture_file(picture, "JPEG")).icc == cicp_profile(Cicp(12, 13), grey=False)
    with pytest.warns(UserWarning, match="JPEG does not hold CICP"):
        assert load_image(picture_file(Picture(COLOUR, cicp=Cicp(9, 16)), "JPEG")).cicp is None


@pytest.mark.parametrize("bits", [10, 12])
def test_hdr_avif_keeps_depth_and_cicp(bits: int) -> None:
    imagecodecs = pytest.importorskip("imagecodecs", reason="imagecodecs (of the deep extra) is not installed")
    samples = np.random.default_rng(bits).integers(0, 2**bits, (16, 24, 3), dtype=np.uint16)
    data = imagecodecs.avif_encode(samples, level=100, bitspersample=bits, primaries=9, transfer=16)
    picture = load_image(data)
    np.testing.assert_array_equal(picture.pixels, np.round(samples / (2**bits - 1) * 65535))
    assert picture.cicp == Cicp(9, 16)
    again = load_image(picture_file(picture, "PNG"))
    np.testing.assert_array_equal(again.pixels, picture.pixels)
    assert again.cicp == Cicp(9, 16)
    with pytest.warns(UserWarning, match="8 bits"):
        assert load_image(picture_file(picture, "AVIF")).cicp == Cicp(9, 16)


def test_heic_keeps_cicp(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="pillow_heif (of the formats extra) is not installed")
    pillow_heif.from_pillow(Image.fromarray(COLOUR)).save(
        tmp_path / "a.heic", color_primaries=9, transfer_characteristics=18
    )
    picture = load_image(tmp_path / "a.heic")
    assert picture.cicp == Cicp(9, 18)
    assert load_image(picture_file(picture, "HEIF")).cicp == Cicp(9, 18)
