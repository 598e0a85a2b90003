"""Noise tied to the positions of pixels, so that a crop gets the noise of the whole picture."""

import numpy as np
import torch
from torch import Tensor

NOISE_BLOCK_PX = 64


def position_noise(seed: int, rows: range, columns: range) -> Tensor:
    """Draw white Gaussian noise [3, H, W] float32 for these rows and columns of an unbounded picture.

    Each block of 64x64 pixels is drawn by a counter-based generator (Philox), keyed by seed and block. The noise of a
    pixel therefore does not depend on the other rows and columns.
    """
    noise = np.empty((3, len(rows), len(columns)), np.float32)
    for block_row in _blocks(rows):
        for block_column in _blocks(columns):
            bits = np.random.Philox(key=seed, counter=[0, 0, block_row, block_column])
            block = np.random.Generator(bits).standard_normal((3, NOISE_BLOCK_PX, NOISE_BLOCK_PX), np.float32)
            (target_rows, block_rows), (target_columns, block_columns) = (
                _overlap(rows, block_row),
                _overlap(columns, block_column),
            )
            noise[:, target_rows, target_columns] = block[:, block_rows, block_columns]
    return torch.from_numpy(noise)


def _blocks(pixels: range) -> range:
    """Indices of the blocks that cover a range of pixels."""
    return range(pixels.start // NOISE_BLOCK_PX, -(-pixels.stop // NOISE_BLOCK_PX))


def _overlap(pixels: range, block: int) -> tuple[slice, slice]:
    """Pixels that a range and a block share, counted from the start of the range and from the start of the block."""
    block_start = block * NOISE_BLOCK_PX
    first, last = max(pixels.start, block_start), min(pixels.stop, block_start + NOISE_BLOCK_PX)
    return slice(first - pixels.start, last - pixels.start), slice(first - block_start, last - block_start)
