"""Pictures of benchmarks: a folder, or the photographs in scikit-image."""

from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ulcodec.errors import BenchmarkError, ImageError
from ulcodec.io.pictures import load_image

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
SAMPLES = ("astronaut", "coffee", "chelsea")
"""Photographs that come with scikit-image, without restrictions on their use."""


class Picture(NamedTuple):
    """A named picture: `pixels` uint8 [H, W, 3], or [H, W] for grey."""

    name: str
    pixels: NDArray[np.uint8]

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])


def find_pictures(folder: Path | None, limit: int | None = None) -> list[Picture]:
    """Read the first `limit` pictures of a folder, sorted by name, or the samples of scikit-image.

    Raises OSError for a missing folder or one without pictures, ImageError for an unreadable picture.
    """
    if folder is None:
        return [sample_picture(name) for name in SAMPLES[:limit]]
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise FileNotFoundError(f"no pictures in {folder}")
    return [read_picture(path) for path in paths[:limit]]


def read_picture(path: Path) -> Picture:
    """Read a picture. Raises ImageError, with the name of the file, if it is unreadable."""
    try:
        return Picture(path.name, load_image(path).pixels_8)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


def sample_picture(name: str) -> Picture:
    """Read a photograph of scikit-image. Raises BenchmarkError if scikit-image is not installed."""
    try:
        file = files("skimage.data") / f"{name}.png"
    except ModuleNotFoundError as error:
        message = 'the sample pictures come with scikit-image: name a folder, or pip install "ulcodec[bench]"'
        raise BenchmarkError(message) from error
    return Picture(file.name, load_image(file.read_bytes()).pixels_8)


def fitted(picture: Picture, width: int, height: int) -> Picture:
    """Crop the centre of a picture to a size; mirror a picture that is smaller."""
    pixels = picture.pixels
    missing = [max(0, wanted - side) for wanted, side in zip((height, width), pixels.shape, strict=False)]
    margins = [(extra // 2, extra - extra // 2) for extra in missing] + [(0, 0)] * (pixels.ndim - 2)
    pixels = np.pad(pixels, margins, mode="symmetric")
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return Picture(picture.name, np.ascontiguousarray(pixels[top : top + height, left : left + width]))
