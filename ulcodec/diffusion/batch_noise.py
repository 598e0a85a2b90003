"""Noise for a batch that is divided among workers. The batch gets the noise that a single process would draw."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])


def _uncompiled(function: Function) -> Function:
    """`torch.compiler.disable`, with the function's type."""
    return cast(Function, torch.compiler.disable(function))  # type: ignore[no-untyped-call]


class BatchGenerator(torch.Generator):
    """A generator for a whole batch, of which this process uses the rows of worker `rank` of `count`."""

    rank = 0
    count = 1


@_uncompiled
def draw_rows(draw: Callable[..., Tensor], shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Draw random numbers for the whole batch on the generator's device, and return the rows of this worker.

    `shape` is that of the worker's rows. Never compiled: Dynamo cannot trace draws from a generator, nor its
    attributes.
    """
    rank, count = getattr(generator, "rank", 0), getattr(generator, "count", 1)
    n_rows = shape[0]
    batch = draw((n_rows * count, *shape[1:]), generator=generator, device=generator.device)
    return batch[rank * n_rows : (rank + 1) * n_rows]


def uniform_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw uniform noise in [-0.5, 0.5), shaped as `like`."""
    return draw_rows(torch.rand, like.shape, generator) - 0.5


def normal_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw standard normal noise, shaped as `like`."""
    return draw_rows(torch.randn, like.shape, generator)
