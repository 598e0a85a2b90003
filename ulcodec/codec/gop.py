"""The order and the references of the frames of a clip: groups with hierarchical B frames, and scene cuts.

A group is the frames from one anchor to the next: an intra frame, or a P frame that is predicted from the anchor before
it. The frames between two anchors are B frames, predicted from the nearest coded frames on both sides: first the middle
one, then those in the middle of the halves. The deeper a frame lies in this hierarchy, the fewer frames depend on it,
and the lower its quality may be.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ulcodec.io.picture import Picture

GROUP_FRAMES = 16
"""Distance of two anchors in frames. `ulcodec.format.sequence` keeps enough frames for it."""

REDUCTION_PX, CUT_BLOCK, CUT_REACH = 8, 4, 3
"""Pixels per side that a sample of a reduced picture stands for; samples per side of its blocks; and the largest
displacement of a block, in samples, that is no change of the scene."""

CUT_RATIO = 0.7
"""Share of the contrast of a picture's blocks that is left of them after prediction from the picture before, where a
new scene begins."""

CUT_LEAST = 2.0
"""Least mean prediction error of a new scene, in levels of 0 to 255."""


class Step(NamedTuple):
    """A frame of a group to be coded: its place, and the places of its references. The anchor before has place 0.

    `level`: 0 for an anchor, and one more for each level of B frames; `is_kept`: whether others refer to it.
    """

    place: int
    references: tuple[int, ...]
    level: int
    is_kept: bool


def steps_of(n_frames: int, *, ends_intra: bool) -> Iterator[Step]:
    """Iterate over the frames of a group that has `n_frames` after its first anchor, in the order of coding."""
    if n_frames:
        yield Step(n_frames, () if ends_intra else (0,), 0, True)
        yield from _between(0, n_frames, 1)


def _between(left: int, right: int, level: int) -> Iterator[Step]:
    """Iterate over the B frames between two coded frames."""
    if right - left < 2:
        return
    middle = (left + right) // 2
    yield Step(middle, (left, right), level, right - left > 2)
    yield from _between(left, middle, level + 1)
    yield from _between(middle, right, level + 1)


class SceneCuts:
    """Finds the first frame of each scene. Frames of one size come in the order of display."""

    def __init__(self) -> None:
        self.last: NDArray[np.float32] | None = None

    def is_cut(self, pixels: NDArray[Any]) -> bool:
        """Whether a frame, samples as in `VideoFrame`, cannot be predicted from the one before; true for the first."""
        reduced, last = reduced_luma(pixels), self.last
        self.last = reduced
        if last is None:
            return True
        blocks = _blocks(reduced)
        contrast = np.abs(blocks - blocks.mean((2, 3), keepdims=True)).mean((2, 3))
        error = _least_error(blocks, last)
        return bool(error.mean() > CUT_LEAST and error.mean() > CUT_RATIO * contrast.mean())


def reduced_luma(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Mean of green, or grey, over squares of `REDUCTION_PX`: float32 in 0 to 255, sides multiples of `CUT_BLOCK`."""
    samples = Picture(pixels).pixels_8
    samples = samples if samples.ndim == 2 else samples[:, :, 1]
    side = REDUCTION_PX * CUT_BLOCK
    samples = np.pad(samples, [(0, -length % side) for length in samples.shape], mode="edge")
    rows, columns = (length // REDUCTION_PX for length in samples.shape)
    squares = samples.reshape(rows, REDUCTION_PX, columns, REDUCTION_PX)
    return np.asarray(squares.mean((1, 3), dtype=np.float32))


def _blocks(reduced: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divide a reduced picture into blocks [rows, columns, CUT_BLOCK, CUT_BLOCK]."""
    rows, columns = (length // CUT_BLOCK for length in reduced.shape)
    return np.asarray(reduced.reshape(rows, CUT_BLOCK, columns, CUT_BLOCK).swapaxes(1, 2))


def _least_error(blocks: NDArray[np.float32], last: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean absolute error of each block against the best displaced block of the picture before: [rows, columns]."""
    padded = np.pad(last, CUT_REACH, mode="edge")
    height, width = last.shape
    displacements = range(2 * CUT_REACH + 1)
    errors = [
        np.abs(blocks - _blocks(padded[down : down + height, across : across + width])).mean((2, 3))
        for down in displacements
        for across in displacements
    ]
    return np.asarray(np.min(errors, axis=0))
