"""`ulcodec compare`."""

from pathlib import Path

import numpy as np
import pytest
from command_line import Run, assert_refused
from PIL import Image

import ulcodec
from ulcodec.io.picture import Picture
from ulcodec.metrics import psnr_db
from ulcodec_cli.compare import measure


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


def test_pictures_of_two_depths_are_compared_at_8_bits() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    assert measure(Picture(pixels), Picture(pixels.astype(np.uint16) * 257), 1)["psnr_db"] == np.inf
