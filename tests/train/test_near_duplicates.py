"""Near-duplicates among photographs."""

import io

import numpy as np
import pytest
from PIL import Image
from skimage import data

from ulcodec.train.data.near_duplicates import HASH_BITS, LARGEST_DISTANCE, KnownPictures, hashes

PHOTOGRAPHS = {name: getattr(data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket")}


def as_jpeg(pixels: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=30)
    return np.asarray(Image.open(file))


def cropped(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    return pixels[height // 50 : -height // 50, width // 50 : -width // 50]


CHANGES = {
    "JPEG": as_jpeg,
    "half the size": lambda pixels: pixels[::2, ::2],
    "darker": lambda pixels: (pixels * 0.7).astype(np.uint8),
    "grey": lambda pixels: np.asarray(Image.fromarray(pixels).convert("L").convert("RGB")),
    "crop": cropped,
    "mirrored": lambda pixels: pixels[:, ::-1],
    "upside down": lambda pixels: pixels[::-1],
    "quarter turn": np.rot90,
    "mirrored quarter turn": lambda pixels: pixels.swapaxes(0, 1),
}


@pytest.fixture
def known() -> KnownPictures:
    pictures = KnownPictures()
    for name, pixels in PHOTOGRAPHS.items():
        pictures.add(name, hashes(pixels)[0])
    return pictures


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_changed_photograph_is_a_near_duplicate(known: KnownPictures, name: str, change: str) -> None:
    changed = np.ascontiguousarray(CHANGES[change](PHOTOGRAPHS[name]))
    assert known.near_duplicate(hashes(changed)) == name


def test_other_photographs_are_not_near_duplicates() -> None:
    known = KnownPictures()
    assert known.nearest(hashes(PHOTOGRAPHS["coffee"])) is None
    for name, pixels in PHOTOGRAPHS.items():
        assert known.near_duplicate(hashes(pixels)) is None
        known.add(name, hashes(pixels)[0])


def test_nearest_of_many_pictures_counts_bits() -> None:
    known = KnownPictures()
    bits = np.random.default_rng(0).random((3000, HASH_BITS)) < 0.5
    for number, row in enumerate(bits):
        known.add(str(number), row)
    flipped = bits[[2999]].copy()
    flipped[0, : LARGEST_DISTANCE + 1] ^= True
    assert known.nearest(flipped) == ("2999", LARGEST_DISTANCE + 1)
    assert known.near_duplicate(flipped) is None
    flipped[0, 0] ^= True
    assert known.near_duplicate(flipped) == "2999"
