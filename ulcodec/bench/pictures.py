"""The pictures that benchmarks measure on."""

from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ulcodec.errors import BenchmarkError
from ulcodec.io.pictures import load_image

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
SAMPLES = ("astronaut", "coffee", "chelsea")
"""Photographs that come with scikit-image, free of restrictions."""


class Picture(NamedTuple):
    """`pixels` uint8 [H, W, 3], or [H, W] if the picture is grey."""

    name: str
    pixels: NDArray[np.uint8]

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])


def find_pictures(folder: Path | None, limit: int | None = None) -> list[Picture]:
    """The first `limit` pictures of a folder in the order of their names, or the sample pictures of scikit-image.

    Raises OSError for a folder that is missing or has no picture, ImageError for a picture that cannot be read.
    """
    if folder is None:
        return [sample_picture(name) for name in SAMPLES[:limit]]
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise FileNotFoundError(f"no pictures in {folder}")
    return [Picture(path.name, load_image(path).pixels_8) for path in paths[:limit]]


def sample_picture(name: str) -> Picture:
    """A photograph that comes with scikit-image. Raises BenchmarkError if that is not installed."""
    try:
        file = files("skimage.data") / f"{name}.png"
    except ModuleNotFoundError as error:
        message = 'the sample pictures come with scikit-image: name a folder, or pip install "ulcodec[bench]"'
        raise BenchmarkError(message) from error
    return Picture(file.name, load_image(file.read_bytes()).pixels_8)


def fitted(picture: Picture, width: int, height: int) -> Picture:
    """The picture's centre at exactly this size, continued by its mirror image where it is smaller."""
    pixels = picture.pixels
    missing = [max(0, size - have) for size, have in zip((height, width), pixels.shape, strict=False)]
    margins = [(extra // 2, extra - extra // 2) for extra in missing] + [(0, 0)] * (pixels.ndim - 2)
    pixels = np.pad(pixels, margins, mode="symmetric")
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return Picture(picture.name, np.ascontiguousarray(pixels[top : top + height, left : left + width]))
