"""Noise tied to the positions of pixels, so that a crop gets the noise of the whole picture."""

import numpy as np
import torch
from torch import Tensor

NOISE_BLOCK_PX = 64


def position_noise(seed: int, rows: range, columns: range) -> Tensor:
    """White Gaussian noise [3, H, W] float32 for these rows and columns of an endless picture.

    Each block of 64x64 pixels has a counter-based generator of its own (Philox, keyed by seed and block), so that a
    part of a picture gets the noise that the whole would.
    """
    noise = np.empty((3, len(rows), len(columns)), np.float32)
    for row in range(rows.start // NOISE_BLOCK_PX, -(-rows.stop // NOISE_BLOCK_PX)):
        for column in range(columns.start // NOISE_BLOCK_PX, -(-columns.stop // NOISE_BLOCK_PX)):
            bits = np.random.Philox(key=seed, counter=[0, 0, row, column])
            block = np.random.Generator(bits).standard_normal((3, NOISE_BLOCK_PX, NOISE_BLOCK_PX), np.float32)
            (top, bottom), (left, right) = (
                (max(wanted.start, index * NOISE_BLOCK_PX), min(wanted.stop, (index + 1) * NOISE_BLOCK_PX))
                for wanted, index in ((rows, row), (columns, column))
            )
            noise[:, top - rows.start : bottom - rows.start, left - columns.start : right - columns.start] = block[
                :,
                top - row * NOISE_BLOCK_PX : bottom - row * NOISE_BLOCK_PX,
                left - column * NOISE_BLOCK_PX : right - column * NOISE_BLOCK_PX,
            ]
    return torch.from_numpy(noise)
