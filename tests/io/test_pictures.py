"""Reading and writing of picture files: modes, depth, alpha, metadata, limits and damage."""

import functools
import struct
import sys
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from ulcodec.errors import ImageError
from ulcodec.io.picture import Picture
from ulcodec.io.picture_files import image_format, save_image
from ulcodec.io.pictures import load_image, readable_extensions

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RGB[:, :, 0].copy()


def encoded(image: Image.Image, name: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def test_every_type_of_source_is_read(tmp_path: Path) -> None:
    data, path = encoded(Image.fromarray(RGB)), tmp_path / "picture.png"
    path.write_bytes(data)
    for source in (data, path, str(path), BytesIO(data), Image.open(path), Image.fromarray(RGB)):
        np.testing.assert_array_equal(load_image(source).pixels, RGB)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "YCbCr", "HSV"])
def test_colour_modes_become_rgb(mode: str) -> None:
    image = Image.fromarray(RGB).convert(mode)
    pixels = load_image(image).pixels
    np.testing.assert_array_equal(pixels, np.asarray(image.convert("RGB")))
    assert pixels.flags.writeable


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_grey_modes_stay_grey(mode: str) -> None:
    image = Image.fromarray(GREY).convert(mode)
    np.testing.assert_array_equal(load_image(image).pixels, np.asarray(image.convert("L")))


def test_sixteen_bit_grey_is_kept() -> None:
    samples = np.array([[0, 128, 129, 257 * 17, 65406, 65407, 65535]], dtype=np.uint16)
    picture = load_image(encoded(Image.fromarray(samples)))
    np.testing.assert_array_equal(picture.pixels, samples)
    assert picture.bit_depth == 16
    np.testing.assert_array_equal(picture.pixels_8, np.array([[0, 0, 1, 17, 254, 255, 255]], dtype=np.uint8))


def test_samples_beyond_sixteen_bits_are_refused() -> None:
    with pytest.raises(ImageError, match="16 bits"):
        load_image(Image.fromarray(np.array([[0, 70000]], dtype=np.int32)))
    with pytest.raises(ImageError, match="floating-point"):
        load_image(Image.fromarray(np.array([[0.5]], dtype=np.float32)))


def transparent_pictures() -> dict[str, tuple[bytes, np.ndarray, np.ndarray]]:
    """Return file, pixels and alpha of one picture for each kind of transparency."""
    rgb, grey = Image.fromarray(RGB), Image.fromarray(GREY)
    alpha = np.full(GREY.shape, 255, np.uint8)
    alpha[0, :2] = 254, 0
    rgba, la = rgb.copy(), grey.copy()
    rgba.putalpha(Image.fromarray(alpha))
    la.putalpha(Image.fromarray(alpha))
    palette = rgb.quantize(4)
    palette_alpha = np.where(np.asarray(palette) == palette.getpixel((0, 0)), 0, 255).astype(np.uint8)
    deep = np.array([[1, 500]], dtype=np.uint16)
    colour_key, grey_key = tuple(RGB[0, 0].tolist()), int(GREY[0, 0])
    return {
        "RGBA": (encoded(rgba), RGB, alpha),
        "LA": (encoded(la), GREY, alpha),
        "colour key": (encoded(rgb, transparency=colour_key), RGB, np.where((colour_key == RGB).all(2), 0, 255)),
        "grey key": (encoded(grey, transparency=grey_key), GREY, np.where(grey_key == GREY, 0, 255)),
        "palette": (encoded(palette, transparency=palette.getpixel((0, 0))), np.array(palette.convert("RGB")),
                    palette_alpha),
        "16 bits": (encoded(Image.fromarray(deep), transparency=500), deep, np.array([[255, 0]])),
    }  # fmt: skip


@pytest.mark.parametrize("kind", transparent_pictures())
def test_transparency_is_straight_alpha(kind: str) -> None:
    data, pixels, alpha = transparent_pictures()[kind]
    picture = load_image(data)
    np.testing.assert_array_equal(picture.pixels, pixels)
    np.testing.assert_array_equal(picture.alpha, alpha)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_opaque_alpha_is_dropped(mode: str) -> None:
    assert load_image(encoded(Image.fromarray(RGB).convert(mode))).alpha is None


def icc_profile(name: str) -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes()


@functools.cache  # a profile contains its time of creation
def wide_profile() -> bytes:
    """Return an RGB profile that is not sRGB: the tags of red and blue are swapped."""
    data = bytearray(icc_profile("sRGB"))
    red, blue = data.index(b"rXYZ"), data.index(b"bXYZ")
    data[red : red + 4], data[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(data)


def test_profiles_are_kept_unless_they_are_srgb() -> None:
    image = Image.fromarray(RGB)
    assert load_image(encoded(image, icc_profile=wide_profile())).icc == wide_profile()
    assert load_image(encoded(image, icc_profile=icc_profile("sRGB"))).icc is None
    for broken in (b"no profile", icc_profile("sRGB")[:200], icc_profile("LAB")):
        assert load_image(encoded(image, "WEBP", icc_profile=broken)).icc is None


def test_lab_and_cmyk_become_rgb() -> None:
    """CMYK is converted by its profile; this one is invalid, so the conversion without a profile is used."""
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(Image.fromarray(RGB), srgb, lab, outputMode="LAB")
    picture = load_image(image)
    assert np.abs(picture.pixels.astype(int) - RGB).mean() < 3
    cmyk = Image.fromarray(RGB).convert("CMYK")
    cmyk.info["icc_profile"] = b"no profile"
    np.testing.assert_array_equal(load_image(cmyk).pixels, np.asarray(cmyk.convert("RGB")))


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_metadata_is_kept(tmp_path: Path, name: str) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a description"
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
    image, text = Image.fromarray(np.zeros((16, 16, 3), np.uint8)), PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", xmp.decode())
    picture = load_image(encoded(image, name, exif=exif.tobytes(), xmp=xmp, pnginfo=text))
    read = Image.Exif()
    read.load(picture.exif)
    assert read[0x010E] == "a description"
    assert picture.xmp == xmp
    again = load_image(picture.to_pil())
    assert (again.exif, again.xmp) == (picture.exif, picture.xmp)
    save_image(picture, tmp_path / f"a.{name.lower()}")
    saved = load_image(tmp_path / f"a.{name.lower()}")
    assert (saved.exif, saved.xmp) == (picture.exif, picture.xmp)


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate clockwise by 90 degrees
    data = encoded(Image.fromarray(RGB), exif=exif)
    picture = load_image(data)
    np.testing.assert_array_equal(picture.pixels, np.rot90(RGB, -1))
    assert 0x0112 not in picture.to_pil().getexif()
    stored = load_image(data, upright=False)
    np.testing.assert_array_equal(stored.pixels, RGB)
    assert stored.to_pil().getexif()[0x0112] == 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("channels", [2, 3, 4])
def test_deep_png_round_trips_in_every_orientation(tmp_path: Path, orientation: int, channels: int) -> None:
    """16-bit colour, and grey with alpha, are turned as Pillow turns 8-bit samples."""
    pytest.importorskip("imagecodecs", reason="imagecodecs (of the deep extra) is not installed")
    samples = np.random.default_rng(channels).integers(0, 65536, (5, 7, channels), dtype=np.uint16)
    alpha = samples[:, :, -1] // 257 if channels != 3 else None
    pixels = samples[:, :, 0] if channels == 2 else samples[:, :, :3]
    exif = Image.Exif()
    exif[0x0112] = orientation
    alpha_8 = None if alpha is None else alpha.astype(np.uint8)
    icc = wide_profile() if channels != 2 else None
    save_image(Picture(np.ascontiguousarray(pixels), alpha_8, icc, exif.tobytes()), tmp_path / "a.png")
    stored, upright = (load_image(tmp_path / "a.png", upright=upright) for upright in (False, True))
    np.testing.assert_array_equal(stored.pixels, pixels)
    if alpha is not None:
        np.testing.assert_array_equal(stored.alpha, alpha)
    expected = ImageOps.exif_transpose(Image.open(tmp_path / "a.png"))
    expected_8 = np.asarray(expected.convert("RGB") if pixels.ndim == 3 else expected.getchannel(0))
    assert np.abs(upright.pixels_8.astype(int) - expected_8).max() <= 1
    assert stored.icc == icc


def test_deep_png_without_imagecodecs_is_read_with_8_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imagecodecs = pytest.importorskip("imagecodecs", reason="imagecodecs (of the deep extra) is not installed")
    samples = np.random.default_rng(0).integers(0, 65536, (5, 7, 3), dtype=np.uint16)
    data = bytes(imagecodecs.png_encode(samples))
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.warns(UserWarning, match="read with 8 bits"):
        picture = load_image(data)
    assert picture.bit_depth == 8
    with pytest.raises(ImageError, match="needs imagecodecs"):
        save_image(samples, tmp_path / "a.png")
    with pytest.warns(UserWarning, match="8 bits"):
        save_image(samples, tmp_path / "a.tif")
    assert load_image(tmp_path / "a.tif").bit_depth == 8


@pytest.mark.parametrize("name", ["PNG", "TIFF", "WEBP", "GIF"])
def test_first_frame_of_an_animation_is_read(name: str) -> None:
    frames = [Image.fromarray(pixels) for pixels in (GREY, 255 - GREY, GREY[::-1])]
    data = encoded(frames[0], name, save_all=True, append_images=frames[1:], lossless=True)
    with pytest.warns(UserWarning, match="first of 3 pictures"):
        picture = load_image(data)
    np.testing.assert_array_equal(picture.pixels.reshape(5, 7, -1)[:, :, 0], GREY)


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"])
def test_truncated_picture_file_is_an_image_error(name: str) -> None:
    data = encoded(Image.fromarray(RGB), name)
    for length in range(len(data)):
        try:
            load_image(data[:length])
        except ImageError:
            continue
        assert length > len(data) // 2, "the samples are incomplete"


@pytest.mark.parametrize("data", [b"", b"not a picture", b"ULC\x01" + bytes(40)])
def test_other_files_are_an_image_error(data: bytes) -> None:
    with pytest.raises(ImageError, match="not a picture"):
        load_image(data)


def test_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_image(tmp_path / "none.png")


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_bomb(width: int, height: int, *chunks: bytes) -> bytes:
    """Return a small PNG file that declares any size."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("limit", [None, 178956970], ids=["command line", "Pillow's limit"])
def test_header_that_declares_too_many_pixels_is_refused(monkeypatch: pytest.MonkeyPatch, limit: int | None) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ImageError, match=r"900000000|30000x30000 is more than"):
        load_image(png_bomb(30000, 30000))


def test_png_text_that_inflates_to_128_mib_is_left_out() -> None:
    text = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**27)))
    data = encoded(Image.fromarray(RGB))
    with pytest.warns(UserWarning, match="metadata that cannot be read"):
        picture = load_image(data[:33] + text + data[33:])
    np.testing.assert_array_equal(picture.pixels, RGB)


def exif_bombs() -> dict[str, bytes]:
    """Return EXIF data with orientation 6 and malicious entries, by their kind."""

    def directory(*entries: tuple[int, int, int, int], follow: int = 0) -> bytes:
        rows = b"".join(struct.pack("<HHII", *entry) for entry in entries)
        return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + rows + struct.pack("<I", follow)

    orientation = (0x0112, 3, 1, 6)
    return {
        "itself as its next directory": directory(orientation, follow=8),
        "a comment of 4 GiB": directory(orientation, (0x9286, 7, 2**32 - 1, 8)),
        "itself as its EXIF directory": directory(orientation, (0x8769, 4, 1, 8)),
        "65,000 entries": directory(orientation, *[(0x010E, 2, 2**20, 2**20)] * 5000),
        "an offset beyond its end": b"Exif\0\0II*\0" + struct.pack("<I", 2**31),
    }


@pytest.mark.parametrize("name", exif_bombs())
def test_malicious_exif_does_not_prevent_reading(name: str) -> None:
    """The pixels are turned or not."""
    data = encoded(Image.fromarray(RGB), exif=exif_bombs()[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert load_image(data).pixels.shape in (RGB.shape, RGB.transpose(1, 0, 2).shape)


def test_picture_with_more_pixels_than_the_limit_is_refused() -> None:
    data = encoded(Image.fromarray(RGB))
    assert load_image(data, max_pixels=35).pixels.size == 105
    with pytest.raises(ImageError, match="7x5 is more than 34 pixels"):
        load_image(data, max_pixels=34)


@pytest.mark.parametrize(
    "pixels",
    [
        RGB.astype(np.float32),
        RGB.astype(np.int16),
        np.zeros((5, 7, 4), dtype=np.uint8),
        np.zeros((5, 0), dtype=np.uint8),
        np.zeros(5, dtype=np.uint8),
        np.zeros((1, 5, 7, 3), dtype=np.uint8),
    ],
)
def test_array_that_is_no_picture_is_refused(pixels: np.ndarray) -> None:
    with pytest.raises(ImageError):
        Picture(pixels)


@pytest.mark.parametrize("pixels", [RGB, GREY, RGB[:1, :1]], ids=["rgb", "grey", "one pixel"])
@pytest.mark.parametrize("name", ["a.png", "a", "a.TIF", "a.bmp"])
def test_lossless_formats_round_trip(tmp_path: Path, name: str, pixels: np.ndarray) -> None:
    save_image(pixels, tmp_path / name)
    np.testing.assert_array_equal(load_image(tmp_path / name).pixels, pixels)
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.avif"])
def test_lossy_formats_round_trip_approximately(tmp_path: Path, name: str) -> None:
    smooth = np.full((32, 32, 3), (200, 100, 50), dtype=np.uint8)
    save_image(smooth, tmp_path / name)
    assert np.abs(load_image(tmp_path / name).pixels.astype(int) - smooth).max() <= 3


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif", "a.avif"])
def test_alpha_is_written(tmp_path: Path, name: str) -> None:
    alpha = np.repeat(np.arange(0, 256, 8, dtype=np.uint8)[None], 32, axis=0)
    save_image(Picture(np.full((32, 32, 3), 90, np.uint8), alpha), tmp_path / name)
    assert np.abs(load_image(tmp_path / name).alpha.astype(int) - alpha).max() <= 3


def test_alpha_that_the_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="JPEG"):
        save_image(Picture(RGB, GREY), tmp_path / "a.jpg")
    assert not list(tmp_path.iterdir())


def test_unknown_extension_is_refused(tmp_path: Path) -> None:
    for name in ("a.ulc", "a.unknown", "a.psd"):
        with pytest.raises(ImageError, match="extension"):
            image_format(tmp_path / name)
        with pytest.raises(ImageError, match="extension"):
            save_image(RGB, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_size_that_the_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="WEBP"):
        save_image(np.zeros((1, 20000), dtype=np.uint8), tmp_path / "a.webp")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("plugin", "extension"), [("pillow_jxl", "jxl"), ("pillow_heif", "heic"), (None, "avif")])
def test_formats_of_plugins_are_read(tmp_path: Path, plugin: str | None, extension: str) -> None:
    """A smooth picture has a small error, and the extension is in `readable_extensions`."""
    if plugin is not None:
        pytest.importorskip(plugin, reason=f"{plugin} (of the formats extra) is not installed")
    assert f".{extension}" in readable_extensions()
    rows, columns = np.mgrid[:64, :96]
    pixels = np.stack([3 * rows, 2 * columns, rows + columns], axis=2).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"a.{extension}", quality=95)
    picture = load_image(tmp_path / f"a.{extension}")
    assert np.abs(picture.pixels.astype(int) - pixels).mean() < 2
    assert picture.alpha is None
