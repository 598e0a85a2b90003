"""Random draws: noise tied to pixel positions, and noise shared between the workers of a training run."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

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


def uniform_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    return draw_rows(torch.rand, like.shape, generator) - 0.5


def normal_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    return draw_rows(torch.randn, like.shape, generator)


Function = TypeVar("Function", bound=Callable[..., Any])


def uncompiled(function: Function) -> Function:
    """`torch.compiler.disable` that keeps the function's type."""
    return cast(Function, torch.compiler.disable(function))  # type: ignore[no-untyped-call]


class BatchGenerator(torch.Generator):
    """A generator for a whole batch of which this process takes the rows of worker `rank` of `count`."""

    rank = 0
    count = 1


@uncompiled
def draw_rows(draw: Callable[..., Tensor], shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """This worker's rows, of the given shape, of what `draw` gives for the whole batch on the generator's device.

    Never compiled: Dynamo cannot trace a generator's draws, and stops at attributes of one.
    """
    rank, count = getattr(generator, "rank", 0), getattr(generator, "count", 1)
    n_rows = shape[0]
    whole = draw((n_rows * count, *shape[1:]), generator=generator, device=generator.device)
    return whole[rank * n_rows : (rank + 1) * n_rows]
