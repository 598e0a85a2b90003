import contextlib
import os
import stat
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ulcodec.errors import ImageError
from ulcodec.images import ImagePixels, atomic_write, image_format, load_image, save_image

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
GREY = RGB[:, :, 0].copy()


def encoded(image: Image.Image, name: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def test_every_kind_of_source(tmp_path: Path) -> None:
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


def test_sixteen_bit_grey_is_scaled() -> None:
    samples = np.array([[0, 128, 129, 257 * 17, 65406, 65407, 65535]], dtype=np.uint16)
    pixels = load_image(encoded(Image.fromarray(samples))).pixels
    np.testing.assert_array_equal(pixels, np.array([[0, 0, 1, 17, 254, 255, 255]], dtype=np.uint8))


def test_samples_beyond_sixteen_bits_are_refused() -> None:
    with pytest.raises(ImageError, match="16 bits"):
        load_image(Image.fromarray(np.array([[0, 70000]], dtype=np.int32)))
    with pytest.raises(ImageError, match="floating-point"):
        load_image(Image.fromarray(np.array([[0.5]], dtype=np.float32)))


def transparent_pictures() -> dict[str, bytes]:
    rgb, grey = Image.fromarray(RGB), Image.fromarray(GREY)
    alpha = Image.new("L", rgb.size, 255)
    alpha.putpixel((0, 0), 254)
    rgba, la = rgb.copy(), grey.copy()
    rgba.putalpha(alpha)
    la.putalpha(alpha)
    palette = rgb.quantize(4)
    deep = Image.fromarray(np.array([[1, 500]], dtype=np.uint16))
    return {
        "RGBA": encoded(rgba),
        "LA": encoded(la),
        "colour key": encoded(rgb, transparency=tuple(RGB[0, 0].tolist())),
        "grey key": encoded(grey, transparency=int(GREY[0, 0])),
        "palette": encoded(palette, transparency=palette.getpixel((0, 0))),
        "16 bits": encoded(deep, transparency=500),
    }


@pytest.mark.parametrize("kind", transparent_pictures())
def test_transparency_is_refused(kind: str) -> None:
    with pytest.raises(ImageError, match="transparency"):
        load_image(transparent_pictures()[kind])


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: turn clockwise to show
    pixels = load_image(encoded(Image.fromarray(RGB), exif=exif)).pixels
    np.testing.assert_array_equal(pixels, np.rot90(RGB, -1))


def test_first_frame_of_an_animation() -> None:
    frames = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    data = encoded(frames[0], save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(load_image(data).pixels, RGB)


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"])
def test_truncation_is_an_image_error(name: str) -> None:
    data = encoded(Image.fromarray(RGB), name)
    for length in range(len(data)):
        try:
            load_image(data[:length])
        except ImageError:
            continue
        assert length > len(data) // 2, "only what follows the samples may be missing"


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
    """A PNG file of a few bytes that declares any size."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("limit", [None, 178956970], ids=["command line", "Pillow's limit"])
def test_headers_that_promise_too_much(monkeypatch: pytest.MonkeyPatch, limit: int | None) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ImageError, match=r"900000000|30000x30000 is more than"):
        load_image(png_bomb(30000, 30000))


def test_text_that_unpacks_to_gigabytes() -> None:
    text = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**27)))
    with pytest.raises(ImageError, match="cannot be read"):
        load_image(png_bomb(7, 5, text))


def exif_bombs() -> dict[str, bytes]:
    """Orientation 6 behind what hostile writers put beside it: EXIF in TIFF's form, one directory."""

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
def test_hostile_exif(name: str) -> None:
    """The picture comes out, upright or as it is stored, or an ImageError."""
    data = encoded(Image.fromarray(RGB), exif=exif_bombs()[name])
    with contextlib.suppress(ImageError):
        assert load_image(data).pixels.shape in (RGB.shape, RGB.transpose(1, 0, 2).shape)


def test_too_many_pixels() -> None:
    data = encoded(Image.fromarray(RGB))
    assert load_image(data, max_pixels=35).pixels.size == 105
    with pytest.raises(ImageError, match="7x5 is more than 34 pixels"):
        load_image(data, max_pixels=34)


@pytest.mark.parametrize(
    "pixels",
    [
        RGB.astype(np.float32),
        np.zeros((5, 7, 4), dtype=np.uint8),
        np.zeros((5, 0), dtype=np.uint8),
        np.zeros(5, dtype=np.uint8),
        np.zeros((1, 5, 7, 3), dtype=np.uint8),
    ],
)
def test_arrays_that_are_no_picture(pixels: np.ndarray) -> None:
    with pytest.raises(ImageError):
        ImagePixels(pixels)


@pytest.mark.parametrize("pixels", [RGB, GREY, RGB[:1, :1]], ids=["rgb", "grey", "one pixel"])
@pytest.mark.parametrize("name", ["a.png", "a", "a.TIF", "a.bmp"])
def test_lossless_formats_round_trip(tmp_path: Path, name: str, pixels: np.ndarray) -> None:
    save_image(pixels, tmp_path / name)
    np.testing.assert_array_equal(load_image(tmp_path / name).pixels, pixels)
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.jpg", "a.webp", "a.avif"])
def test_formats_with_loss(tmp_path: Path, name: str) -> None:
    smooth = np.full((32, 32, 3), (200, 100, 50), dtype=np.uint8)
    save_image(smooth, tmp_path / name)
    assert np.abs(load_image(tmp_path / name).pixels.astype(int) - smooth).max() <= 3


def test_unknown_extension(tmp_path: Path) -> None:
    for name in ("a.ulc", "a.unknown", "a.psd"):
        with pytest.raises(ImageError, match="extension"):
            image_format(tmp_path / name)
        with pytest.raises(ImageError, match="extension"):
            save_image(RGB, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_size_that_the_format_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="WEBP"):
        save_image(np.zeros((1, 20000), dtype=np.uint8), tmp_path / "a.webp")
    assert not list(tmp_path.iterdir())


def test_atomic_write_replaces_and_follows_links(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    atomic_write(link, b"new")
    assert target.read_bytes() == b"new"
    assert link.is_symlink()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link", "target"]


def test_atomic_write_respects_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        atomic_write(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_atomic_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"old")

    def disk_full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        atomic_write(target, b"new")
    assert caught.value.filename == str(target)
    assert target.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_atomic_write_names_the_target(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        atomic_write(tmp_path / "none" / "a", b"")
    assert caught.value.filename == str(tmp_path / "none" / "a")
    with pytest.raises(IsADirectoryError):
        atomic_write(tmp_path, b"")


def test_atomic_write_to_a_device() -> None:
    atomic_write(Path(os.devnull), b"anything")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
