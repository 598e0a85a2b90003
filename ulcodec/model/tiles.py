"""Tiles of a latent grid, each with a halo, so that memory does not grow with the picture.

A network needs a tile's input range, which is the tile with a halo around it, to compute the tile's output range.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple


class Span(NamedTuple):
    """A tile along one axis: its output range `inner`, and its input range `outer`, which is `inner` with a halo.

    Both are slices with start and stop, in positions of the whole grid.
    """

    inner: slice
    outer: slice

    @property
    def within(self) -> slice:
        """The output range, counted from the start of the input range."""
        return slice(self.inner.start - self.outer.start, self.inner.stop - self.outer.start)

    def crop_halo(self, halo: int) -> "Span":
        """The same output range with at most `halo` positions on each side."""
        start, stop = self.inner.start - halo, self.inner.stop + halo
        return Span(self.inner, slice(max(self.outer.start, start), min(self.outer.stop, stop)))

    def widened(self, halo: int) -> "Span":
        """The same input range, with an output range that has `halo` more positions on each side, within it."""
        return Span(self.crop_halo(halo).outer, self.outer)

    def scaled(self, factor: int) -> "Span":
        """The same span on a grid that is finer by `factor`."""
        return Span(*(slice(factor * positions.start, factor * positions.stop) for positions in self))

    def outer_within(self, larger: "Span") -> slice:
        """The input range, counted from the start of the input range of a larger span."""
        return slice(self.outer.start - larger.outer.start, self.outer.stop - larger.outer.start)


def _spans(area: range, length: int, tile: int, halo: int) -> Iterator[Span]:
    """Divide the positions `area` of an axis of `length` into spans.

    Output ranges begin at multiples of `tile`; the first and the last are cut to the area. Input ranges add `halo`
    positions on each side, as far as the axis goes.
    """
    for start in range(area.start // tile * tile, area.stop, tile):
        first, last = max(start, area.start), min(start + tile, area.stop)
        yield Span(slice(first, last), slice(max(first - halo, 0), min(last + halo, length)))


class Tile(NamedTuple):
    """A tile of a grid: its rows and its columns. `outer` and `inner`: the tile with and without its halo."""

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
        return _length(self.rows.inner), _length(self.columns.inner)

    @property
    def outer_grid(self) -> tuple[int, int]:
        return _length(self.rows.outer), _length(self.columns.outer)

    def crop_halo(self, halo: int) -> "Tile":
        """The same tile with at most `halo` positions on each side, e.g. for the later layers of a network."""
        return Tile(*(span.crop_halo(halo) for span in self))

    def widened(self, halo: int) -> "Tile":
        """A tile with `halo` more positions on each side, and the outer border of this one."""
        return Tile(*(span.widened(halo) for span in self))

    def scaled(self, factor: int) -> "Tile":
        """The same tile on a grid that is finer by `factor`."""
        return Tile(*(span.scaled(factor) for span in self))

    def outer_within(self, larger: "Tile") -> tuple[slice, slice]:
        """Rows and columns of the tile with its halo, counted from the first of a larger tile with its halo."""
        return self.rows.outer_within(larger.rows), self.columns.outer_within(larger.columns)

    def outer_of(self, x: Any) -> Any:
        """The tile with its halo, from a tensor or an array [B, h, w, C]."""
        return x[:, self.rows.outer, self.columns.outer]

    def inner_of(self, x: Any) -> Any:
        """The tile without its halo, from a tensor or an array [B, h, w, C]."""
        return x[:, self.rows.inner, self.columns.inner]


def _length(positions: slice) -> int:
    return int(positions.stop - positions.start)


def whole_tile(grid: tuple[int, int]) -> Tile:
    """A whole grid as one tile, without a halo."""
    rows, columns = (slice(0, side) for side in grid)
    return Tile(Span(rows, rows), Span(columns, columns))


def tiles(
    grid: tuple[int, int], tile: int, halo: int, rows: range | None = None, columns: range | None = None
) -> list[Tile]:
    """Divide a grid, or some of its rows and columns, into tiles, row after row. `tile` and `halo`: see `_spans`."""
    down = _spans(rows or range(grid[0]), grid[0], tile, halo)
    across = list(_spans(columns or range(grid[1]), grid[1], tile, halo))
    return [Tile(*pair) for pair in product(down, across)]
