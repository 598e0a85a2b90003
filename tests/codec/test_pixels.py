"""Preparation of samples for the networks."""

import numpy as np

from ulcodec.codec.pixels import without_hidden


def test_hidden_samples_are_filled_smoothly() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (37, 50, 3), dtype=np.uint8)
    pixels[:, :20] = 100
    alpha = np.zeros((37, 50), np.uint8)
    alpha[5:30, 3:20] = 1
    np.testing.assert_array_equal(without_hidden(pixels, alpha), 100)
    for visible in (np.full((37, 50), 255, np.uint8), rng.integers(1, 256, (37, 50), dtype=np.uint8)):
        np.testing.assert_array_equal(without_hidden(pixels, visible), pixels)
    np.testing.assert_array_equal(without_hidden(pixels, np.zeros((37, 50), np.uint8)), 0)
    filled = without_hidden(pixels, np.where(rng.random((37, 50)) < 0.5, 0, 255).astype(np.uint8))
    assert filled.dtype == np.uint8
    grey = without_hidden(pixels[:, :, 0].astype(np.uint16) * 257, alpha)
    np.testing.assert_array_equal(grey, 25700)
