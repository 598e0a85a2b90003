"""Range coder of `docs/format.md` in plain Python, for platforms on which `constriction` has no build.

It has the names, the calls and the bytes of the part of `constriction.stream` that ulcodec uses. It is about a hundred
times slower.
"""

from bisect import bisect_right
from copy import copy
from itertools import accumulate
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

WORD_BITS, PRECISION_BITS = 32, 24
WORD, STATE, TOTAL = 1 << 32, 1 << 64, 1 << PRECISION_BITS


class Categorical:
    """Model with frequencies `weights + 1`, which sum to 2^24; `below[i]` is the sum of those before entry i."""

    def __init__(self, weights: NDArray[np.float64], perfect: bool = False):
        self.frequencies = [int(weight) + 1 for weight in weights]
        self.below = [0, *accumulate(self.frequencies)][:-1]


class RangeEncoder:
    """Range encoder: narrows the interval `[low, low + width)`; `words` are the digits above `low`, with carries."""

    def __init__(self) -> None:
        self.low, self.width = 0, STATE - 1
        self.words: list[int] = []

    def encode(self, entries: NDArray[np.int32], model: Categorical) -> None:
        low, width = self.low, self.width
        frequencies, below = model.frequencies, model.below
        for entry in entries.tolist():
            unit = width >> PRECISION_BITS
            low += unit * below[entry]
            width = unit * frequencies[entry]
            if low >= STATE:
                low -= STATE
                self._carry()
            if width < WORD:
                self.words.append(low >> WORD_BITS)
                low, width = low << WORD_BITS & STATE - 1, width << WORD_BITS
        self.low, self.width = low, width

    def _carry(self) -> None:
        """Add one to the number whose digits are the words."""
        position = len(self.words) - 1
        while self.words[position] == WORD - 1:
            self.words[position] = 0
            position -= 1
        self.words[position] += 1

    def pos(self) -> tuple[int, tuple[int, int]]:
        """Return the number of words, the interval's low end below them, and its width."""
        return len(self.words), (self.low, self.width)

    def get_compressed(self) -> NDArray[np.uint32]:
        """Return the low end of the interval as words."""
        return np.array([*self.words, self.low >> WORD_BITS, self.low & WORD - 1], dtype=np.uint32)


class RangeDecoder:
    """Range decoder: `offset` is the coded number minus the encoder's low end, over the same 64 bits."""

    def __init__(self, words: NDArray[np.uint32]):
        self.words = [*words.tolist(), 0, 0]
        self.offset, self.width, self.position = self.words[0] << WORD_BITS | self.words[1], STATE - 1, 2

    def clone(self) -> "RangeDecoder":
        """Return a decoder that goes on from here by itself."""
        return copy(self)

    def decode(self, model: Categorical, count: int) -> NDArray[np.int32]:
        """Decode the next `count` entries. Raises AssertionError for data that no encoder writes."""
        frequencies, below = model.frequencies, model.below
        entries = np.empty(count, dtype=np.int32)
        for i in range(count):
            unit = self.width >> PRECISION_BITS
            target = self.offset // unit
            if target >= TOTAL:
                raise AssertionError("no entry has this number")
            entry = bisect_right(below, target) - 1
            entries[i] = entry
            self.offset -= unit * below[entry]
            self.width = unit * frequencies[entry]
            if self.width < WORD:
                word = self.words[self.position] if self.position < len(self.words) else 0
                self.offset, self.width = self.offset << WORD_BITS | word, self.width << WORD_BITS
                self.position += 1
        return entries


queue = SimpleNamespace(RangeEncoder=RangeEncoder, RangeDecoder=RangeDecoder)
model = SimpleNamespace(Categorical=Categorical)
