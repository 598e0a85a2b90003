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
        ("TIFF", "RGB", {}, 1.0),
        ("WEBP", "RGB", {}, 2.0),
    ],
)
def test_reduction_by_format(kind: str, mode: str, options: dict[str, object], reduction: float) -> None:
    assert artefact_reduction(saved(PHOTOGRAPH.convert(mode), kind, **options)) == reduction
