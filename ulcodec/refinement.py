"""Refinement of a latent at encode time: fewer bits at equal quality for more work.

The encoder network gives a good latent at once; this looks for a better one for the picture at hand, as others do since
Campos et al. 2019 (content adaptive optimization). The loss is the training objective on what a decoder restores: the
bits of the file and the squared error of its picture. Its curvature is nearly the same for every element, since Unified
Latents give all of them the same noise, so that a gradient step of one fixed width serves all.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ulcodec.arrays import in_pixels, padded, to_tensor, unflattened
from ulcodec.devices import autocast
from ulcodec.latent_coding import DecodedLatent, LatentCoder, encode_latent, hyper_grid
from ulcodec.model.likelihood import reveal_predictions, unit_bin_bits
from ulcodec.model.tiles import Span, spans
from ulcodec.model.unified import UnifiedLatentModel

EFFORT_STEPS = (0, 1, 2, 3, 5, 8, 16, 32, 64)
"""Steps of refinement at effort 1 to 9."""

CURVATURE_BITS = 8.0
"""Bits that a squared quantisation step of error costs, half the second derivative of the loss. Measured: 6 to 7.6 for
the picture's error alone, with little between channels, and about 2 for predictions (docs/lab-notes.md)."""

TILE = 64
HALO = 16
"""Latent positions a side that a gradient is computed for at once, and around them, multiples of 4."""


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
) -> Tensor:
    """A latent like `y` [C, h, w] of `pixels` [H, W, 3] or [H, W] whose file is better: the best after up to `n_steps`.

    Steps go from the restored latent down the gradient, damped more from step to step.
    """
    least, best = math.inf, y
    for step in range(n_steps + 1):
        coded = encode_latent(coder, y, hyper, quality)
        error_bits, gradient = slope(model, pixels, coded.latent, (y.shape[1], y.shape[2]), quality)
        loss = 8 * sum(map(len, coded.segments)) + error_bits
        if loss < least:
            least, best = loss, y
        restored = coded.latent.y_16.T.reshape(y.shape) / 16
        target = restored - gradient / (2 * CURVATURE_BITS)
        y = torch.lerp(y, target, damping(step))
    return best


def damping(step: int) -> float:
    return 0.5 / (1 + step / 8)


def slope(
    model: UnifiedLatentModel, pixels: np.ndarray, latent: DecodedLatent, grid: tuple[int, int], quality: int
) -> Slope:
    """The loss around a restored latent, in tiles."""
    gradient = torch.empty(model.config.latent_channels, *grid, device=latent.y_16.device)
    error_bits = 0.0
    for rows in spans(range(grid[0]), grid[0], TILE, HALO):
        for columns in spans(range(grid[1]), grid[1], TILE, HALO):
            tile = slope_of_tile(model, pixels, latent, grid, quality, rows, columns)
            gradient[:, rows.inner, columns.inner] = tile.gradient
            error_bits += tile.error_bits
    return Slope(error_bits, gradient)


def slope_of_tile(
    model: UnifiedLatentModel,
    pixels: np.ndarray,
    latent: DecodedLatent,
    grid: tuple[int, int],
    quality: int,
    rows: Span,
    columns: Span,
) -> Slope:
    """The loss around the inner part of a tile: the squared error exactly, the bits as if the tile were the picture."""
    part = pixels[in_pixels(rows.outer), in_pixels(columns.outer)]
    height, width = part.shape[:2]
    y = latent.y_16.reshape(*grid, -1)[rows.outer, columns.outer]
    x = padded(to_tensor(part).to(y.device))
    at_64 = [slice(span.outer.start // 4, -(-span.outer.stop // 4)) for span in (rows, columns)]
    hyper = latent.hyper_16.reshape(*hyper_grid(grid), -1)[at_64[0], at_64[1]]
    known, hyper_known = (unflattened(z.flatten(0, 1), (z.shape[0], z.shape[1])) for z in (y, hyper))
    q = torch.tensor([quality / 100], device=latent.y_16.device)
    with torch.enable_grad(), autocast(y.device):
        known.requires_grad_(True)
        mean = model.decoder.trunk(known, q)[1].clamp(0, 1)
        shown = mean.mean(1, keepdim=True) if pixels.ndim == 2 else mean
        squared_error = (x - shown)[0, :, :height, :width].square().mean(0)
        error = model.config.lagrangian(quality / 100) * 255**2 * squared_error
        prediction = reveal_predictions(
            model, known, q, model.hyper_decoder(hyper_known, q, (known.shape[2], known.shape[3]))
        )
        bits = unit_bin_bits(known.detach() - prediction.mean, prediction.log_scale)
        (gradient,) = torch.autograd.grad(bits.sum() + error.sum(), known)
    inner = error.detach()[in_pixels(rows.within), in_pixels(columns.within)]
    return Slope(float(inner.sum()), gradient[0, :, rows.within, columns.within])
