"""SSIMULACRA2 (Sneyers 2022, with JPEG XL), by the Python package of that name, part of the `bench` extra."""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ulcodec.errors import MissingPackageError

Pixels = NDArray[np.uint8]

SSIMULACRA2_MIN_SIDE = 8
"""The package gives smaller pictures a score of 100, whatever their pixels."""


def ssimulacra2(original: Pixels, decoded: Pixels) -> float:
    """Score two uint8 pictures [H, W, 3] or [H, W] in sRGB: 100 for equal ones, lower for worse ones.

    Raises MissingPackageError; ValueError unless both are uint8 of one shape, with sides of at least
    `SSIMULACRA2_MIN_SIDE` pixels.
    """
    compute = ssimulacra2_function()
    if original.dtype != np.uint8 or decoded.dtype != np.uint8 or original.shape != decoded.shape:
        got = f"{original.dtype} {original.shape} and {decoded.dtype} {decoded.shape}"
        raise ValueError(f"expected two uint8 pictures of one shape, got {got}")
    if min(original.shape[:2]) < SSIMULACRA2_MIN_SIDE:
        raise ValueError(f"SSIMULACRA2 needs sides of at least {SSIMULACRA2_MIN_SIDE} pixels")
    return float(compute(image_file(original), image_file(decoded)))


def ssimulacra2_function() -> Callable[..., Any]:
    """Import the package's function of two files. Raises MissingPackageError."""
    try:
        from ssimulacra2 import compute_ssimulacra2
    except ImportError as error:
        raise MissingPackageError('SSIMULACRA2 needs a package: pip install "ulcodec[bench]"') from error
    function: Callable[..., Any] = compute_ssimulacra2
    return function


def image_file(pixels: Pixels) -> BytesIO:
    """Write an uncompressed file in memory, since the package takes files only."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PPM")
    buffer.seek(0)
    return buffer
