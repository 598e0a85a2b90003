"""Find near-duplicates of pictures by a perceptual hash."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

THUMBNAIL_PX = 64
HASH_SIDE = 16
HASH_BITS = HASH_SIDE**2

LARGEST_DISTANCE = 72
"""Different bits of two hashes up to which pictures are near-duplicates.

Unrelated photographs differ in half of the 256 bits; the nearest of 2.8 million pairs, each in eight orientations,
differ in 78. A crop by 4 % on each side changes 62 in the median (docs/lab-notes/training-data.md).
"""

Hash = NDArray[np.bool_]
"""Signs of `HASH_BITS` coefficients: bool [256]."""


def thumbnail(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Reduce the luma of uint8 [H, W, 3] to float32 [64, 64], whatever the aspect ratio."""
    size = (THUMBNAIL_PX, THUMBNAIL_PX)
    return np.asarray(Image.fromarray(pixels).convert("L").resize(size, Image.Resampling.BOX), dtype=np.float32)


def hashes(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Hash the eight orientations of a picture uint8 [H, W, 3]: bool [8, 256], the upright one first.

    A bit tells whether one of the lowest 16x16 DCT coefficients of the thumbnail exceeds their median.
    """
    from scipy.fft import dctn  # importing it takes a while

    upright = thumbnail(pixels)
    turned = [np.rot90(side, turns) for side in (upright, upright[:, ::-1]) for turns in range(4)]
    low = dctn(np.stack(turned), axes=(1, 2), norm="ortho")[:, :HASH_SIDE, :HASH_SIDE].reshape(len(turned), HASH_BITS)
    bits: NDArray[np.bool_] = low > np.median(low, axis=1, keepdims=True)
    return bits


class KnownPictures:
    """Hashes of pictures, with names, that others are compared with."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._signs = np.empty((1024, HASH_BITS), dtype=np.float32)

    def add(self, name: str, upright: Hash) -> None:
        """Remember a picture by the hash of its upright orientation."""
        if len(self.names) == len(self._signs):
            self._signs = np.concatenate((self._signs, np.empty_like(self._signs)))
        self._signs[len(self.names)] = np.where(upright, 1.0, -1.0)
        self.names.append(name)

    def nearest(self, orientations: NDArray[np.bool_]) -> tuple[str, int] | None:
        """Return the known picture that is nearest to a picture in any orientation, and the number of different bits.

        `orientations`: bool [8, 256], as `hashes` returns them. None if no picture is known.
        """
        if not self.names:
            return None
        products = self._signs[: len(self.names)] @ np.where(orientations, 1.0, -1.0).astype(np.float32).T
        closest = products.max(axis=1)
        index = int(closest.argmax())
        return self.names[index], int(HASH_BITS - closest[index]) // 2

    def near_duplicate(self, orientations: NDArray[np.bool_]) -> str | None:
        """Return the name of a known picture of which this is a near-duplicate, if there is one; see `nearest`."""
        match = self.nearest(orientations)
        return match[0] if match is not None and match[1] <= LARGEST_DISTANCE else None
