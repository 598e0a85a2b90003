"""Fixtures for tests of the codec."""

import numpy as np
import pytest

from ulcodec.codec.image import Codec
from ulcodec.codec.loading import load


@pytest.fixture(scope="session")
def small() -> Codec:
    return load("small", device="cpu")


@pytest.fixture(scope="session")
def coded(tiny_codec: Codec, picture: np.ndarray) -> bytes:
    return tiny_codec.encode(picture, quality=70)


@pytest.fixture(scope="session")
def soft_disc(picture: np.ndarray) -> np.ndarray:
    """An alpha channel for `picture`: an opaque disc with a soft edge, uint8 [80, 96]."""
    height, width = picture.shape[:2]
    row, column = np.mgrid[0:height, 0:width]
    distance = np.hypot(row - height / 2, column - width / 2)
    return (255 * np.clip((height / 2 - distance) / 8, 0, 1)).astype(np.uint8)
