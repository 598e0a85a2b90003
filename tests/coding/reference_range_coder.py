"""The range coder of `docs/format.md` in plain Python integers: slow, exact, and independent of any library.

Its `low` is one integer of any length, so there are no carries to propagate.
"""

from collections.abc import Sequence

WORD_BITS, STATE_BITS, PRECISION_BITS = 32, 64, 24
WORD, STATE, TOTAL = 1 << WORD_BITS, 1 << STATE_BITS, 1 << PRECISION_BITS


class ReferenceEncoder:
    """Encoder that narrows `[low, low + width)`, an interval of numbers of `64 + 32 n_words` bits."""

    def __init__(self) -> None:
        self.low, self.width, self.n_words = 0, STATE - 1, 0

    def encode(self, entry: int, frequencies: Sequence[int]) -> None:
        unit = self.width >> PRECISION_BITS
        self.low += unit * sum(frequencies[:entry])
        self.width = unit * frequencies[entry]
        if self.width < WORD:
            self.low, self.width, self.n_words = self.low << WORD_BITS, self.width << WORD_BITS, self.n_words + 1

    def finish(self) -> bytes:
        """Return the shortest byte string in the interval, and the smallest of that length."""
        n_bits = STATE_BITS + WORD_BITS * self.n_words
        for n_bytes in range(n_bits // 8 + 1):
            shift = n_bits - 8 * n_bytes
            value = -(-self.low >> shift)
            if value << shift < self.low + self.width:
                return value.to_bytes(n_bytes, "big")
        raise AssertionError("an interval of at least one number holds a number")

    def whole_words(self) -> bytes:
        """Return the bytes of constriction: the words above `low`, and a word of zeros if they do not suffice."""
        if self.width == STATE - 1 and not self.n_words:
            return b""
        n_bytes = 4 * (self.n_words + 1)
        point = (self.low + WORD - 1) >> WORD_BITS
        ambiguous = (self.low + self.width) >> WORD_BITS == point
        return point.to_bytes(n_bytes, "big") + bytes(4 * ambiguous)


class ReferenceDecoder:
    """Decoder whose `offset` is the coded number minus the encoder's `low`, its first 64 bits."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position, self.width = data, 8, STATE - 1
        self.offset = int.from_bytes(data[:8].ljust(8, b"\0"), "big")

    def decode(self, frequencies: Sequence[int]) -> int:
        unit = self.width >> PRECISION_BITS
        target = self.offset // unit
        if target >= TOTAL:
            raise ValueError("no entry has this number")
        entry, below = 0, 0
        while below + frequencies[entry] <= target:
            below += frequencies[entry]
            entry += 1
        self.offset -= unit * below
        self.width = unit * frequencies[entry]
        if self.width < WORD:
            word = self.data[self.position : self.position + 4].ljust(4, b"\0")
            self.offset = self.offset << WORD_BITS | int.from_bytes(word, "big")
            self.width, self.position = self.width << WORD_BITS, self.position + 4
        return entry
