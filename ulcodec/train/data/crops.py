"""The interface of sets of pictures and of clips that training draws crops from."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch
from torch import Tensor

RowsOf = Callable[[Tensor], Tensor]
"""Selects a worker's rows of a batch."""

Set = TypeVar("Set", bound="CropSet")


def whole(batch: Tensor) -> Tensor:
    """Select all rows."""
    return batch


def in_layout(x: Tensor) -> Tensor:
    """Lay out crops for convolutions: pictures with channels last; clips are as fast as they are."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x.contiguous()


class CropSet(Protocol):
    """Pictures or clips in memory. B crops; X is a picture H W, or a clip T H W."""

    @property
    def device(self) -> torch.device: ...

    def __len__(self) -> int: ...

    def to(self: Set, device: torch.device) -> Set: ...

    def random_crops(self, count: int, crop_px: int, generator: torch.Generator, rows_of: RowsOf = whole) -> Tensor:
        """Draw random crops, half of them mirrored, as float32 [B, 3, X] in [0, 1]; `rows_of` selects B of `count`."""
        ...
