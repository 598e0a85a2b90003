"""Memory that is free, given back."""

import ctypes
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def release() -> None:
    """Give what the C library holds of freed memory back to the system, where it can (glibc).

    Freed tensors of tiles lie in its heap between ones that live: a process would keep what its largest moments took.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def released(items: Iterable[Item]) -> Iterator[Item]:
    """The items, with `release` after each if there are several: for work that takes and frees much memory for each."""
    count = 0
    for count, item in enumerate(items, start=1):
        if count > 1:
            release()
        yield item
    if count > 1:
        release()
