"""The networks over tiles: pictures to latents and back, in memory that does not grow with the picture.

The size of a tile changes no number. B pictures of one latent grid go through the networks together.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ulcodec.codec.pixels import (
    grid_of,
    in_latents,
    in_pixels,
    padded,
    quality_tensor,
    to_pixels,
    to_tensor,
    unflattened,
)
from ulcodec.codec.realism import Realism
from ulcodec.coding.latents import DecodedLatent, hyper_grid
from ulcodec.devices import coding_arithmetic
from ulcodec.format.container import THUMBNAIL_PX, Crop, Header, Layout
from ulcodec.memory import released
from ulcodec.model.config import PATCH_PX
from ulcodec.model.tiles import Span, Tile, tiles
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.progress import tracked

CODEC_TILE = 96
"""Latent positions per side of the tiles of encoder and decoder, a multiple of 4."""

HYPER_HALO = 4
"""Latent positions around a tile that the hyper-encoder needs, a multiple of 4."""

POSTERIOR_MEAN = Realism()
SAMPLE_TYPES = {8: np.uint8, 16: np.uint16}


def analyse(
    model: UnifiedLatentModel,
    device: torch.device,
    pictures: Sequence[np.ndarray],
    quality: int,
    *,
    precise: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute latents and hyper-latents of B pictures uint8 or uint16 [H, W, 3] or [H, W] of one latent grid.

    Returns float32 [B, C, h, w] and [B, C_hyper, ceil(h/4), ceil(w/4)] in bins, channels last in memory: the order in
    which they are coded. `precise`: compute in float32 everywhere.
    """
    config, encoder, (h, w) = model.config, model.encoder, grid_of(*pictures[0].shape[:2])
    as_float32: dict[str, Any] = {"dtype": torch.float32, "device": device}
    shape = len(pictures), config.latent_channels, h, w
    y = torch.empty(shape, memory_format=torch.channels_last, **as_float32)
    hyper = torch.empty(len(pictures), config.hyper_channels, *hyper_grid((h, w)), **as_float32)
    qualities = quality_tensor(quality, device)
    for tile in released(tracked(tiles((h, w), CODEC_TILE, HYPER_HALO + encoder.halo))):
        rows, columns = (in_pixels(span.outer) for span in tile)
        crops = [padded(to_tensor(pixels[rows, columns])) for pixels in pictures]
        x = crops[0] if len(crops) == 1 else torch.cat(crops)
        with torch.inference_mode(), coding_arithmetic(device, precise=precise):
            y_tile, unit_latent = model.encoder(x.to(device), qualities, tile, HYPER_HALO)
            hyper_tile = model.hyper_encoder(unit_latent, qualities)
        _write_tile(tile, y_tile, hyper_tile, y, hyper)
    return y, hyper


def _write_tile(tile: Tile, y_tile: Tensor, hyper_tile: Tensor, y: Tensor, hyper: Tensor) -> None:
    """Write the latents of a tile's inner part into `y` and `hyper`."""
    near = tile.crop_halo(HYPER_HALO)
    y[:, :, tile.rows.inner, tile.columns.inner] = y_tile[:, :, near.rows.within, near.columns.within]
    (rows, rows_in_tile), (columns, columns_in_tile) = (_hyper_spans(span) for span in near)
    hyper[:, :, rows, columns] = hyper_tile[:, :, rows_in_tile, columns_in_tile]


def _hyper_spans(span: Span) -> tuple[slice, slice]:
    """Hyper-latent positions of a span's inner part: in the grid, and in the output for the span."""
    target = slice(span.inner.start // 4, -(-span.inner.stop // 4))
    first = span.within.start // 4
    return target, slice(first, first + target.stop - target.start)


def synthesise(
    model: UnifiedLatentModel,
    device: torch.device,
    latents: Sequence[DecodedLatent],
    headers: Sequence[Header],
    crop: Crop | None = None,
    realism: Realism = POSTERIOR_MEAN,
    *,
    precise: bool = False,
) -> list[np.ndarray]:
    """Decode latents of one grid and quality to pictures, or to a crop of each, as their headers say.

    Returns uint8 or uint16 [H, W, 3] or [H, W]. `precise`: compute in float32 everywhere.
    """
    trunk, grid = model.decoder.trunk, grid_of(headers[0].height, headers[0].width)
    y_16 = [latent.y_16.reshape(*grid, -1) for latent in latents]
    quality = quality_tensor(headers[0].quality, device)
    areas = [crop or (0, 0, header.width, header.height) for header in headers]
    pictures = [_empty_picture(header, area) for header, area in zip(headers, areas, strict=True)]
    kept_halo = realism.halo(model.config) if realism.share else 0
    rows, columns = (in_latents(side) for side in _sides(areas[0]))
    for tile in released(tracked(tiles(grid, CODEC_TILE, trunk.halo + kept_halo, rows, columns))):
        y = unflattened(torch.cat([tile.outer_of(part[None]).flatten(0, 2) for part in y_16]), tile.outer_grid)
        with torch.inference_mode(), coding_arithmetic(device, precise=precise):
            decoded = _synthesise_tile(model, y, quality, tile, kept_halo, realism)
        for picture, header, area, x in zip(pictures, headers, areas, decoded, strict=True):
            spans = zip(tile.crop_halo(kept_halo), _sides(area), strict=True)
            (rows_in_tile, columns_in_tile), place = zip(*(_overlap(*pair) for pair in spans), strict=True)
            picture[place] = to_pixels(x[:, rows_in_tile, columns_in_tile], header.layout, header.bit_depth)
    return pictures


def _synthesise_tile(
    model: UnifiedLatentModel, y: Tensor, quality: Tensor, tile: Tile, kept_halo: int, realism: Realism
) -> Tensor:
    """Decode a tile and `kept_halo` positions around it to [B, 3, H, W], from its outer latents y [B, C, h, w]."""
    pictures: Tensor
    features, pictures = model.decoder.trunk(y, quality, tile, kept_halo)
    if realism.share:
        pixels = (in_pixels(span.outer) for span in tile.crop_halo(kept_halo))
        rows, columns = (range(side.start, side.stop) for side in pixels)
        pictures = realism.draw(model.decoder.denoiser, features, pictures, rows, columns)
    return pictures


def posterior_means(model: UnifiedLatentModel, y: Tensor, quality: int) -> Tensor:
    """Decode latents y [B, C, h, w] float32 in bins, in float32 everywhere: [B, 3, 16h, 16w] about [0, 1]."""
    trunk, (batch, _, *grid) = model.decoder.trunk, y.shape
    pictures = torch.empty(batch, 3, *(side * PATCH_PX for side in grid), dtype=torch.float32, device=y.device)
    qualities = quality_tensor(quality, y.device)
    for tile in released(tracked(tiles((grid[0], grid[1]), CODEC_TILE, trunk.halo))):
        rows, columns = (in_pixels(span.inner) for span in tile)
        with torch.inference_mode(), coding_arithmetic(y.device, precise=True):
            _, pictures[:, :, rows, columns] = trunk(y[:, :, tile.rows.outer, tile.columns.outer], qualities, tile)
    return pictures


def synthesise_thumbnail(
    model: UnifiedLatentModel, device: torch.device, latent: DecodedLatent, header: Header
) -> np.ndarray:
    """Decode a latent at 1/8 of the picture's size, sides rounded up, by the linear transform alone."""
    y = unflattened(latent.y_16, grid_of(header.height, header.width))
    with torch.inference_mode(), coding_arithmetic(device, precise=True):
        small = model.decoder.trunk.thumbnail(y, quality_tensor(header.quality, device))[0]
    height, width = (-(-side // THUMBNAIL_PX) for side in (header.height, header.width))
    return to_pixels(small[:, :height, :width], header.layout, header.bit_depth)


def _sides(area: Crop) -> tuple[range, range]:
    """Rows and columns of an area."""
    left, top, width, height = area
    return range(top, top + height), range(left, left + width)


def _empty_picture(header: Header, area: Crop) -> np.ndarray:
    shape = tuple(map(len, _sides(area)))
    return np.empty(shape if header.layout is Layout.GREY else (*shape, 3), SAMPLE_TYPES[header.bit_depth])


def _overlap(span: Span, side: range) -> tuple[slice, slice]:
    """Pixels of a tile that lie in a side of the area: their place in `span.outer`, and in the result."""
    first = max(span.inner.start * PATCH_PX, side.start)
    last = min(span.inner.stop * PATCH_PX, side.stop)
    origin = span.outer.start * PATCH_PX
    return slice(first - origin, last - origin), slice(first - side.start, last - side.start)
