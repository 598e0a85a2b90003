"""Pictures whose pixels are their positions, as files and shards, for tests of training data."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from ulcodec.train.data.pictures import PictureSet

SIZES = [(40, 50), (33, 64), (64, 32), (57, 41), (32, 32), (48, 90)]


def numbered(index: int, height: int, width: int) -> np.ndarray:
    """Make a picture whose pixels are (row, column, number of the picture)."""
    pixels = np.empty((height, width, 3), dtype=np.uint8)
    pixels[..., 0], pixels[..., 1], pixels[..., 2] = np.arange(height)[:, None], np.arange(width), index
    return pixels


PICTURES = [numbered(index, *size) for index, size in enumerate(SIZES)]


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def files() -> dict[str, bytes]:
    """Return names and contents: six pictures in reading order, and files that must be left out."""
    usable = {f"{'a' if i < 3 else 'b'}/{i}.{'PNG' if i == 4 else 'png'}": png(p) for i, p in enumerate(PICTURES)}
    transparent = np.zeros((40, 40, 4), dtype=np.uint8)
    return usable | {
        "a/broken.png": b"not a picture",
        "a/cut.png": png(PICTURES[0])[:60],
        "a/notes.txt": b"text",
        "a/transparent.png": png(transparent),
        "b/small.png": png(numbered(9, 31, 99)),
    }


def write_shard(path: Path, names: list[str]) -> Path:
    data = files()
    with tarfile.open(path, "w") as shard:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(data[name])
            shard.addfile(member, io.BytesIO(data[name]))
    return path


def numbers_of(pictures: PictureSet) -> list[int]:
    """Return the numbers of the pictures in a set, and check their pixels."""
    numbers = []
    for index in range(len(pictures)):
        pixels = pictures.picture(index).numpy()
        number = int(pixels[0, 0, 2])
        np.testing.assert_array_equal(pixels, PICTURES[number])
        numbers.append(number)
    return numbers
