"""Random changes of crops, computed on the device that holds the pictures."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ulcodec.train.data.crops import RowsOf, whole
from ulcodec.train.data.pictures import PictureSet

REDUCED_SHARE = 0.5
"""Share of the crops that are reduced."""


@dataclass(frozen=True)
class AugmentedPictures:
    """Pictures whose random crops are reduced and turned at random.

    `reduction`: largest factor by which a crop is reduced, at least 1. `turns`: half of the crops are also transposed,
    and half are upside down, so that all eight orientations occur.
    """

    pictures: PictureSet
    reduction: float
    turns: bool

    @property
    def device(self) -> torch.device:
        return self.pictures.device

    def __len__(self) -> int:
        return len(self.pictures)

    def to(self, device: torch.device) -> "AugmentedPictures":
        return AugmentedPictures(self.pictures.to(device), self.reduction, self.turns)

    def random_crops(self, count: int, crop_px: int, generator: torch.Generator, rows_of: RowsOf = whole) -> Tensor:
        """Draw random crops, half of them mirrored, as float32 [B, 3, crop, crop] in [0, 1]; `rows_of` selects B of
        `count`.

        Reduced crops are rounded to 8 bits, as the others are.
        """

        def draw() -> Tensor:
            return rows_of(torch.rand(count, generator=generator, device=self.device))

        chosen = (draw() * len(self)).long()
        sides = self.pictures.heights[chosen], self.pictures.widths[chosen]
        factors = reduction_factors(draw(), (torch.minimum(*sides) / crop_px).clamp(max=self.reduction))
        extents, window_px = (factors * crop_px).ceil(), math.ceil(crop_px * self.reduction)
        rows, columns = (positions(draw(), side, extents, window_px) for side in sides)
        crops = self.pictures.gather(chosen, rows, columns).permute(0, 3, 1, 2).float()
        if self.reduction > 1:
            crops = reduced(crops, factors, crop_px, crop_px)
        crops = where(draw() < 0.5, crops.flip(3), crops)
        if self.turns:
            crops = where(draw() < 0.5, crops.flip(2), crops)
            crops = where(draw() < 0.5, crops.mT, crops)
        return crops / 255


def reduction_factors(draws: Tensor, largest: Tensor) -> Tensor:
    """Map uniform numbers in [0, 1) to factors: 1, or for `REDUCED_SHARE` of them uniform up to `largest`; all [B]."""
    return 1 + (largest - 1) * ((draws - (1 - REDUCED_SHARE)) / REDUCED_SHARE).clamp(min=0)


def positions(draws: Tensor, sides: Tensor, extents: Tensor, window_px: int) -> Tensor:
    """Place windows, of which the first `extents` pixels lie within the side of a picture: int64 [B, window].

    The positions of other pixels are clamped to the side. All arguments are [B].
    """
    first = (draws * (sides - extents + 1)).long()
    return torch.minimum(first[:, None] + torch.arange(window_px, device=draws.device), sides[:, None] - 1)


def reduced(x: Tensor, factors: Tensor, height: int, width: int) -> Tensor:
    """Average areas of pictures [B, C, H, W], in levels of 8 bits: [B, C, height, width] from the upper left on.

    `factors`: of each picture [B], or a single one. The result is rounded to whole levels.
    """
    down, across = area_weights(factors, height, x.shape[2]), area_weights(factors, width, x.shape[3])
    return (down[:, None] @ x @ across[:, None].mT).round()


def area_weights(factors: Tensor, length: int, window: int) -> Tensor:
    """Weights of pixels that an area reduction averages, [B, length, window], for factors [B] or a single one.

    Reduced pixel i covers the pixels from `i factor` to `(i + 1) factor`.
    """
    device, factors = factors.device, factors.reshape(-1, 1, 1)
    first = torch.arange(length, device=device)[:, None] * factors
    pixels = torch.arange(window, device=device)
    overlap = torch.minimum(first + factors, pixels + 1) - torch.maximum(first, pixels)
    return overlap.clamp(min=0) / factors


def where(chosen: Tensor, changed: Tensor, crops: Tensor) -> Tensor:
    """Take the chosen [B] crops from `changed`, the others from `crops`."""
    return torch.where(chosen[:, None, None, None], changed, crops)
