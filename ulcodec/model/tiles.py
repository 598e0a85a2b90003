"""Tiles of a latent grid with what surrounds them, so that large pictures take no more memory than a tile."""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

from torch import Tensor


class Span(NamedTuple):
    """A tile along one axis: the range of its output, of the input that this takes, and the former in the latter."""

    inner: slice
    outer: slice
    within: slice

    def limited(self, halo: int) -> "Span":
        """With at most `halo` positions to each side of the inner range."""
        outer = slice(
            max(self.outer.start, self.inner.start - halo),
            min(self.outer.stop, self.inner.stop + halo),
        )
        return span(self.inner, outer)

    def scaled(self, factor: int) -> "Span":
        """The same on a grid that is finer by a factor."""
        return Span(*(slice(factor * part.start, factor * part.stop) for part in self))

    def of(self, wider: "Span") -> slice:
        """Where the outer range lies in that of a wider span."""
        return slice(self.outer.start - wider.outer.start, self.outer.stop - wider.outer.start)


def length(part: slice) -> int:
    return int(part.stop - part.start)


def span(inner: slice, outer: slice) -> Span:
    return Span(inner, outer, slice(inner.start - outer.start, inner.stop - outer.start))


def spans(wanted: range, length: int, tile: int, halo: int) -> Iterator[Span]:
    """Tiles that cover the positions `wanted` of an axis of `length`, each with `halo` positions around, if there are.

    Tiles begin at multiples of `tile`, the outermost are cut to what is wanted.
    """
    for start in range(wanted.start // tile * tile, wanted.stop, tile):
        first, last = max(start, wanted.start), min(start + tile, wanted.stop)
        outer = slice(max(first - halo, 0), min(last + halo, length))
        yield span(slice(first, last), outer)


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

    @property
    def inner_grid(self) -> tuple[int, int]:
        return length(self.rows.inner), length(self.columns.inner)

    @property
    def outer_grid(self) -> tuple[int, int]:
        return length(self.rows.outer), length(self.columns.outer)

    def limited(self, halo: int) -> "Tile":
        """With at most `halo` positions around: layers that follow one another need less and less."""
        return Tile(*(part.limited(halo) for part in self))

    def scaled(self, factor: int) -> "Tile":
        """The same on a grid that is finer by a factor."""
        return Tile(*(part.scaled(factor) for part in self))

    def of(self, wider: "Tile") -> tuple[slice, slice]:
        """Rows and columns of the outer part in that of a wider tile."""
        return self.rows.of(wider.rows), self.columns.of(wider.columns)

    def outer_of(self, x: Tensor) -> Tensor:
        """The tile and what surrounds it, of [B, h, w, C]."""
        return x[:, self.rows.outer, self.columns.outer]

    def inner_of(self, x: Tensor) -> Tensor:
        """The tile alone."""
        return x[:, self.rows.inner, self.columns.inner]


def whole(grid: tuple[int, int]) -> Tile:
    """A whole grid as one tile."""
    rows, columns = (slice(0, side) for side in grid)
    return Tile(span(rows, rows), span(columns, columns))


def tiles(
    grid: tuple[int, int], tile: int, halo: int, rows: range | None = None, columns: range | None = None
) -> list[Tile]:
    """Tiles of a grid, or of some of its rows and columns, row after row; `tile` and `halo` as in `spans`."""
    down = spans(rows or range(grid[0]), grid[0], tile, halo)
    across = list(spans(columns or range(grid[1]), grid[1], tile, halo))
    return [Tile(*pair) for pair in product(down, across)]
