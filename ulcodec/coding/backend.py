"""Choice of the range coder: `constriction` where it is installed, `range_coder` elsewhere.

Both give the same bytes.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ulcodec.coding import range_coder
from ulcodec.coding.range_coder import TOTAL


def stream_coder() -> Any:
    """Return constriction's module `stream`, or the module that stands in for it."""
    try:
        import constriction
    except ImportError:
        return range_coder
    return constriction.stream


def range_encoder() -> Any:
    return stream_coder().queue.RangeEncoder()


def range_decoder(words: bytes) -> Any:
    """Return a range decoder of big-endian 32-bit words."""
    return stream_coder().queue.RangeDecoder(np.frombuffer(words, dtype=">u4").astype(np.uint32))


def categorical(frequencies: NDArray[np.integer[Any]]) -> Any:
    """Return a model with exactly the probabilities `frequencies / 2^24`."""
    weights = (frequencies - 1).astype(np.float64)  # constriction adds one to each weight
    return stream_coder().model.Categorical(weights, perfect=False)


def fair_bit() -> Any:
    """Return the model of a bit that is 0 or 1 with equal probability."""
    return categorical(np.array([TOTAL // 2, TOTAL // 2]))
