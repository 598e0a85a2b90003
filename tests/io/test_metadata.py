"""Metadata of any size, syntax and place, and orientation wherever it stands."""

import struct
import zlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from ulcodec.codec.image import Codec, decode_batch, encode_batch
from ulcodec.errors import ImageError
from ulcodec.format.attachments import MAX_METADATA_BYTES, deflate
from ulcodec.format.container import Attachment, Container
from ulcodec.io.picture import Picture
from ulcodec.io.picture_files import image_format, picture_file
from ulcodec.io.pictures import load_image
from ulcodec_cli.compare import measure

COLOUR = np.arange(24 * 40 * 3, dtype=np.uint32).reshape(24, 40, 3).astype(np.uint8)
SMOOTH = np.stack(np.broadcast_arrays(np.arange(24)[:, None] * 9, np.arange(40) * 5, 90), axis=2).astype(np.uint8)
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"


def saved(name: str, pixels: np.ndarray = SMOOTH, **options: object) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, name, **options)
    return buffer.getvalue()


def tiff(*entries: tuple[int, int, int, bytes], order: str = "<") -> bytes:
    """EXIF of one directory: tag, type, count and value of each entry."""
    rows = b"".join(struct.pack(f"{order}HHI", *entry[:3]) + entry[3].ljust(4, b"\0") for entry in entries)
    head = b"II*\0" if order == "<" else b"MM\0*"
    return head + struct.pack(f"{order}IH", 8, len(entries)) + rows + bytes(4)


def turned(orientation: int, order: str = "<") -> tuple[int, int, int, bytes]:
    return 0x0112, 3, 1, struct.pack(f"{order}H", orientation)


def raw_profile(name: str, body: bytes) -> PngImagePlugin.PngInfo:
    text = PngImagePlugin.PngInfo()
    text.add_text(f"Raw profile type {name}", f"\n{name}\n{len(body):8d}\n{body.hex()}\n", zip=True)
    return text


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # Pillow's own, of JPEG
@pytest.mark.parametrize("name", ["PNG", "WEBP", "JPEG", "AVIF"])
@pytest.mark.parametrize("body", [b"garbage-garbage", b"II*\0\xff\xff\0\0", tiff(turned(6))[:12]])
def test_exif_that_cannot_be_read_is_left_out(name: str, body: bytes) -> None:
    try:
        data = saved(name, exif=b"Exif\0\0" + body)
    except Exception:
        pytest.skip(f"Pillow does not write such a {name} file")
    with pytest.warns(UserWarning, match="EXIF that cannot be read"):
        picture = load_image(data)
    assert picture.exif is None
    for written in ("PNG", "JPEG", "WEBP"):
        assert load_image(picture_file(picture, written)).pixels.shape == SMOOTH.shape


@pytest.mark.parametrize(
    "odd",
    [(0x0102, 4, 1, struct.pack("<I", 700000)), (0x0128, 2, 3, b"ab\0"), (0x0128, 11, 1, struct.pack("<f", 1.5))],
)
@pytest.mark.parametrize("name", ["PNG", "WEBP", "JPEG"])
def test_odd_tags_neither_refuse_nor_stop_the_turn(name: str, odd: tuple[int, int, int, bytes]) -> None:
    picture = load_image(saved(name, exif=b"Exif\0\0" + tiff(odd, turned(6)), quality=100))
    assert np.abs(picture.pixels.astype(int) - np.rot90(SMOOTH, -1)).mean() < 5
    assert picture.orientation == 1
    assert picture.exif is not None
    assert odd[3] in picture.exif


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_found_wherever_it_stands(orientation: int, order: str) -> None:
    exif = tiff(turned(orientation, order), order=order)
    xmp = f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", xmp.decode())
    files = {
        "EXIF": saved("PNG", exif=exif),
        "ImageMagick": saved("PNG", pnginfo=raw_profile("exif", b"Exif\0\0" + exif)),
        "XMP": saved("PNG", pnginfo=text),
        "TIFF": saved("TIFF", exif=exif),
    }
    expected = np.asarray(ImageOps.exif_transpose(Image.open(BytesIO(files["EXIF"]))))
    for kind, data in files.items():
        picture = load_image(data)
        np.testing.assert_array_equal(picture.pixels, expected, err_msg=kind)
        assert picture.orientation == 1, kind


@pytest.mark.parametrize("name", ["PNG", "TIFF", "BMP", "PPM", "TGA", "JPEG2000", "WEBP", "AVIF", "JPEG"])
def test_pixels_are_turned_where_the_tag_cannot_go(name: str) -> None:
    stored = load_image(saved("PNG", exif=tiff(turned(6))), upright=False)
    assert stored.orientation == 6
    shown = ImageOps.exif_transpose(Image.open(BytesIO(picture_file(stored, name)))).convert("RGB")
    assert np.abs(np.asarray(shown).astype(int) - np.rot90(SMOOTH, -1)).mean() < 5


def test_stripping_the_orientation_turns(tiny_codec: Codec) -> None:
    stored = load_image(saved("PNG", exif=tiff(turned(6))), upright=False)
    data = tiny_codec.encode(stored, strip=True)
    assert data == tiny_codec.encode(stored.upright(), strip=True)
    assert data == encode_batch(tiny_codec, [stored], strip=True)[0]
    assert Container.from_bytes(data).header.width == 24


@pytest.mark.parametrize("name", ["exif", "APP1"])
def test_exif_and_xmp_of_imagemagick(name: str) -> None:
    exif = tiff((0x010F, 2, 4, b"Mak\0"))
    assert load_image(saved("PNG", pnginfo=raw_profile(name, b"Exif\0\0" + exif))).exif == exif
    assert load_image(saved("PNG", pnginfo=raw_profile("xmp", XMP))).xmp == XMP


def test_tiff_keeps_what_speaks_of_the_picture() -> None:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif[0x8825] = {1: "N"}
    picture = load_image(saved("TIFF", exif=exif.tobytes()))
    read = Image.Exif()
    read.load(picture.exif)
    assert (read[0x010F], read.get_ifd(0x8825)[1]) == ("Maker", "N")
    assert 0x0100 not in read
    assert load_image(saved("TIFF")).exif is None
    again = load_image(picture_file(Picture(SMOOTH, exif=picture.exif, xmp=XMP), "TIFF"))
    read.load(again.exif)
    assert (read[0x010F], read.get_ifd(0x8825)[1], again.xmp) == ("Maker", "N", XMP)


def test_text_beyond_the_limits_of_readers() -> None:
    """Pillow refuses a PNG whose text or profile inflates to more than it likes; the samples are sound."""
    body = zlib.compress(bytes(2**21))
    for kind, head in ((b"zTXt", b"Comment\0\0"), (b"iCCP", b"profile\0\0")):
        chunk = kind + head + body
        data = saved("PNG")
        packed = struct.pack(">I", len(head + body)) + chunk + struct.pack(">I", zlib.crc32(chunk))
        with pytest.warns(UserWarning, match="metadata that cannot be read"):
            picture = load_image(data[:33] + packed + data[33:])
        np.testing.assert_array_equal(picture.pixels, SMOOTH)


def test_metadata_beyond_the_format_is_the_writers_concern(tiny_codec: Codec) -> None:
    long = Picture(SMOOTH, xmp=b"<x:xmpmeta>" + b" " * MAX_METADATA_BYTES + b"</x:xmpmeta>", icc=None)
    with pytest.warns(UserWarning, match="XMP of more than"):
        data = tiny_codec.encode(long)
    assert data == tiny_codec.encode(SMOOTH)


def test_a_file_with_long_metadata_shows_its_picture(tiny_codec: Codec) -> None:
    container = Container.from_bytes(tiny_codec.encode(Picture(SMOOTH, xmp=XMP)))
    attachments = ((Attachment.XMP, deflate(bytes(MAX_METADATA_BYTES + 1))),)
    data = replace(container, attachments=attachments).to_bytes()
    for read in (tiny_codec.decode, tiny_codec.thumbnail, tiny_codec.recover, lambda d: decode_batch(tiny_codec, [d])):
        with pytest.warns(UserWarning, match="XMP is left out"):
            read(data)


@pytest.mark.parametrize("name", ["JPEG", "BMP", "PNG", "WEBP", "TIFF", "AVIF", "GIF"])
@pytest.mark.parametrize("kind", ["xmp", "exif"])
def test_what_a_format_does_not_hold_is_named(name: str, kind: str) -> None:
    body = XMP + b" " * 80000 if kind == "xmp" else tiff((0x010E, 2, 80000, struct.pack("<I", 26))) + b"x" * 80000
    picture = Picture(SMOOTH, **{kind: body})
    if name in ("JPEG", "BMP", "GIF"):
        with pytest.warns(UserWarning, match=f"{name} does not hold {kind.upper()}"):
            file = picture_file(picture, name)
    else:
        file = picture_file(picture, name)
        assert getattr(load_image(file), kind) is not None
    assert load_image(file).pixels.shape == SMOOTH.shape


@pytest.mark.parametrize("name", ["PPM", "BMP", "JPEG", "PCX", "SGI"])
def test_alpha_has_one_answer(name: str) -> None:
    picture = Picture(SMOOTH, np.tile(np.arange(40, dtype=np.uint8), (24, 1)))
    if name == "SGI":
        assert load_image(picture_file(picture, name)).alpha is not None
        return
    with pytest.raises(ImageError, match=name):
        picture_file(picture, name)


@pytest.mark.parametrize("name", ["GIF", "TGA", "PCX", "SGI", "AVIF", "WEBP", "JPEG"])
def test_sides_beyond_a_format(name: str) -> None:
    with pytest.raises(ImageError, match=name):
        picture_file(Picture(np.zeros((1, 70000, 3), np.uint8)), name)


@pytest.mark.parametrize("name", ["ICO", "ICNS"])
def test_formats_that_would_scale(name: str) -> None:
    with pytest.raises(ImageError, match="cannot hold 300x200"):
        picture_file(Picture(np.zeros((200, 300, 3), np.uint8)), name)


def test_limit_of_pixels_is_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert load_image(saved("PNG")).pixels.shape == SMOOTH.shape
    assert Image.MAX_IMAGE_PIXELS == 100


def test_samples_deeper_than_what_is_read() -> None:
    data = b"P6 4 4 65535\n" + bytes(4 * 4 * 6)
    with pytest.warns(UserWarning, match="16-bit samples are read with 8 bits"):
        load_image(data)


def test_gain_map_is_named() -> None:
    xmp = b"<x:xmpmeta><rdf:Description hdrgm:Version='1.0'/></x:xmpmeta>"
    with pytest.warns(UserWarning, match="gain map"):
        load_image(saved("JPEG", xmp=xmp))


def test_comparison_turns_and_leaves_hidden_colours_out(tiny_codec: Codec) -> None:
    stored = load_image(saved("PNG", exif=tiff(turned(6))), upright=False)
    shown = tiny_codec.decode_picture(tiny_codec.encode(stored)).upright()
    assert measure(stored.upright(), shown, 1)["psnr_db"] > 5
    alpha = np.zeros((24, 40), np.uint8)
    alpha[:, :20] = 255
    hidden = SMOOTH.copy()
    hidden[:, 20:] = np.random.default_rng(0).integers(0, 256, (24, 20, 3))
    other = SMOOTH.copy()
    other[0, 0, 0] += 5
    found = measure(Picture(hidden, alpha), Picture(other, alpha), 1)
    assert found["psnr_db"] == pytest.approx(10 * np.log10(255**2 / (25 / SMOOTH.size)))


def test_grey_that_counts_down_from_white() -> None:
    """TIFF of 16 bits whose zero is white, for which Pillow has no writer: the tag is changed by hand."""
    samples = np.arange(40 * 24, dtype=np.uint16).reshape(24, 40) * 60
    data = bytearray(saved("TIFF", samples))
    at = data.index(struct.pack("<HHI", 262, 3, 1))
    data[at + 8 : at + 10] = b"\0\0"
    np.testing.assert_array_equal(load_image(bytes(data)).pixels, 65535 - samples)


def test_pictures_of_two_depths_are_compared_at_8_bits() -> None:
    assert measure(Picture(SMOOTH), Picture(SMOOTH.astype(np.uint16) * 257), 1)["psnr_db"] == np.inf


def test_a_gamma_chunk_that_is_cut_costs_nothing() -> None:
    data = saved("PNG")
    chunk = struct.pack(">I", 1) + b"gAMA\1" + struct.pack(">I", zlib.crc32(b"gAMA\1"))
    with pytest.warns(UserWarning, match="metadata that cannot be read"):
        np.testing.assert_array_equal(load_image(data[:33] + chunk + data[33:]).pixels, SMOOTH)


def test_heic_of_a_picture_that_lies_on_its_side(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif", reason="pillow_heif (of the formats extra) is not installed")
    stored = load_image(saved("PNG", exif=tiff(turned(6))), upright=False)
    assert image_format(tmp_path / "a.heic") == "HEIF"
    shown = load_image(picture_file(stored, "HEIF"))
    assert np.abs(shown.pixels.astype(int) - np.rot90(SMOOTH, -1)).mean() < 5
