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

from ulcodec.codec.effort import Refined
from ulcodec.codec.loaded import LoadedModel
from ulcodec.codec.networks import Array
from ulcodec.codec.pixels import in_bins, in_pixels
from ulcodec.codec.tensors import channels_first, latent_tensor, quality_tensor, to_tensor
from ulcodec.coding.latents import DecodedLatent, LatentCoder, encode_latent, hyper_grid
from ulcodec.devices import coding_arithmetic
from ulcodec.model.distortion import CURVATURE_BITS
from ulcodec.model.likelihood import predict_all_passes, unit_bin_bits
from ulcodec.model.tiles import Tile, tiles
from ulcodec.model.unified import EntropyModel, UnifiedLatentModel
from ulcodec.progress import tracked

CURVATURE_RANGE = (6.0, 20.0)
"""Limits on the measurement of the curvature, whose first guess is `CURVATURE_BITS`."""

THRIFT = 1.2
"""Thrift of the symbols (see `encode_latents`): the gradient already accounts for the effect of an error on other
elements."""

STILL_SCALE = 0.15
"""Predicted standard deviation in bins below which an element of a picture has no gradient.

Such elements are almost surely zero, and so they were when the decoder was trained: its response to other values is
large and means nothing. Residuals of predicted frames are added to latents that are not zero."""

GRADIENT_TILE, GRADIENT_HALO = 64, 16
"""Latent positions per side of the tiles that gradients are computed for, and around them; multiples of 4."""


class Base(NamedTuple):
    """What a refined latent is added to: a latent [h, w, C] in bins, and a picture [H, W, 3] behind the decoder."""

    y: Array
    picture: Array


@dataclass(frozen=True)
class Target:
    """What a latent is refined for: the original uint8 or uint16 [H, W, 3] or [H, W] at a quality from 0 to 100.

    `entropy_model`, `coder`: the float networks and the integers that code the latent. `base`: of a predicted frame.
    """

    model: UnifiedLatentModel
    entropy_model: EntropyModel
    device: torch.device
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
        x = to_tensor(original, y.device)[0]
        if self.base is not None:
            y = y + channels_first(tile.outer_of(self.base.y[None]), y.device)
        decoded = self.model.decoder.trunk(y, quality_tensor(self.quality, y.device))[1][0, :, :height, :width]
        if self.base is not None:
            decoded = decoded + channels_first(self.base.picture[None, rows, columns], y.device)[0]
        decoded = decoded.clamp(0, 1)
        x_hat = decoded.mean(0, keepdim=True) if original.ndim == 2 else decoded
        weighted: Tensor = self.model.config.lagrangian(self.quality / 100) * 255**2 * (x - x_hat).square().mean(0)
        return weighted


class Slope(NamedTuple):
    """Weighted squared error of the decoded picture in bits, and the loss's gradient in bits per bin.

    The gradient is a tensor [h, w, C] on the CPU.
    """

    error_bits: float
    gradient: Tensor


def refine(target: Target, latent: Array, hyper: Array, n_steps: int) -> Refined:
    """Refine a latent [h, w, C] in `n_steps`; return the best one found.

    Each step starts at the restored latent and goes down the gradient, with more damping from step to step.
    """
    curvature, least_loss, best, grid = CURVATURE_BITS, math.inf, None, (latent.shape[0], latent.shape[1])
    previous: tuple[Tensor, Tensor] | None = None
    with torch.inference_mode(False):  # an inference mode of the caller would disable gradients
        for step in tracked(range(n_steps + 1), "refining: step {} of {}"):
            thrift = THRIFT if step else 1.0
            coded, gradient = encode_latent(target.coder, latent, hyper, target.quality, thrift), None
            if step < n_steps:
                error_bits, gradient = slope(target, coded.latent, grid)
            else:
                error_bits = decoding_error(target, coded.latent, grid)
            loss = 8 * sum(map(len, coded.segments)) + error_bits
            if best is None or loss < least_loss:
                least_loss, best = loss, Refined(latent, coded.segments, coded.symbol_check, thrift)
            if gradient is not None:
                restored = torch.from_numpy(in_bins(coded.latent.y_16, grid)[0])
                if previous is not None:
                    curvature = measured_curvature(restored - previous[0], gradient - previous[1])
                previous = restored, gradient
                better = restored - gradient / (2 * curvature)
                latent = torch.lerp(torch.from_numpy(latent), better, damping(step)).numpy()
    assert best is not None
    return best


def refine_picture(
    loaded: LoadedModel, pixels: np.ndarray, y: Array, hyper: Array, quality: int, n_steps: int
) -> Refined:
    """Refine the latent of a picture, see `refine` and `Target`."""
    networks = loaded.torch_networks("refinement along gradients")
    target = Target(networks.model, networks.model, networks.device, loaded.coder, pixels, quality)
    return refine(target, y, hyper, n_steps)


def refine_residual(
    loaded: LoadedModel, pixels: np.ndarray, base: Base, residual: Array, hyper: Array, quality: int, n_steps: int
) -> Refined:
    """Refine the latent of a predicted frame, which is added to `base`."""
    networks = loaded.torch_networks("refinement along gradients")
    models, coder = (networks.model, networks.residual_model), loaded.residual_coder
    return refine(Target(*models, networks.device, coder, pixels, quality, base), residual, hyper, n_steps)


def measured_curvature(step: Tensor, gradient_change: Tensor) -> float:
    """Measure half the second derivative along a step, in bits per squared bin, within `CURVATURE_RANGE`."""
    curvature = float((step * gradient_change).sum() / (2 * step.square().sum()).clamp(min=1e-9))
    return min(max(curvature, CURVATURE_RANGE[0]), CURVATURE_RANGE[1])


def damping(step: int) -> float:
    """Share of a step, counted from 0, that is taken."""
    return 0.4 / (1 + step / 8)


def slope(target: Target, latent: DecodedLatent, grid: tuple[int, int]) -> Slope:
    """Differentiate the loss at a restored latent, tile by tile: error exactly, bits as if a tile were the picture.

    The gradient of elements of a picture that are surely zero (`STILL_SCALE`) is set to zero.
    """
    device, error_bits, entropy_model = target.device, 0.0, target.entropy_model
    gradient = torch.empty(*grid, entropy_model.config.latent_channels, dtype=torch.float32, device="cpu")
    qualities = quality_tensor(target.quality, device)
    for tile in tiles(grid, GRADIENT_TILE, GRADIENT_HALO):
        y, hyper = _tile_latent(latent, grid, tile, device), _tile_hyper(latent, grid, tile, device)
        with torch.enable_grad(), coding_arithmetic(y.device):
            y.requires_grad_(True)
            error = target.error_map(y, tile)
            hyper_features = entropy_model.hyper_decoder(hyper, qualities, tile.outer_grid)
            prediction = predict_all_passes(entropy_model, y, qualities, hyper_features)
            bits = unit_bin_bits(y.detach() - prediction.mean, prediction.log_scale)
            (tile_gradient,) = torch.autograd.grad(bits.sum() + error.sum(), y)
            if target.base is None:
                tile_gradient *= prediction.log_scale > math.log(STILL_SCALE)
        error_bits += float(_inner_pixels(error.detach(), tile).sum())
        inner = tile_gradient[0, :, tile.rows.within, tile.columns.within]
        gradient[tile.rows.inner, tile.columns.inner] = inner.permute(1, 2, 0)
    return Slope(error_bits, gradient)


def decoding_error(target: Target, latent: DecodedLatent, grid: tuple[int, int]) -> float:
    """Measure the weighted squared error alone, as in `slope`, in bits."""
    error_bits = 0.0
    for tile in tiles(grid, GRADIENT_TILE, GRADIENT_HALO):
        y = _tile_latent(latent, grid, tile, target.device)
        with torch.inference_mode(), coding_arithmetic(y.device):
            error_bits += float(_inner_pixels(target.error_map(y, tile), tile).sum())
    return error_bits


def _tile_latent(latent: DecodedLatent, grid: tuple[int, int], tile: Tile, device: torch.device) -> Tensor:
    """The latent of a tile's outer part: float32 [1, C, h, w] in bins."""
    y_16 = latent.y_16.reshape(*grid, -1)[tile.rows.outer, tile.columns.outer]
    return latent_tensor(y_16.reshape(-1, y_16.shape[2]), tile.outer_grid, device)


def _tile_hyper(latent: DecodedLatent, grid: tuple[int, int], tile: Tile, device: torch.device) -> Tensor:
    """The hyper-latent of a tile's outer part: float32 [1, C_hyper, ceil(h/4), ceil(w/4)] in bins."""
    rows, columns = (slice(span.outer.start // 4, -(-span.outer.stop // 4)) for span in tile)
    hyper_16 = latent.hyper_16.reshape(*hyper_grid(grid), -1)[rows, columns]
    return latent_tensor(hyper_16.reshape(-1, hyper_16.shape[2]), hyper_grid(tile.outer_grid), device)


def _inner_pixels(pixels: Tensor, tile: Tile) -> Tensor:
    """Pixels [H, W] of a tile without its halo."""
    return pixels[in_pixels(tile.rows.within), in_pixels(tile.columns.within)]
