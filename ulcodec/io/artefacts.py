"""Estimate the reduction that removes the artefacts of lossy compression from a picture."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import get_sampling

BLOCK = 8
"""Side of JPEG's blocks."""

LARGEST_ERROR_LEVELS = 1.0
"""Root mean square error of luma, in levels of 8 bits, at which artefacts count as gone."""

LOSSLESS_FORMATS = {"BMP", "DIB", "GIF", "PCX", "PNG", "PPM", "SGI", "TGA", "TIFF"}
FULL_CHROMA = 0
"""Pillow's number for 4:4:4."""

UNKNOWN_REDUCTION = 2.0
"""Reduction of pictures in lossy formats that do not tell their quality. It restores halved chroma."""


def artefact_reduction(image: Image.Image) -> float:
    """Estimate the factor, at least 1, by which a picture must be reduced until its artefacts are gone.

    JPEG: until the expected error of luma is at most `LARGEST_ERROR_LEVELS`, and at least to the resolution of chroma.
    Other lossy formats: `UNKNOWN_REDUCTION`. `image`: as Pillow opens it; its samples need not be loaded.
    """
    if image.format in ("JPEG", "MPO"):
        tables: dict[int, list[int]] = getattr(image, "quantization", {})
        if not tables:
            return UNKNOWN_REDUCTION
        has_full_chroma = image.mode == "L" or get_sampling(image) == FULL_CHROMA
        steps = np.array(tables[min(tables)], dtype=np.float64).reshape(BLOCK, BLOCK)
        return max(luma_reduction(steps), 1.0 if has_full_chroma else 2.0)
    return 1.0 if image.format in LOSSLESS_FORMATS else UNKNOWN_REDUCTION


def luma_reduction(steps: NDArray[np.float64]) -> float:
    """Estimate the reduction for quantisation steps [8, 8], by vertical and horizontal frequency.

    A quantiser with step q makes an error of variance q^2 / 12. A reduction by s keeps the lowest 8/s frequencies of
    each axis, and divides the coefficients of an orthonormal transform, and their number, by s. So the variance of a
    pixel is the sum of the kept q^2 / 12, over 64. Interpolated between whole numbers of frequencies.
    """
    kept = np.arange(1, BLOCK + 1)
    variances = [(steps[:count, :count] ** 2).sum() / (12 * BLOCK**2) for count in kept]
    return BLOCK / float(np.interp(LARGEST_ERROR_LEVELS**2, variances, kept))
