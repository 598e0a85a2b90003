"""Refine a latent at encode time: fewer bits at equal quality for more work.

The encoder network gives a good latent at once; refinement looks for a better one for the picture at hand (content
adaptive optimisation, Campos et al. 2019). The loss is the training objective on what a decoder restores: the bits of
the file and the squared error of its picture. Unified Latents give every element the same noise. The curvature of the
loss is therefore nearly the same for every element, and one step width fits all. The first step assumes a typical
curvature; two gradients then measure it for this picture (Barzilai and Borwein 1988).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ulcodec.codec.loaded import LoadedModel
from ulcodec.codec.pixels import in_pixels, quality_tensor, to_tensor, unflattened
from ulcodec.coding.integer_prior import MEAN_GRID
from ulcodec.coding.latents import DecodedLatent, LatentCoder, encode_latent, hyper_grid
from ulcodec.devices import coding_arithmetic
from ulcodec.model.likelihood import predict_all_passes, unit_bin_bits
from ulcodec.model.tiles import Tile, tiles
from ulcodec.model.unified import EntropyModel, UnifiedLatentModel
from ulcodec.progress import tracked

EFFORT_STEPS = (0, 1, 2, 3, 5, 8, 16, 32, 64)
"""Refinement steps at effort 1 to 9."""

CURVATURE_BITS, CURVATURE_RANGE = 11.0, (6.0, 20.0)
"""Half the second derivative of the loss, in bits per squared bin: its first guess, and limits on its measurement.

Measured with the present weights: 9 to 15, more at low quality (docs/lab-notes/rate-distortion-optimisation.md)."""

THRIFT = 1.2
"""Thrift of the symbols (see `encode_latents`): the gradient already accounts for the effect of an error on other
elements."""

GRADIENT_TILE, GRADIENT_HALO = 64, 16
"""Latent positions per side of the tiles that gradients are computed for, and around them; multiples of 4."""


class Refined(NamedTuple):
    """A refined latent [C, h, w], its coded segments and symbol check, and the thrift that they were coded with."""

    y: Tensor
    segments: tuple[bytes, ...]
    symbol_check: int
    thrift: float


class Base(NamedTuple):
    """What a refined latent is added to: a latent [1, C, h, w] in bins, and a picture [3, H, W] behind the decoder."""

    y: Tensor
    picture: Tensor


@dataclass(frozen=True)
class Target:
    """What a latent is refined for: the original uint8 or uint16 [H, W, 3] or [H, W] at a quality from 0 to 100.

    `entropy_model`, `coder`: the float networks and the integers that code the latent. `base`: of a predicted frame.
    """

    model: UnifiedLatentModel
    entropy_model: EntropyModel
    coder: LatentCoder
    pixels: np.ndarray
    quality: int
    base: Base | None = None

    def error_map(self, y: Tensor, tile: Tile) -> Tensor:
        """Weighted squared error, in bits, of the picture that a tile's latent [1, C, h, w] decodes to.

        [H, W], without the padding at the border of the picture.
        """
        rows, columns = in_pixels(tile.rows.outer), in_pixels(tile.columns.outer)
        original = self.pixels[rows, columns]
        height, width = original.shape[:2]
        x = to_tensor(original)[0].to(y.device)
        if self.base is not None:
            y = y + self.base.y[:, :, tile.rows.outer, tile.columns.outer]
        decoded = self.model.decoder.trunk(y, quality_tensor(self.quality, y.device))[1][0, :, :height, :width]
        if self.base is not None:
            decoded = decoded + self.base.picture[:, rows, columns]
        decoded = decoded.clamp(0, 1)
        x_hat = decoded.mean(0, keepdim=True) if original.ndim == 2 else decoded
        weighted: Tensor = self.model.config.lagrangian(self.quality / 100) * 255**2 * (x - x_hat).square().mean(0)
        return weighted


class Slope(NamedTuple):
    """Weighted squared error of the decoded picture in bits, and the loss's gradient [C, h, w] in bits per bin."""

    error_bits: float
    gradient: Tensor


def refine(target: Target, y: Tensor, hyper: Tensor, n_steps: int) -> Refined:
    """Refine a latent [C, h, w] in `n_steps`; return the best one found.

    Each step starts at the restored latent and goes down the gradient, with more damping from step to step.
    """
    curvature, least_loss, best = CURVATURE_BITS, math.inf, None
    previous: tuple[Tensor, Tensor] | None = None
    with torch.inference_mode(False):  # an inference mode of the caller would disable gradients
        for step in tracked(range(n_steps + 1), "refining: step {} of {}"):
            thrift = THRIFT if step else 1.0
            coded = encode_latent(target.coder, y, hyper, target.quality, thrift)
            grid, gradient = (y.shape[1], y.shape[2]), None
            if step < n_steps:
                error_bits, gradient = slope(target, coded.latent, grid)
            else:
                error_bits = decoding_error(target, coded.latent, grid)
            loss = 8 * sum(map(len, coded.segments)) + error_bits
            if best is None or loss < least_loss:
                least_loss, best = loss, Refined(y, coded.segments, coded.symbol_check, thrift)
            if gradient is not None:
                restored = coded.latent.y_16.T.reshape(y.shape).float() / MEAN_GRID
                if previous is not None:
                    curvature = measured_curvature(restored - previous[0], gradient - previous[1])
                previous = restored, gradient
                y = torch.lerp(y, restored - gradient / (2 * curvature), damping(step))
    assert best is not None
    return best


def refine_picture(
    loaded: LoadedModel, pixels: np.ndarray, y: Tensor, hyper: Tensor, quality: int, n_steps: int
) -> Refined:
    """Refine the latent of a picture, see `refine` and `Target`."""
    return refine(Target(loaded.model, loaded.model, loaded.coder, pixels, quality), y, hyper, n_steps)


def measured_curvature(step: Tensor, gradient_change: Tensor) -> float:
    """Measure half the second derivative along a step, in bits per squared bin, within `CURVATURE_RANGE`."""
    curvature = float((step * gradient_change).sum() / (2 * step.square().sum()).clamp(min=1e-9))
    return min(max(curvature, CURVATURE_RANGE[0]), CURVATURE_RANGE[1])


def damping(step: int) -> float:
    """Share of a step, counted from 0, that is taken."""
    return 0.4 / (1 + step / 8)


def slope(target: Target, latent: DecodedLatent, grid: tuple[int, int]) -> Slope:
    """Differentiate the loss at a restored latent, tile by tile: error exactly, bits as if a tile were the picture."""
    device, error_bits, entropy_model = latent.y_16.device, 0.0, target.entropy_model
    gradient = torch.empty(entropy_model.config.latent_channels, *grid, dtype=torch.float32, device=device)
    qualities = quality_tensor(target.quality, device)
    for tile in tiles(grid, GRADIENT_TILE, GRADIENT_HALO):
        y, hyper = _tile_latent(latent, grid, tile), _tile_hyper(latent, grid, tile)
        with torch.enable_grad(), coding_arithmetic(y.device):
            y.requires_grad_(True)
            error = target.error_map(y, tile)
            hyper_features = entropy_model.hyper_decoder(hyper, qualities, tile.outer_grid)
            prediction = predict_all_passes(entropy_model, y, qualities, hyper_features)
            bits = unit_bin_bits(y.detach() - prediction.mean, prediction.log_scale)
            (tile_gradient,) = torch.autograd.grad(bits.sum() + error.sum(), y)
        error_bits += float(_inner_pixels(error.detach(), tile).sum())
        gradient[:, tile.rows.inner, tile.columns.inner] = tile_gradient[0, :, tile.rows.within, tile.columns.within]
    return Slope(error_bits, gradient)


def decoding_error(target: Target, latent: DecodedLatent, grid: tuple[int, int]) -> float:
    """Measure the weighted squared error alone, as in `slope`, in bits."""
    error_bits = 0.0
    for tile in tiles(grid, GRADIENT_TILE, GRADIENT_HALO):
        y = _tile_latent(latent, grid, tile)
        with torch.inference_mode(), coding_arithmetic(y.device):
            error_bits += float(_inner_pixels(target.error_map(y, tile), tile).sum())
    return error_bits


def _tile_latent(latent: DecodedLatent, grid: tuple[int, int], tile: Tile) -> Tensor:
    """The latent of a tile's outer part: float32 [1, C, h, w] in bins."""
    y_16 = latent.y_16.reshape(*grid, -1)[tile.rows.outer, tile.columns.outer].flatten(0, 1)
    return unflattened(y_16, tile.outer_grid)


def _tile_hyper(latent: DecodedLatent, grid: tuple[int, int], tile: Tile) -> Tensor:
    """The hyper-latent of a tile's outer part: float32 [1, C_hyper, ceil(h/4), ceil(w/4)] in bins."""
    rows, columns = (slice(span.outer.start // 4, -(-span.outer.stop // 4)) for span in tile)
    hyper_16 = latent.hyper_16.reshape(*hyper_grid(grid), -1)[rows, columns].flatten(0, 1)
    return unflattened(hyper_16, hyper_grid(tile.outer_grid))


def _inner_pixels(pixels: Tensor, tile: Tile) -> Tensor:
    """Pixels [H, W] of a tile without its halo."""
    return pixels[in_pixels(tile.rows.within), in_pixels(tile.columns.within)]
