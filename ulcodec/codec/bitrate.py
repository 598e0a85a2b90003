"""Rate control of clips: one quality for all frames, or qualities that follow a target bitrate."""

import math
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from ulcodec.codec.inputs import check_quality
from ulcodec.errors import ImageError
from ulcodec.format.container import MAX_QUALITY


class Coded(Protocol):
    """A group of frames that was encoded."""

    @property
    def n_bytes(self) -> int: ...


Group = TypeVar("Group", bound=Coded)

FIRST_QUALITY = 50
LOG_SIZE_PER_QUALITY = 0.027
"""Rough change of the logarithm of the size of a picture for one unit of quality."""

HORIZON_S = 2.0
"""Time in which a deviation from the target is to be made up for."""
LARGEST_FACTOR = 4.0
"""Limit of the bitrate of a group, relative to the target, and of its inverse."""
MEMORY_S = 1.0
"""Time constant of the running mean of the complexity."""
FIRST_TRIES = 5


class RateControl(Protocol):
    """Chooses the quality of each group of frames."""

    def encode(self, encode: Callable[[int], Group], seconds: float) -> Group:
        """Encode a group of frames that is shown for `seconds`; `encode` takes the quality."""

    def idle(self, seconds: float) -> None:
        """Take note of a group without new frames."""

    def check(self, qualities: Sequence[int]) -> None:
        """Raise ImageError if this run has none of the qualities that another run may have had."""


def rate_control(quality: int, bits_per_s: float | None = None) -> RateControl:
    """The rate control for a quality, or for a mean bitrate. Raises ValueError for one out of range."""
    check_quality(quality)
    if bits_per_s is None:
        return ConstantQuality(quality)
    if not (math.isfinite(bits_per_s) and bits_per_s > 0):
        raise ValueError(f"a bitrate is a number above 0, got {bits_per_s}")
    return TargetBitrate(bits_per_s)


class ConstantQuality:
    """One quality from 0 to 100 for all frames."""

    def __init__(self, quality: int) -> None:
        self.quality = quality

    def encode(self, encode: Callable[[int], Group], seconds: float) -> Group:
        return encode(self.quality)

    def idle(self, seconds: float) -> None:
        """Do nothing."""

    def check(self, qualities: Sequence[int]) -> None:
        if self.quality not in qualities:
            is_range = len(qualities) > 2
            names = f"{min(qualities)} to {max(qualities)}" if is_range else " or ".join(map(str, qualities))
            raise ImageError(f"the unfinished file was encoded at quality {names}, not {self.quality}")


class TargetBitrate:
    """A mean bitrate in bits a second: each group takes the quality that makes up for the groups before it.

    The first group is encoded several times, the others once. `complexity`: running mean of the rate in bits a second
    that quality 0 would give; `debt_bits`: bits spent beyond the target.
    """

    def __init__(self, bits_per_s: float) -> None:
        self.bits_per_s, self.debt_bits = bits_per_s, 0.0
        self.complexity: float | None = None

    def encode(self, encode: Callable[[int], Group], seconds: float) -> Group:
        quality = FIRST_QUALITY if self.complexity is None else self._quality(self.complexity)
        group = encode(quality)
        if self.complexity is None:
            for _ in range(FIRST_TRIES - 1):
                better = self._quality(complexity_of(group, quality, seconds))
                if better == quality:
                    break
                quality, group = better, encode(better)
        measured, weight = complexity_of(group, quality, seconds), 1 - math.exp(-seconds / MEMORY_S)
        self.complexity = measured if self.complexity is None else (1 - weight) * self.complexity + weight * measured
        self.debt_bits += 8 * group.n_bytes - self.bits_per_s * seconds
        return group

    def _quality(self, complexity: float) -> int:
        """The quality for the next group, with respect to the debt."""
        wanted = self.bits_per_s - self.debt_bits / HORIZON_S
        wanted = min(max(wanted, self.bits_per_s / LARGEST_FACTOR), self.bits_per_s * LARGEST_FACTOR)
        return min(max(round(math.log(wanted / complexity) / LOG_SIZE_PER_QUALITY), 0), MAX_QUALITY)

    def idle(self, seconds: float) -> None:
        self.debt_bits -= self.bits_per_s * seconds

    def check(self, qualities: Sequence[int]) -> None:
        """Accept frames of any quality."""


def complexity_of(group: Coded, quality: int, seconds: float) -> float:
    """Rate in bits a second that a group would have at quality 0."""
    return 8 * group.n_bytes / seconds * math.exp(-LOG_SIZE_PER_QUALITY * quality)
