"""`import ulcodec.pillow`, which registers `.ulc` as a format of Pillow."""

import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from ulcodec import pillow
from ulcodec.codec.image import Codec
from ulcodec.io.picture import Picture


@pytest.fixture(autouse=True)
def _tiny_model(tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pillow.options, "model", str(tiny_model_dir))
    monkeypatch.setattr(pillow.options, "device", "cpu")


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "CMYK", "1", "I;16"])
def test_modes_of_pillow_round_trip(picture: np.ndarray, tmp_path: Path, tiny_codec: Codec, mode: str) -> None:
    image = Image.fromarray(picture)
    image = Image.fromarray(picture[:, :, 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(picture[:, :, 1]))
    path = tmp_path / "a.ulc"
    image.save(path, quality=80)
    expected = {"P": "RGB", "CMYK": "RGB", "1": "L"}.get(mode, mode)
    with Image.open(path) as opened:
        assert (opened.format, opened.mode, opened.size) == ("ULC", expected, image.size)
        assert np.array_equal(np.asarray(opened), np.asarray(tiny_codec.decode(path.read_bytes())))
        assert opened.mode == expected
    assert path.read_bytes() == tiny_codec.encode(image, quality=80)


def test_opening_decodes_no_pixels(picture: np.ndarray, tmp_path: Path) -> None:
    """Size, mode and info are read without torch; pixels are decoded at their first use."""
    Image.fromarray(picture).save(tmp_path / "a.ulc")
    code = (
        "import sys; from PIL import Image; import ulcodec.pillow; "
        "image = Image.open(sys.argv[1]); print(image.size, image.mode, image.info, 'torch' in sys.modules)"
    )
    finished = subprocess.run([sys.executable, "-c", code, tmp_path / "a.ulc"], capture_output=True, text=True)
    assert finished.stdout == "(96, 80) RGB {'quality': 50} False\n", finished.stderr


def test_metadata_round_trips_or_is_stripped(picture: np.ndarray, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a description"
    image, path = Image.fromarray(picture), tmp_path / "a.ulc"
    image.save(path, exif=exif, xmp=b"<x/>")
    with Image.open(path) as opened:
        assert opened.getexif()[0x010E] == "a description"
        assert opened.info["xmp"] == b"<x/>"
        opened.save(tmp_path / "b.ulc", strip=True)
    with Image.open(tmp_path / "b.ulc") as stripped:
        assert "xmp" not in stripped.info


def test_draft_decodes_at_an_eighth_if_large_enough(picture: np.ndarray, tmp_path: Path, tiny_codec: Codec) -> None:
    path = tmp_path / "a.ulc"
    Image.fromarray(picture[:, :91]).save(path, quality=90)
    with Image.open(path) as small, Image.open(path) as whole, Image.open(path) as thumbnail:
        assert small.draft("RGB", (12, 10)) == ("RGB", (0, 0, 91 / 8, 10))
        assert small.size == (12, 10)
        assert np.array_equal(np.asarray(small), tiny_codec.thumbnail(path.read_bytes()).pixels)
        assert whole.draft("RGB", (13, 10)) is None
        assert whole.size == (91, 80)
        thumbnail.thumbnail((6, 5))
        assert thumbnail.size == (6, 5)


def test_streams_and_alpha_quality_are_supported(picture: np.ndarray, tiny_codec: Codec) -> None:
    buffer = BytesIO()
    alpha = picture[:, :, 2].copy()
    Image.fromarray(np.dstack([picture, alpha])).save(buffer, "ULC", alpha_quality=90)
    assert buffer.getvalue() == tiny_codec.encode(Picture(picture, alpha), alpha_quality=90)
    buffer.seek(0)
    assert Image.open(buffer).load()[0, 0] == tuple(tiny_codec.decode_array(buffer.getvalue())[0, 0])


def test_damaged_foreign_and_floating_point_pictures_are_refused(
    picture: np.ndarray, tmp_path: Path, tiny_codec: Codec
) -> None:
    data = tiny_codec.encode(picture)
    for damaged in (data[:-1], data[:5], b"ULC"):
        with pytest.raises(UnidentifiedImageError):
            Image.open(BytesIO(damaged))
    other = Image.open(BytesIO(data))
    pillow.options.model = "small"
    with pytest.raises(OSError, match="made by model"):
        other.load()
    with pytest.raises(OSError, match="floating-point"):
        Image.new("F", (4, 4)).save(tmp_path / "a.ulc")
    assert not (tmp_path / "a.ulc").exists()


def test_imageio_reads_and_writes_through_pillow(picture: np.ndarray, tmp_path: Path, tiny_codec: Codec) -> None:
    imageio = pytest.importorskip("imageio.v3", reason="imageio is not installed")
    imageio.imwrite(tmp_path / "a.ulc", picture, plugin="pillow", quality=70)
    assert (tmp_path / "a.ulc").read_bytes() == tiny_codec.encode(picture, quality=70)
    pixels = imageio.imread(tmp_path / "a.ulc", plugin="pillow")
    assert np.array_equal(pixels, tiny_codec.decode_array((tmp_path / "a.ulc").read_bytes()))
    assert imageio.improps(tmp_path / "a.ulc", plugin="pillow").shape == picture.shape
