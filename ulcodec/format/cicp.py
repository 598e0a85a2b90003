"""Code points of a picture's colours: CICP (ITU-T H.273), 4 bytes in a file."""

from typing import NamedTuple

SRGB_TRANSFER, UNSPECIFIED = 13, 2
HDR_TRANSFERS = (16, 18)


class Cicp(NamedTuple):
    """Code points of ITU-T H.273, as in PNG's cICP chunk. Samples are RGB, so that `matrix` is 0."""

    primaries: int
    transfer: int
    matrix: int = 0
    full_range: int = 1

    @classmethod
    def read(cls, data: bytes) -> "Cicp | None":
        """Parse 4 bytes; None if they do not describe RGB samples."""
        return cls(*data) if len(data) == 4 and data[2] == 0 and data[3] <= 1 else None

    @property
    def is_hdr(self) -> bool:
        """Whether the transfer is PQ or HLG."""
        return self.transfer in HDR_TRANSFERS

    @property
    def is_default(self) -> bool:
        """Whether the colours are sRGB or unspecified, as in a picture without CICP."""
        primaries, transfer = self.primaries in (1, UNSPECIFIED), self.transfer in (SRGB_TRANSFER, UNSPECIFIED)
        return primaries and transfer and self.full_range == 1
