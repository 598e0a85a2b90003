"""Memory that is free, given back."""

import ctypes
import sys


def release() -> None:
    """Give what the C library holds of freed memory back to the system, where it can (glibc).

    Freed tensors of tiles lie in its heap between ones that live: a process would keep what its largest moments took.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
