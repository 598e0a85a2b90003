"""Noise for a batch that several workers share: every worker draws the noise of one process, and takes its rows."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

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


def uniform_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    return draw_rows(torch.rand, like.shape, generator) - 0.5


def normal_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    return draw_rows(torch.randn, like.shape, generator)
