"""Binary streams for tests."""

from io import RawIOBase
from typing import Any


class Pipe(RawIOBase):
    """A file that cannot seek, and gives a few bytes at a time; `data` is what is left of it."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        n_bytes = min(len(buffer), len(self.data), 100)
        buffer[:n_bytes], self.data = self.data[:n_bytes], self.data[n_bytes:]
        return n_bytes
