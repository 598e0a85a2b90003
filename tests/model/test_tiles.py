"""Tiles of a latent grid: output ranges that cover it once, and halos that end at its border."""

import pytest
import torch

from ulcodec.model.tiles import Span, Tile, tiles, whole_tile

GRID = (11, 7)
HALO = 3


@pytest.mark.parametrize("tile", [1, 4, 16])
def test_tiles_cover_the_grid_once(tile: int) -> None:
    counts = torch.zeros(1, *GRID, 1)
    for current in tiles(GRID, tile, HALO):
        current.inner_of(counts).add_(1)
    assert bool((counts == 1).all())


def test_tiles_of_an_area_begin_at_multiples_of_the_tile_size() -> None:
    rows = [tile.rows.inner for tile in tiles(GRID, 4, HALO, range(3, 9), range(2, 3))]
    assert rows == [slice(3, 4), slice(4, 8), slice(8, 9)]


def test_halos_end_at_the_border_of_the_grid() -> None:
    spans = [tile.rows for tile in tiles(GRID, 4, HALO, columns=range(1))]
    assert [span.outer for span in spans] == [slice(0, 7), slice(1, 11), slice(5, 11)]
    assert [span.within for span in spans] == [slice(0, 4), slice(3, 7), slice(3, 6)]


def test_spans_are_cropped_and_scaled() -> None:
    span = Span(inner=slice(4, 8), outer=slice(1, 11))
    smaller = span.crop_halo(1)
    assert smaller == Span(slice(4, 8), slice(3, 9))
    assert smaller.crop_halo(HALO) == smaller, "a crop never widens the halo"
    assert smaller.outer_within(span) == slice(2, 8)
    assert smaller.scaled(2) == Span(slice(8, 16), slice(6, 18))


def test_cropped_tile_selects_the_same_positions() -> None:
    x = torch.arange(GRID[0] * GRID[1]).view(1, *GRID, 1)
    for tile in tiles(GRID, 4, HALO):
        smaller = tile.crop_halo(1)
        rows, columns = smaller.outer_within(tile)
        assert torch.equal(tile.outer_of(x)[:, rows, columns], smaller.outer_of(x))
        within = tile.outer_of(x)[:, tile.rows.within, tile.columns.within]
        assert torch.equal(within, tile.inner_of(x))


def test_whole_grid_is_one_tile_without_a_halo() -> None:
    whole = whole_tile(GRID)
    assert whole == Tile(Span(slice(0, 11), slice(0, 11)), Span(slice(0, 7), slice(0, 7)))
    assert whole.inner_grid == whole.outer_grid == GRID
