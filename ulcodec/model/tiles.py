"""Tiles of a latent grid with what surrounds them, so that large pictures take no more memory than a tile."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor


class Span(NamedTuple):
    """A tile along one axis: where it lies, what it takes to compute it, and where it lies in that."""

    inner: slice
    outer: slice
    within: slice


def spans(wanted: range, length: int, tile: int, halo: int) -> Iterator[Span]:
    """Tiles that cover the positions `wanted` of an axis of `length`, each with `halo` positions around, if there are.

    Tiles begin at multiples of `tile`, the outermost are cut to what is wanted.
    """
    for start in range(wanted.start // tile * tile, wanted.stop, tile):
        first, last = max(start, wanted.start), min(start + tile, wanted.stop)
        outer = slice(max(first - halo, 0), min(last + halo, length))
        yield Span(slice(first, last), outer, slice(first - outer.start, last - outer.start))


class Tile(NamedTuple):
    """A part of a grid with what surrounds it."""

    rows: Span
    columns: Span

    @property
    def outer_origin(self) -> tuple[int, int]:
        return self.rows.outer.start, self.columns.outer.start

    @property
    def inner_origin(self) -> tuple[int, int]:
        return self.rows.inner.start, self.columns.inner.start

    def outer_of(self, x: Tensor) -> Tensor:
        """The tile and what surrounds it, of [B, h, w, C]."""
        return x[:, self.rows.outer, self.columns.outer]

    def inner_of(self, x: Tensor) -> Tensor:
        """The tile alone."""
        return x[:, self.rows.inner, self.columns.inner]


def tiles(grid: tuple[int, int], tile: int, halo: int) -> Iterator[Tile]:
    """Tiles of a whole grid, row after row; `tile` and `halo` as in `spans`."""
    for rows in spans(range(grid[0]), grid[0], tile, halo):
        for columns in spans(range(grid[1]), grid[1], tile, halo):
            yield Tile(rows, columns)
