"""Motion field: which references each block uses, and its motion vectors."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from ulcodec.format.sequence import MAX_REFERENCES

BLOCK_PX = 16
CELL_PX = 8
"""Side of a cell: a quarter of a block. Each cell of a split block has its own vector."""

VECTOR_SCALE = 4
"""Units of a vector in one pixel."""

MAX_VECTOR = 2**13
"""Largest magnitude of each component of a vector, in quarter pixels."""

Grid = tuple[int, int]


class Use(IntEnum):
    """References that a block uses. With one reference, it is `FIRST` for all blocks."""

    BOTH = 0
    FIRST = 1
    SECOND = 2


USED = np.array([[True, True, False], [True, False, True]])
"""Whether each reference is used, by `Use`."""


def grid_of(height_px: int, width_px: int) -> Grid:
    """Return the number of blocks (down, right) of a picture. Blocks at its end may reach beyond it."""
    return -(-height_px // BLOCK_PX), -(-width_px // BLOCK_PX)


@dataclass(frozen=True, eq=False)
class MotionField:
    """Motion of the blocks of a picture. Vectors are (down, right) in quarter pixels.

    `uses` uint8 [h, w]: a `Use` a block. `vectors` int32 [R, h, w, 2]: a block's vector for each reference. `deltas`
    int32 [R, h, w, 2, 2, 2]: vectors of the four cells (row, column) of a split block, minus the block's vector; all
    zero for a block that is not split. The reference sample lies at position + vector. Raises ValueError for other
    types and shapes, unknown uses, and vectors beyond `MAX_VECTOR`.
    """

    uses: NDArray[np.uint8]
    vectors: NDArray[np.int32]
    deltas: NDArray[np.int32]

    def __post_init__(self) -> None:
        if self.uses.dtype != np.uint8 or self.vectors.dtype != np.int32 or self.deltas.dtype != np.int32:
            types = f"{self.uses.dtype}, {self.vectors.dtype} and {self.deltas.dtype}"
            raise ValueError(f"uses must be uint8, vectors and deltas int32, got {types}")
        shape = (len(self.vectors), *self.uses.shape)
        if len(shape) != 3 or not 1 <= shape[0] <= MAX_REFERENCES or 0 in shape:
            raise ValueError(f"need 1 or 2 references and a grid of blocks, got shape {shape}")
        if self.vectors.shape != (*shape, 2) or self.deltas.shape != (*shape, 2, 2, 2):
            raise ValueError(f"vectors {self.vectors.shape} and deltas {self.deltas.shape} do not fit the grid {shape}")
        if not np.isin(self.uses, list(Use) if self.n_references > 1 else [Use.FIRST]).all():
            raise ValueError(f"a block has an illegal use for {self.n_references} references")
        largest = max(_largest(self.vectors), _largest(self.deltas, self.vectors[:, :, :, None, None]))
        if largest > MAX_VECTOR:
            raise ValueError(f"a motion vector has the component {largest}; the largest is {MAX_VECTOR}")

    @classmethod
    def zero(cls, n_references: int, grid: Grid) -> "MotionField":
        """Return the field without motion, that uses all references."""
        uses = np.full(grid, Use.FIRST if n_references == 1 else Use.BOTH, np.uint8)
        vectors = np.zeros((n_references, *grid, 2), np.int32)
        return cls(uses, vectors, np.zeros((n_references, *grid, 2, 2, 2), np.int32))

    @property
    def n_references(self) -> int:
        return len(self.vectors)

    @property
    def grid(self) -> Grid:
        height, width = self.uses.shape
        return height, width

    @property
    def used(self) -> NDArray[np.bool_]:
        """Whether each block uses each reference, [R, h, w]."""
        return np.asarray(USED[: self.n_references, self.uses])

    @property
    def cells(self) -> NDArray[np.int32]:
        """Vectors of all cells, int32 [R, 2 h, 2 w, 2]."""
        vectors = self.vectors[:, :, :, None, None] + self.deltas
        height, width = self.grid
        return np.asarray(vectors.swapaxes(2, 3).reshape(self.n_references, 2 * height, 2 * width, 2))


def _largest(*terms: NDArray[np.int32]) -> int:
    """Return the largest magnitude of a sum of arrays."""
    return int(np.abs(sum(term.astype(np.int64) for term in terms)).max())
