"""Refinement of a latent at encode time: fewer bits at equal quality for more work.

The encoder network gives a good latent at once; this looks for a better one for the picture at hand, as others do since
Campos et al. 2019 (content adaptive optimization). The loss is the training objective on what a decoder restores: the
bits of the file and the squared error of its picture. Its curvature is nearly the same for every element, since Unified
Latents give all of them the same noise, so that a gradient step of one width serves all. The first step takes what is
typical; two gradients tell what it is for this picture (Barzilai and Borwein 1988).
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ulcodec.arrays import in_pixels, padded, quality_tensor, to_tensor, unflattened
from ulcodec.devices import autocast
from ulcodec.latent_coding import DecodedLatent, LatentCoder, encode_latent, hyper_grid
from ulcodec.model.integer import MEAN_GRID
from ulcodec.model.likelihood import reveal_predictions, unit_bin_bits
from ulcodec.model.tiles import Span, spans
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.progress import tracked

EFFORT_STEPS = (0, 1, 2, 3, 5, 8, 16, 32, 64)
"""Steps of refinement at effort 1 to 9."""

CURVATURE_BITS, CURVATURE_RANGE = 11.0, (6.0, 20.0)
"""Bits that a squared quantisation step of error costs, half the second derivative of the loss: at first, and within
what it is measured. Measured with the present weights: 9 to 15, more at low quality
(docs/lab-notes/rate-distortion-optimisation.md)."""

THRIFT = 1.2
"""Of the choice of symbols (see `encode_latents`): here the gradient pays for what an error costs other elements."""

TILE = 64
HALO = 16
"""Latent positions a side that a gradient is computed for at once, and around them, multiples of 4."""


class Refined(NamedTuple):
    """A latent [C, h, w] and what it is coded as, with which thrift."""

    y: Tensor
    segments: tuple[bytes, ...]
    symbol_check: int
    thrift: float


class Slope(NamedTuple):
    """Weighted squared error of the decoded picture in bits, and the loss's gradient [C, h, w] in bits a step."""

    error_bits: float
    gradient: Tensor


def refine(
    model: UnifiedLatentModel,
    coder: LatentCoder,
    pixels: np.ndarray,
    y: Tensor,
    hyper: Tensor,
    quality: int,
    n_steps: int,
) -> Refined:
    """A latent like `y` [C, h, w] of `pixels` [H, W, 3] or [H, W] whose file is better: the best after up to `n_steps`.

    Steps go from the restored latent down the gradient, damped more from step to step.
    """
    grid, curvature = (y.shape[1], y.shape[2]), CURVATURE_BITS
    least, best = math.inf, None
    before: tuple[Tensor, Tensor] | None = None
    for step in tracked(range(n_steps + 1), "refining: step {} of {}"):
        thrift = THRIFT if step else 1.0
        coded = encode_latent(coder, y, hyper, quality, thrift)
        gradient = None
        if step < n_steps:
            error_bits, gradient = slope(model, pixels, coded.latent, grid, quality)
        else:
            error_bits = decoding_error(model, pixels, coded.latent, grid, quality)
        loss = 8 * sum(map(len, coded.segments)) + error_bits
        if best is None or loss < least:
            least, best = loss, Refined(y, coded.segments, coded.symbol_check, thrift)
        if gradient is not None:
            restored = coded.latent.y_16.T.reshape(y.shape).float() / MEAN_GRID
            if before is not None:
                curvature = measured_curvature(restored - before[0], gradient - before[1])
            before = restored, gradient
            y = torch.lerp(y, restored - gradient / (2 * curvature), damping(step))
    assert best is not None
    return best


def measured_curvature(step: Tensor, gradient_change: Tensor) -> float:
    """Half the second derivative along a step, in bits a squared step, within `CURVATURE_RANGE`."""
    curvature = float((step * gradient_change).sum() / (2 * step.square().sum()).clamp(min=1e-9))
    return min(max(curvature, CURVATURE_RANGE[0]), CURVATURE_RANGE[1])


def damping(step: int) -> float:
    return 0.4 / (1 + step / 8)


def slope(
    model: UnifiedLatentModel, pixels: np.ndarray, latent: DecodedLatent, grid: tuple[int, int], quality: int
) -> Slope:
    """The loss around a restored latent, in tiles: squared error exactly, bits as if a tile were the picture."""
    device, error_bits = latent.y_16.device, 0.0
    gradient = torch.empty(model.config.latent_channels, *grid, dtype=torch.float32, device=device)
    q = quality_tensor(quality, device)
    for tile in tiles(grid):
        known = unflattened(tile.of(latent.y_16, grid), tile.grid)
        hyper = unflattened(tile.at_64(latent.hyper_16, grid), hyper_grid(tile.grid))
        with torch.enable_grad(), autocast(known.device):
            known.requires_grad_(True)
            error = error_map(model, pixels, known, quality, tile)
            prediction = reveal_predictions(model, known, q, model.hyper_decoder(hyper, q, tile.grid))
            bits = unit_bin_bits(known.detach() - prediction.mean, prediction.log_scale)
            (own,) = torch.autograd.grad(bits.sum() + error.sum(), known)
        error_bits += float(tile.inner(error.detach()).sum())
        gradient[:, tile.rows.inner, tile.columns.inner] = own[0, :, tile.rows.within, tile.columns.within]
    return Slope(error_bits, gradient)


def decoding_error(
    model: UnifiedLatentModel, pixels: np.ndarray, latent: DecodedLatent, grid: tuple[int, int], quality: int
) -> float:
    """The squared error alone, as in `slope`."""
    error_bits = 0.0
    for tile in tiles(grid):
        known = unflattened(tile.of(latent.y_16, grid), tile.grid)
        with torch.inference_mode(), autocast(known.device):
            error_bits += float(tile.inner(error_map(model, pixels, known, quality, tile)).sum())
    return error_bits


class Tile(NamedTuple):
    """A part of the latent grid with what surrounds it."""

    rows: Span
    columns: Span

    @property
    def grid(self) -> tuple[int, int]:
        rows, columns = self.rows.outer, self.columns.outer
        return rows.stop - rows.start, columns.stop - columns.start

    def of(self, latent_16: Tensor, grid: tuple[int, int]) -> Tensor:
        """The tile's positions [N, C] of a latent over the grid."""
        return latent_16.reshape(*grid, -1)[self.rows.outer, self.columns.outer].flatten(0, 1)

    def at_64(self, hyper_16: Tensor, grid: tuple[int, int]) -> Tensor:
        """Those of a hyper-latent."""
        rows, columns = (slice(span.outer.start // 4, -(-span.outer.stop // 4)) for span in (self.rows, self.columns))
        return hyper_16.reshape(*hyper_grid(grid), -1)[rows, columns].flatten(0, 1)

    def inner(self, pixels: Tensor) -> Tensor:
        """Without the surroundings: [H, W] -> [H, W]."""
        return pixels[in_pixels(self.rows.within), in_pixels(self.columns.within)]


def tiles(grid: tuple[int, int]) -> Iterator[Tile]:
    for rows in spans(range(grid[0]), grid[0], TILE, HALO):
        for columns in spans(range(grid[1]), grid[1], TILE, HALO):
            yield Tile(rows, columns)


def error_map(model: UnifiedLatentModel, pixels: np.ndarray, known: Tensor, quality: int, tile: Tile) -> Tensor:
    """Weighted squared error, in bits, of what a tile's latent [1, C, h, w] decodes to: [H, W] as far as the picture
    goes."""
    part = pixels[in_pixels(tile.rows.outer), in_pixels(tile.columns.outer)]
    height, width = part.shape[:2]
    x = padded(to_tensor(part).to(known.device))
    mean = model.decoder.trunk(known, quality_tensor(quality, known.device))[1].clamp(0, 1)
    shown = mean.mean(1, keepdim=True) if pixels.ndim == 2 else mean
    squared_error = (x - shown)[0, :, :height, :width].square().mean(0)
    weighted: Tensor = model.config.lagrangian(quality / 100) * 255**2 * squared_error
    return weighted
