"""The networks over tiles: pictures to latents and back, in memory that does not grow with the picture.

The size of a tile changes no number. B pictures of one latent grid go through the networks together.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ulcodec.codec.networks import Array, Networks
from ulcodec.codec.pixels import grid_of, in_bins, in_latents, in_pixels, padded, to_samples, to_unit_range
from ulcodec.codec.realism import POSTERIOR_MEAN, Realism
from ulcodec.coding.latents import DecodedLatent, SimulatedCoding, hyper_grid
from ulcodec.errors import ModelError
from ulcodec.format.container import THUMBNAIL_PX, Crop, Header, Layout
from ulcodec.memory import released
from ulcodec.model.config import PATCH_PX
from ulcodec.model.refiner_config import STEP_SHARE, STILL_TABLES
from ulcodec.model.tiles import Span, Tile, tiles
from ulcodec.progress import tracked

CODEC_TILE = 96
"""Latent positions per side of the tiles of encoder and decoder, a multiple of 4."""

HYPER_HALO = 4
"""Latent positions around a tile that the hyper-encoder needs, a multiple of 4."""

SAMPLE_TYPES = {8: np.uint8, 16: np.uint16}


def analyse(
    networks: Networks, pictures: Sequence[NDArray[Any]], quality: int, *, precise: bool = False
) -> tuple[Array, Array]:
    """Compute latents and hyper-latents of B pictures uint8 or uint16 [H, W, 3] or [H, W] of one latent grid.

    Returns float32 [B, h, w, C] and [B, ceil(h/4), ceil(w/4), C_hyper] in bins. `precise`: compute in float32
    everywhere.
    """
    config, (h, w) = networks.config, grid_of(*pictures[0].shape[:2])
    y = np.empty((len(pictures), h, w, config.latent_channels), np.float32)
    hyper = np.empty((len(pictures), *hyper_grid((h, w)), config.hyper_channels), np.float32)
    for tile in released(tracked(tiles((h, w), CODEC_TILE, HYPER_HALO + networks.encoder_halo))):
        rows, columns = (in_pixels(span.outer) for span in tile)
        x = np.stack([padded(to_unit_range(pixels[rows, columns])) for pixels in pictures])
        y_tile, hyper_tile = networks.analyse(x, quality, tile, HYPER_HALO, precise=precise)
        _write_tile(tile, y_tile, hyper_tile, y, hyper)
    return y, hyper


def _write_tile(tile: Tile, y_tile: Array, hyper_tile: Array, y: Array, hyper: Array) -> None:
    """Write the latents of a tile's inner part into `y` and `hyper`."""
    near = tile.crop_halo(HYPER_HALO)
    y[:, tile.rows.inner, tile.columns.inner] = y_tile[:, near.rows.within, near.columns.within]
    (rows, rows_in_tile), (columns, columns_in_tile) = (_hyper_spans(span) for span in near)
    hyper[:, rows, columns] = hyper_tile[:, rows_in_tile, columns_in_tile]


def _hyper_spans(span: Span) -> tuple[slice, slice]:
    """Hyper-latent positions of a span's inner part: in the grid, and in the output for the span."""
    target = slice(span.inner.start // 4, -(-span.inner.stop // 4))
    first = span.within.start // 4
    return target, slice(first, first + target.stop - target.start)


def synthesise(
    networks: Networks,
    latents: Sequence[DecodedLatent],
    headers: Sequence[Header],
    crop: Crop | None = None,
    realism: Realism = POSTERIOR_MEAN,
    *,
    precise: bool = False,
) -> list[NDArray[Any]]:
    """Decode latents of one grid and quality to pictures, or to a crop of each, as their headers say.

    Returns uint8 or uint16 [H, W, 3] or [H, W]. `precise`: compute in float32 everywhere.
    """
    grid, halo = grid_of(headers[0].height, headers[0].width), networks.decoder_halo(realism)
    y_16 = [latent.y_16.reshape(*grid, -1) for latent in latents]
    areas = [crop or (0, 0, header.width, header.height) for header in headers]
    pictures = [_empty_picture(header, area) for header, area in zip(headers, areas, strict=True)]
    rows, columns = (in_latents(side) for side in _sides(areas[0]))
    for tile in released(tracked(tiles(grid, CODEC_TILE, halo, rows, columns))):
        y = np.concatenate([_bins_of(part[None], tile) for part in y_16])
        decoded = networks.synthesise(y, headers[0].quality, tile, realism, precise=precise)
        for picture, header, area, x in zip(pictures, headers, areas, decoded, strict=True):
            spans = (_overlap(*pair) for pair in zip(tile, _sides(area), strict=True))
            (rows_in_tile, columns_in_tile), place = zip(*spans, strict=True)
            picture[place] = to_samples(x[rows_in_tile, columns_in_tile], header.layout, header.bit_depth)
    return pictures


def _bins_of(y_16: NDArray[np.int32], tile: Tile) -> Array:
    """The latents of a tile's outer part in bins, from sixteenths of a bin: [B, h, w, C]."""
    outer: NDArray[np.int32] = tile.outer_of(y_16)
    return in_bins(outer.reshape(-1, outer.shape[3]), tile.outer_grid)


def refined_latents(
    networks: Networks, pictures: Sequence[NDArray[Any]], y: Array, quality: int, coded: SimulatedCoding
) -> Array:
    """Move latents y [B, h, w, C] in bins by the refiner's steps, except for elements that are surely zero.

    `pictures`: the originals, as in `analyse`. `coded`: what a decoder would restore of y. Raises ModelError for steps
    that are not finite.
    """
    grid, halo = (y.shape[1], y.shape[2]), networks.refiner_halo or 0
    refined = np.empty_like(y)
    for tile in released(tracked(tiles(grid, CODEC_TILE, halo + networks.decoder_halo(POSTERIOR_MEAN)))):
        near = tile.crop_halo(halo)
        decoded = networks.synthesise(_bins_of(coded.y_16, tile), quality, tile.widened(halo), POSTERIOR_MEAN)
        error, latent = _picture_errors(pictures, decoded, near), _bins_of(coded.y_16, near)
        rounding_error = (latent - near.outer_of(y)) * (near.outer_of(coded.tables) >= STILL_TABLES)
        step = networks.refine(latent, rounding_error, error, quality, near)
        if not np.isfinite(step).all():
            raise ModelError("the refiner's steps are not finite: its weights are damaged")
        step *= STEP_SHARE * (tile.inner_of(coded.tables) >= STILL_TABLES).astype(np.float32)
        np.add(tile.inner_of(y), step, out=tile.inner_of(refined))
    return refined


def _picture_errors(pictures: Sequence[NDArray[Any]], decoded: Array, tile: Tile) -> Array:
    """Originals minus decoded pictures, [B, 16h, 16w, 3], of a tile's outer part; 0 outside of the pictures."""
    errors = np.zeros(decoded.shape, np.float32)
    rows, columns = (in_pixels(span.outer) for span in tile)
    for error, pixels, x_hat in zip(errors, pictures, decoded, strict=True):
        x = to_unit_range(pixels[rows, columns])
        height, width = x.shape[:2]
        visible = x_hat[:height, :width]
        if pixels.ndim == 2:
            visible = visible.mean(2, keepdims=True)
        error[:height, :width] = x - visible.clip(0, 1)
    return errors


def posterior_means(networks: Networks, y: Array, quality: int) -> Array:
    """Decode latents y [B, h, w, C] in bins, in float32 everywhere: [B, 16h, 16w, 3] about [0, 1]."""
    batch, *grid, _ = y.shape
    pictures = np.empty((batch, *(side * PATCH_PX for side in grid), 3), np.float32)
    for tile in released(tracked(tiles((grid[0], grid[1]), CODEC_TILE, networks.decoder_halo(POSTERIOR_MEAN)))):
        rows, columns = (in_pixels(span.inner) for span in tile)
        latent = np.ascontiguousarray(tile.outer_of(y))
        pictures[:, rows, columns] = networks.synthesise(latent, quality, tile, POSTERIOR_MEAN, precise=True)
    return pictures


def synthesise_thumbnail(networks: Networks, latent: DecodedLatent, header: Header) -> NDArray[Any]:
    """Decode a latent at 1/8 of the picture's size, sides rounded up, by the linear transform alone."""
    y = in_bins(latent.y_16, grid_of(header.height, header.width))
    height, width = (-(-side // THUMBNAIL_PX) for side in (header.height, header.width))
    small = networks.synthesise_thumbnail(y, header.quality)[0, :height, :width]
    return to_samples(small, header.layout, header.bit_depth)


def _sides(area: Crop) -> tuple[range, range]:
    """Rows and columns of an area."""
    left, top, width, height = area
    return range(top, top + height), range(left, left + width)


def _empty_picture(header: Header, area: Crop) -> NDArray[Any]:
    shape = tuple(map(len, _sides(area)))
    return np.empty(shape if header.layout is Layout.GREY else (*shape, 3), SAMPLE_TYPES[header.bit_depth])


def _overlap(span: Span, side: range) -> tuple[slice, slice]:
    """Pixels of a tile that lie in a side of the area: their place in `span.inner`, and in the result."""
    first = max(span.inner.start * PATCH_PX, side.start)
    last = min(span.inner.stop * PATCH_PX, side.stop)
    origin = span.inner.start * PATCH_PX
    return slice(first - origin, last - origin), slice(first - side.start, last - side.start)
