"""Tiles of a latent grid with what surrounds them, so that large pictures take no more memory than a tile."""

from collections.abc import Iterator
from typing import NamedTuple


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
