"""Motion fields for tests."""

import numpy as np

from ulcodec.motion.field import MAX_VECTOR, MotionField, Use


def random_field(n_references: int, grid: tuple[int, int], largest: int, seed: int) -> MotionField:
    """Draw vectors of up to `largest` quarter pixels in unrelated directions; a third of the blocks are split."""
    rng = np.random.default_rng(seed)
    uses = rng.integers(0, 3, grid) if n_references > 1 else np.full(grid, Use.FIRST)
    vectors = rng.integers(-largest, largest + 1, (n_references, *grid, 2))
    cells = vectors[:, :, :, None, None] + rng.integers(-9, 10, (n_references, *grid, 2, 2, 2))
    deltas = cells.clip(-MAX_VECTOR, MAX_VECTOR) - vectors[:, :, :, None, None]
    deltas[rng.random((n_references, *grid)) < 2 / 3] = 0
    return MotionField(uses.astype(np.uint8), vectors.astype(np.int32), deltas.astype(np.int32))


def pattern_field(n_references: int, grid: tuple[int, int]) -> MotionField:
    """Make a field without a random number generator, whose numbers may change. Every other block is split."""
    n_blocks = grid[0] * grid[1]
    blocks = np.arange(n_blocks).reshape(grid)
    uses = blocks % 3 if n_references > 1 else np.full(grid, Use.FIRST)
    vectors = np.arange(4 * n_blocks) * 37 % 101 - 50
    deltas = np.where((blocks % 2 == 1).reshape(*grid, 1), np.arange(8) * 11 % 23 + blocks[..., None] % 7 - 11, 0)
    return MotionField(
        uses.astype(np.uint8),
        vectors.astype(np.int32).reshape(2, *grid, 2)[:n_references],
        np.stack([deltas, -deltas]).astype(np.int32).reshape(2, *grid, 2, 2, 2)[:n_references],
    )


def smooth_field(grid: tuple[int, int]) -> MotionField:
    """Make the motion of a slow zoom."""
    vectors = np.moveaxis(np.indices(grid), 0, -1)[None] - np.array(grid) // 2
    field = MotionField.zero(1, grid)
    return MotionField(field.uses, vectors.astype(np.int32), field.deltas)
