"""Metadata and orientation of picture files, in every place and syntax, valid or not."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from ulcodec.errors import ImageError
from ulcodec.io.picture import Picture
from ulcodec.io.picture_files import image_format, picture_file
from ulcodec.io.pictures import load_image

SMOOTH = np.stack(np.broadcast_arrays(np.arange(24)[:, None] * 9, np.arange(40) * 5, 90), axis=2).astype(np.uint8)
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"


def saved(name: str, pixels: np.ndarray = SMOOTH, **options: object) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, name, **options)
    return buffer.getvalue()


def tiff(*entries: tuple[int, int, int, bytes], order: str = "<") -> bytes:
    """Return EXIF data of one directory, from tag, type, count and value of each entry."""
    rows = b"".join(struct.pack(f"{order}HHI", *entry[:3]) + entry[3].ljust(4, b"\0") for entry in entries)
    head = b"II*\0" if order == "<" else b"MM\0*"
    return head + struct.pack(f"{order}IH", 8, len(entries)) + rows + bytes(4)


def orientation_entry(orientation: int, order: str = "<") -> tuple[int, int, int, bytes]:
    """Return the EXIF entry of an orientation."""
    return 0x0112, 3, 1, struct.pack(f"{order}H", orientation)


def raw_profile(name: str, body: bytes) -> PngImagePlugin.PngInfo:
    """Return PNG text as ImageMagick writes EXIF and XMP."""
    text = PngImagePlugin.PngInfo()
    text.add_text(f"Raw profile type {name}", f"\n{name}\n{len(body):8d}\n{body.hex()}\n", zip=True)
    return text


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # Pillow warns as well, for JPEG
@pytest.mark.parametrize("name", ["PNG", "WEBP", "JPEG", "AVIF"])
@pytest.mark.parametrize("body", [b"garbage-garbage", b"II*\0\xff\xff\0\0", tiff(orientation_entry(6))[:12]])
def test_invalid_exif_is_left_out_with_a_warning(name: str, body: bytes) -> None:
    try:
        data = saved(name, exif=b"Exif\0\0" + body)
    except Exception:
        pytest.skip(f"Pillow does not write such a {name} file")
    with pytest.warns(UserWarning, match="EXIF that cannot be read"):
        picture = load_image(data)
    assert picture.exif is None
    for output_format in ("PNG", "JPEG", "WEBP"):
        assert load_image(picture_file(picture, output_format)).pixels.shape == SMOOTH.shape


@pytest.mark.parametrize(
    "entry",
    [(0x0102, 4, 1, struct.pack("<I", 700000)), (0x0128, 2, 3, b"ab\0"), (0x0128, 11, 1, struct.pack("<f", 1.5))],
)
@pytest.mark.parametrize("name", ["PNG", "WEBP", "JPEG"])
def test_invalid_tags_are_kept_and_the_picture_is_turned(name: str, entry: tuple[int, int, int, bytes]) -> None:
    picture = load_image(saved(name, exif=b"Exif\0\0" + tiff(entry, orientation_entry(6)), quality=100))
    assert np.abs(picture.pixels.astype(int) - np.rot90(SMOOTH, -1)).mean() < 5
    assert picture.orientation == 1
    assert picture.exif is not None
    assert entry[3] in picture.exif


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_read_from_exif_xmp_and_tiff(orientation: int, order: str) -> None:
    exif = tiff(orientation_entry(orientation, order), order=order)
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
def test_pixels_are_turned_if_the_format_has_no_orientation(name: str) -> None:
    stored = load_image(saved("PNG", exif=tiff(orientation_entry(6))), upright=False)
    assert stored.orientation == 6
    upright = ImageOps.exif_transpose(Image.open(BytesIO(picture_file(stored, name)))).convert("RGB")
    assert np.abs(np.asarray(upright).astype(int) - np.rot90(SMOOTH, -1)).mean() < 5


@pytest.mark.parametrize("name", ["exif", "APP1"])
def test_exif_and_xmp_of_imagemagick_are_read(name: str) -> None:
    exif = tiff((0x010F, 2, 4, b"Mak\0"))
    assert load_image(saved("PNG", pnginfo=raw_profile(name, b"Exif\0\0" + exif))).exif == exif
    assert load_image(saved("PNG", pnginfo=raw_profile("xmp", XMP))).xmp == XMP


def test_tiff_keeps_tags_that_do_not_describe_its_layout() -> None:
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


def test_png_text_beyond_the_limit_of_pillow_is_left_out() -> None:
    """Pillow refuses a PNG file if its text or profile inflates beyond a limit; the samples are valid."""
    body = zlib.compress(bytes(2**21))
    for kind, head in ((b"zTXt", b"Comment\0\0"), (b"iCCP", b"profile\0\0")):
        chunk = kind + head + body
        data = saved("PNG")
        packed = struct.pack(">I", len(head + body)) + chunk + struct.pack(">I", zlib.crc32(chunk))
        with pytest.warns(UserWarning, match="metadata that cannot be read"):
            picture = load_image(data[:33] + packed + data[33:])
        np.testing.assert_array_equal(picture.pixels, SMOOTH)


@pytest.mark.parametrize("name", ["JPEG", "BMP", "PNG", "WEBP", "TIFF", "AVIF", "GIF"])
@pytest.mark.parametrize("kind", ["xmp", "exif"])
def test_metadata_that_a_format_cannot_hold_gives_a_warning(name: str, kind: str) -> None:
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
def test_alpha_is_kept_or_refused(name: str) -> None:
    picture = Picture(SMOOTH, np.tile(np.arange(40, dtype=np.uint8), (24, 1)))
    if name == "SGI":
        assert load_image(picture_file(picture, name)).alpha is not None
        return
    with pytest.raises(ImageError, match=name):
        picture_file(picture, name)


@pytest.mark.parametrize("name", ["GIF", "TGA", "PCX", "SGI", "AVIF", "WEBP", "JPEG"])
def test_sides_beyond_the_limit_of_a_format_are_refused(name: str) -> None:
    with pytest.raises(ImageError, match=name):
        picture_file(Picture(np.zeros((1, 70000, 3), np.uint8)), name)


@pytest.mark.parametrize("name", ["ICO", "ICNS"])
def test_formats_that_would_scale_the_picture_refuse_it(name: str) -> None:
    with pytest.raises(ImageError, match="cannot hold 300x200"):
        picture_file(Picture(np.zeros((200, 300, 3), np.uint8)), name)


def test_pixel_limit_of_pillow_is_ignored_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert load_image(saved("PNG")).pixels.shape == SMOOTH.shape
    assert Image.MAX_IMAGE_PIXELS == 100


def test_deep_samples_that_are_read_with_8_bits_give_a_warning() -> None:
    data = b"P6 4 4 65535\n" + bytes(4 * 4 * 6)
    with pytest.warns(UserWarning, match="16-bit samples are read with 8 bits"):
        load_image(data)


def test_gain_map_gives_a_warning() -> None:
    xmp = b"<x:xmpmeta><rdf:Description hdrgm:Version='1.0'/></x:xmpmeta>"
    with pytest.warns(UserWarning, match="gain map"):
        load_image(saved("JPEG", xmp=xmp))


def test_inverted_grey_of_tiff_is_read() -> None:
    """Pillow cannot write a 16-bit TIFF in which zero is white, so the test changes the tag in the file."""
    samples = np.arange(40 * 24, dtype=np.uint16).reshape(24, 40) * 60
    data = bytearray(saved("TIFF", samples))
    position = data.index(struct.pack("<HHI", 262, 3, 1))
    data[position + 8 : position + 10] = b"\0\0"
    np.testing.assert_array_equal(load_image(bytes(data)).pixels, 65535 - samples)


def test_truncated_gamma_chunk_is_left_out() -> None:
    data = saved("PNG")
    chunk = struct.pack(">I", 1) + b"gAMA\1" + struct.pack(">I", zlib.crc32(b"gAMA\1"))
    with pytest.warns(UserWarning, match="metadata that cannot be read"):
        np.testing.assert_array_equal(load_image(data[:33] + chunk + data[33:]).pixels, SMOOTH)


def test_heic_file_of_a_rotated_picture_is_upright(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif", reason="pillow_heif (of the formats extra) is not installed")
    stored = load_image(saved("PNG", exif=tiff(orientation_entry(6))), upright=False)
    assert image_format(tmp_path / "a.heic") == "HEIF"
    picture = load_image(picture_file(stored, "HEIF"))
    assert np.abs(picture.pixels.astype(int) - np.rot90(SMOOTH, -1)).mean() < 5
