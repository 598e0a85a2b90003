"""`ulcodec compare`."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from command_line import Run, assert_refused
from PIL import Image

import ulcodec
from ulcodec.codec.image import Codec
from ulcodec.io.picture import Picture
from ulcodec.io.pictures import load_image
from ulcodec.metrics import psnr_db
from ulcodec_cli.compare import measure

SMOOTH = np.stack(np.broadcast_arrays(np.arange(24)[:, None] * 9, np.arange(40) * 5, 90), axis=2).astype(np.uint8)


def test_compare_measures_and_writes_pictures_side_by_side(
    photo: Path, coded: Path, tiny_model_dir: Path, run: Run, tmp_path: Path
) -> None:
    codec = ulcodec.load(tiny_model_dir)
    pixels, decoded = np.asarray(Image.open(photo)), codec.decode_array(coded.read_bytes())
    side = tmp_path / "side.png"
    values = run("compare", photo, coded, "-o", side, "--model", tiny_model_dir, "--json").json
    assert values["psnr_db"] == pytest.approx(psnr_db(pixels, decoded))
    assert values["file_bytes"] == coded.stat().st_size
    assert values["ms_ssim"] is None
    side_by_side = np.asarray(Image.open(side))
    np.testing.assert_array_equal(side_by_side[:, :102], np.concatenate([pixels, decoded], axis=1))
    same = run("compare", photo, photo)
    assert "inf" in same.stdout
    Image.new("RGB", (5, 5)).save(tmp_path / "other.png")
    assert_refused(run("compare", photo, tmp_path / "other.png"), "different shapes")


def test_error_names_the_unreadable_one_of_two_files(
    photo: Path, coded: Path, tiny_model_dir: Path, run: Run, tmp_path: Path
) -> None:
    junk, damaged = tmp_path / "junk.png", tmp_path / "damaged.ulc"
    junk.write_bytes(b"junk")
    damaged.write_bytes(coded.read_bytes()[:-1])
    for bad in (junk, damaged):
        assert_refused(run("compare", photo, bad, "--model", tiny_model_dir), f"{bad}: ")


def test_pictures_of_two_depths_are_compared_at_8_bits() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    assert measure(Picture(pixels), Picture(pixels.astype(np.uint16) * 257), 1)["psnr_db"] == np.inf


def test_comparison_turns_pictures_and_ignores_hidden_colours(tiny_codec: Codec) -> None:
    buffer, exif = BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(SMOOTH).save(buffer, "PNG", exif=exif)
    stored = load_image(buffer.getvalue(), upright=False)
    decoded = tiny_codec.decode_picture(tiny_codec.encode(stored)).upright()
    assert measure(stored.upright(), decoded, 1)["psnr_db"] > 5
    alpha = np.zeros((24, 40), np.uint8)
    alpha[:, :20] = 255
    hidden = SMOOTH.copy()
    hidden[:, 20:] = np.random.default_rng(0).integers(0, 256, (24, 20, 3))
    other = SMOOTH.copy()
    other[0, 0, 0] += 5
    figures = measure(Picture(hidden, alpha), Picture(other, alpha), 1)
    assert figures["psnr_db"] == pytest.approx(10 * np.log10(255**2 / (25 / SMOOTH.size)))
