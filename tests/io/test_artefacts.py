"""Reduction of lossy pictures until their artefacts are gone."""

import io

import numpy as np
import pytest
from PIL import Image
from skimage import data

from ulcodec.io.artefacts import LARGEST_ERROR_LEVELS, artefact_reduction

PHOTOGRAPH = Image.fromarray(data.astronaut())


def saved(image: Image.Image, kind: str, **options: object) -> Image.Image:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(file)


def luma(image: Image.Image, reduction: float) -> np.ndarray:
    size = (round(image.width / reduction), round(image.height / reduction))
    return np.asarray(image.convert("RGB").resize(size, Image.Resampling.LANCZOS).convert("L"), dtype=np.float64)


@pytest.mark.parametrize("quality", [50, 75, 85, 95])
def test_reduced_jpeg_has_the_error_that_is_allowed(quality: int) -> None:
    jpeg = saved(PHOTOGRAPH, "JPEG", quality=quality, subsampling=0)
    reduction = artefact_reduction(jpeg)

    def error_levels(reduction: float) -> float:
        return float(np.sqrt(np.mean((luma(jpeg, reduction) - luma(PHOTOGRAPH, reduction)) ** 2)))

    assert error_levels(reduction) < 1.1 * LARGEST_ERROR_LEVELS < error_levels(1.0)
    assert error_levels(reduction) > 0.6 * LARGEST_ERROR_LEVELS


def test_lower_qualities_need_more_reduction() -> None:
    qualities = (100, 98, 95, 90, 75, 50, 10)
    reductions = [artefact_reduction(saved(PHOTOGRAPH, "JPEG", quality=q, subsampling=0)) for q in qualities]
    assert reductions == sorted(reductions)
    assert reductions[0] == 1.0
    assert reductions[-1] > 4


@pytest.mark.parametrize(
    ("kind", "mode", "options", "reduction"),
    [
        ("JPEG", "RGB", {"quality": 100, "subsampling": 2}, 2.0),
        ("JPEG", "L", {"quality": 100}, 1.0),
        ("PNG", "RGB", {}, 1.0),
        ("PNG", "P", {}, 2.0),
        ("GIF", "P", {}, 2.0),
        ("TIFF", "RGB", {}, 1.0),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}, 1.0),
        ("TIFF", "RGB", {"compression": "jpeg"}, 2.0),
        ("WEBP", "RGB", {}, 2.0),
    ],
)
def test_reduction_by_format(kind: str, mode: str, options: dict[str, object], reduction: float) -> None:
    assert artefact_reduction(saved(PHOTOGRAPH.convert(mode), kind, **options)) == reduction


@pytest.mark.parametrize(("sampling", "reduction"), [(0x11, 1.0), (0x21, 2.0), (0x22, 2.0), (0x41, 4.0), (0x14, 4.0)])
def test_chroma_of_any_sampling_is_restored(sampling: int, reduction: float) -> None:
    file = io.BytesIO()
    PHOTOGRAPH.save(file, "JPEG", quality=100, subsampling=2)
    data = bytearray(file.getvalue())
    data[data.index(b"\xff\xc0") + 11] = sampling  # of luma, in the frame header
    assert artefact_reduction(Image.open(io.BytesIO(data))) == reduction


def test_table_of_luma_counts() -> None:
    file = io.BytesIO()
    PHOTOGRAPH.save(file, "JPEG", qtables=[[1] * 64, [90] * 64], subsampling=0)
    data = bytearray(file.getvalue())
    frame = data.index(b"\xff\xc0")
    assert artefact_reduction(Image.open(io.BytesIO(data))) == 1.0
    data[frame + 12] = 1  # luma with the coarse table
    assert artefact_reduction(Image.open(io.BytesIO(data))) > 4
