"""Distortion, rate and BD-rate against closed forms and published figures."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from ulcodec.errors import MissingPackageError
from ulcodec.metrics import MS_SSIM_MIN_SIDE, bd_rate_percent, bits_per_pixel, ms_ssim, mse, pchip, psnr_db

ANCHORS = Path(__file__).parents[3] / "shared" / "anchors" / "kodak.json"
"""Published rate-distortion points, which are not part of the repository."""

BPP = [0.1, 0.2, 0.4, 0.9]
PSNR_DB = [28.0, 31.0, 34.0, 38.0]


def noisy(picture: np.ndarray, amplitude: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, amplitude, picture.shape)
    return np.clip(picture + noise, 0, 255).round().astype(np.uint8)


def gradient(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, rows + columns], axis=2).astype(np.uint8)


def test_psnr_of_a_known_error() -> None:
    a = np.full((3, 5, 3), 100, dtype=np.uint8)
    b = a.copy()
    b[..., 0] = 97
    assert mse(a, b) == pytest.approx(3)
    assert psnr_db(a, b) == pytest.approx(10 * np.log10(255**2 / 3))
    assert psnr_db(b, a) == psnr_db(a, b)
    assert psnr_db(a, a) == float("inf")


@pytest.mark.parametrize("other", [np.zeros((3, 5), dtype=np.uint8), np.zeros((3, 5, 3))])
def test_psnr_refuses_other_shapes_and_dtypes(other: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        psnr_db(np.zeros((3, 5, 3), dtype=np.uint8), other)


def test_bits_per_pixel_is_file_bits_by_area() -> None:
    assert bits_per_pixel(1024, 64, 128) == 1


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.0, 1.25])
def test_bd_rate_of_a_scaled_curve_is_the_scale(factor: float) -> None:
    scaled = [factor * bpp for bpp in BPP]
    assert bd_rate_percent(BPP, PSNR_DB, scaled, PSNR_DB) == pytest.approx(100 * (factor - 1), abs=1e-9)


def test_bd_rate_of_straight_lines() -> None:
    """Log rates are `psnr / 10 - 3` and `1.1 psnr / 10 - 3.3`. The common range is 31 to 39 dB, with centre 35 dB."""
    psnr, anchor_psnr = np.arange(31.0, 45.0), np.arange(25.0, 40.0)
    anchor_bpp, bpp = np.exp(anchor_psnr / 10 - 3), np.exp(1.1 * psnr / 10 - 3.3)
    expected = 100 * (np.exp(0.1 * 35 / 10 - 0.3) - 1)
    assert bd_rate_percent(list(anchor_bpp), list(anchor_psnr), list(bpp), list(psnr)) == pytest.approx(expected)


def test_bd_rate_does_not_depend_on_the_order_of_points() -> None:
    other = [1.3 * bpp + 0.01 for bpp in BPP]
    shuffled = bd_rate_percent(BPP[::-1], PSNR_DB[::-1], other[::-1], PSNR_DB[::-1])
    assert shuffled == bd_rate_percent(BPP, PSNR_DB, other, PSNR_DB)


@pytest.mark.parametrize(
    ("bpp", "psnr", "message"),
    [
        ([0.1], [30.0], "two or more"),
        ([0.1, 0.2, 0.3], [30.0, 31.0], "two or more"),
        ([0.1, 0.2], [30.0, 30.0], "differ"),
        ([0.1, 0.2], [30.0, float("nan")], "finite"),
        ([0.0, 0.2], [30.0, 31.0], "positive"),
        ([0.1, float("inf")], [30.0, 31.0], "rates must be positive and finite"),
        ([0.1, 0.2], [10.0, 20.0], "overlap"),
    ],
)
def test_bd_rate_refuses_invalid_curves(bpp: list[float], psnr: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bd_rate_percent(BPP, PSNR_DB, bpp, psnr)


def test_pchip_is_monotone_and_keeps_its_values() -> None:
    """The expected values are those of an earlier implementation, which SciPy replaced."""
    x, y = np.array([0, 1, 2.5, 4, 4.5]), np.array([0, 1, 1.2, 5, 5.1])
    expected = [0.3983401652892562, 1.0952449097030914, 3.2692322762620267, 5.0947928825622775]
    np.testing.assert_allclose(pchip(x, y)([0.3, 1.7, 3.3, 4.4]), expected, rtol=1e-12)
    assert np.all(np.diff(pchip(x, y)(np.linspace(0, 4.5, 200))) > 0)


def test_bjontegaard_figures_need_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.interpolate", None)
    with pytest.raises(MissingPackageError, match="SciPy"):
        bd_rate_percent(BPP, PSNR_DB, BPP, PSNR_DB)


@pytest.mark.skipif(not ANCHORS.exists(), reason="needs the published points, ../shared/anchors/kodak.json")
@pytest.mark.parametrize(
    ("codec", "percent"),
    [
        ("HPCM-Large", -20.0),
        ("DCAE", -17.0),
        ("ELIC", -7.0),
        ("Cool-chic-5.0", -6.6),
        ("EVC-M", 1.0),
        ("mbt2018", 11.0),
        ("AV1-libaom", 16.2),
        ("HM", 23.3),
        ("bmshj2018-hyperprior", 30.5),
        ("AVIF-444-s6", 45.2),
        ("WebP-m6", 78.5),
        ("JPEG", 208),
    ],
)
def test_bd_rate_of_published_curves(codec: str, percent: float) -> None:
    curves = json.loads(ANCHORS.read_text())
    anchor, curve = curves["VTM-9.1"], curves[codec]
    measured = bd_rate_percent(anchor["bpp"], anchor["psnr_db"], curve["bpp"], curve["psnr_db"])
    assert measured == pytest.approx(percent, abs=0.05 if percent < 200 else 0.5)


def test_ms_ssim_falls_with_noise() -> None:
    picture = gradient(MS_SSIM_MIN_SIDE, MS_SSIM_MIN_SIDE + 13)
    values = [ms_ssim(picture, noisy(picture, amplitude)) for amplitude in (0, 3, 10, 40)]
    assert values[0] == pytest.approx(1)
    assert values == sorted(values, reverse=True)


def test_ms_ssim_of_flat_pictures_is_its_closed_form() -> None:
    """Flat pictures have no structure, so only the luminance term of the coarsest scale remains."""
    a, b = (np.full((MS_SSIM_MIN_SIDE, MS_SSIM_MIN_SIDE), level, dtype=np.uint8) for level in (100, 120))
    c1 = (0.01 * 255) ** 2
    luminance = (2 * 100 * 120 + c1) / (100**2 + 120**2 + c1)
    assert ms_ssim(a, b) == pytest.approx(luminance**0.1333)


def test_ms_ssim_refuses_small_pictures() -> None:
    small = np.zeros((MS_SSIM_MIN_SIDE - 1, 400, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="at least"):
        ms_ssim(small, small)
