"""Return freed memory to the operating system."""

import ctypes
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def release() -> None:
    """Return freed heap pages to the operating system (glibc only).

    Freed tensors of tiles lie between live ones in the heap. Without this call a process keeps its peak memory.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def released(items: Iterable[Item]) -> Iterator[Item]:
    """Iterate, with `release` after each item if there are several: for items that need much memory."""
    count = 0
    for count, item in enumerate(items, start=1):
        if count > 1:
            release()
        yield item
    if count > 1:
        release()
