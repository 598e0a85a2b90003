"""Estimate the reduction that removes the artefacts of lossy compression from a picture."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BLOCK = 8
"""Side of JPEG's blocks."""

LARGEST_ERROR_LEVELS = 1.0
"""Root mean square error of luma, in levels of 8 bits, at which artefacts count as gone."""

LOSSLESS_FORMATS = {"BMP", "DIB", "PCX", "PNG", "PPM", "SGI", "TGA", "TIFF"}
LOSSY_IN_TIFF = {"jpeg", "tiff_jpeg", "webp"}

UNKNOWN_REDUCTION = 2.0
"""Reduction of lossy pictures that do not tell their quality, and of palettes. It restores halved chroma."""


def artefact_reduction(image: Image.Image) -> float:
    """Estimate the factor, at least 1, by which a picture must be reduced until its artefacts are gone.

    JPEG: until the expected error of luma is at most `LARGEST_ERROR_LEVELS`, and at least to the resolution of chroma.
    Other lossy formats, and palettes: `UNKNOWN_REDUCTION`. `image`: as Pillow opens it; its samples need not be loaded.
    """
    if image.format in ("JPEG", "MPO"):
        return jpeg_reduction(image)
    is_lossless = image.format in LOSSLESS_FORMATS and image.info.get("compression") not in LOSSY_IN_TIFF
    return 1.0 if is_lossless and image.mode != "P" else UNKNOWN_REDUCTION


def jpeg_reduction(image: Image.Image) -> float:
    """Estimate the reduction for a JPEG file, see `artefact_reduction`."""
    tables: dict[int, list[int]] = getattr(image, "quantization", {})
    components: list[tuple[int, int, int, int]] = getattr(image, "layer", [])  # id, sampling h and v, number of table
    if not components or components[0][3] not in tables:
        return UNKNOWN_REDUCTION
    steps = np.array(tables[components[0][3]], dtype=np.float64).reshape(BLOCK, BLOCK)
    sampling = np.array([component[1:3] for component in components])
    return max(luma_reduction(steps), float((sampling.max(0) / sampling.min(0).clip(1)).max()))


def luma_reduction(steps: NDArray[np.float64]) -> float:
    """Estimate the reduction for quantisation steps [8, 8], by vertical and horizontal frequency.

    A quantiser with step q makes an error of variance q^2 / 12. A reduction by s keeps the lowest 8/s frequencies of
    each axis, and divides the coefficients of an orthonormal transform, and their number, by s. So the variance of a
    pixel is the sum of the kept q^2 / 12, over 64. Interpolated between whole numbers of frequencies.
    """
    kept = np.arange(1, BLOCK + 1)
    variances = [(steps[:count, :count] ** 2).sum() / (12 * BLOCK**2) for count in kept]
    return BLOCK / float(np.interp(LARGEST_ERROR_LEVELS**2, variances, kept))
