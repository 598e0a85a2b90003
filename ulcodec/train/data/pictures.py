"""A set of pictures or latents in one tensor, and random crops from it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class PictureSet:
    """Pictures of any sizes in one tensor: `pixels` uint8 [sum of H W, 3]; heights, widths, starts int64 [N].

    Or latents in the same order: floats [sum of h w, C].
    """

    pixels: Tensor
    heights: Tensor
    widths: Tensor
    starts: Tensor

    def __len__(self) -> int:
        return len(self.heights)

    def to(self, device: torch.device) -> "PictureSet":
        return PictureSet(*(part.to(device) for part in (self.pixels, self.heights, self.widths, self.starts)))

    def picture(self, index: int) -> Tensor:
        """uint8 [H, W, 3]"""
        height, width, start = int(self.heights[index]), int(self.widths[index]), int(self.starts[index])
        return self.pixels[start : start + height * width].reshape(height, width, 3)

    def random_windows(
        self,
        count: int,
        side: int,
        generator: torch.Generator,
        rows_of: Callable[[Tensor], Tensor] = lambda whole: whole,
        mirrored: bool = False,
    ) -> Tensor:
        """Draw square windows of random pictures, of the stored dtype [count, side, side, C].

        `rows_of` selects rows out of `count`, for a worker; `mirrored` flips half of the windows left-right.
        """
        device = self.pixels.device

        def draw() -> Tensor:
            return rows_of(torch.rand(count, generator=generator, device=device))

        chosen = (draw() * len(self)).long()
        widths = self.widths[chosen]
        tops = (draw() * (self.heights[chosen] - side + 1)).long()
        lefts = (draw() * (widths - side + 1)).long()
        columns = torch.arange(side, device=device).expand(len(chosen), side)
        if mirrored:
            columns = torch.where(draw()[:, None] < 0.5, columns, columns.flip(1))
        columns = columns + lefts[:, None]
        rows = (torch.arange(side, device=device) + tops[:, None]) * widths[:, None] + self.starts[chosen][:, None]
        return self.pixels[rows[:, :, None] + columns[:, None, :]]

    def random_crops(
        self,
        count: int,
        crop_px: int,
        generator: torch.Generator,
        rows_of: Callable[[Tensor], Tensor] = lambda whole: whole,
    ) -> Tensor:
        """Draw random windows, half of them mirrored, as float32 [count, 3, crop, crop] in [0, 1]."""
        crops = self.random_windows(count, crop_px, generator, rows_of, mirrored=True)
        return crops.permute(0, 3, 1, 2).float() / 255


def join(sets: list[PictureSet]) -> PictureSet:
    """Join several sets."""
    offsets = np.concatenate(([0], np.cumsum([len(part.pixels) for part in sets])[:-1]))
    return PictureSet(
        torch.cat([part.pixels for part in sets]),
        torch.cat([part.heights for part in sets]),
        torch.cat([part.widths for part in sets]),
        torch.cat([part.starts + int(offset) for part, offset in zip(sets, offsets, strict=True)]),
    )


def pack(pictures: list[np.ndarray]) -> PictureSet:
    """Pack arrays [H, W, C] of one dtype into a set."""
    sizes = np.array([p.shape[:2] for p in pictures], dtype=np.int64)
    counts = sizes.prod(axis=1)
    starts = np.concatenate(([0], counts.cumsum()[:-1]))
    n_channels = pictures[0].shape[2]
    pixels = torch.empty((int(counts.sum()), n_channels), dtype=torch.from_numpy(pictures[0][:0]).dtype)
    for picture, start, count in zip(pictures, starts, counts, strict=True):
        pixels[start : start + count] = torch.from_numpy(picture.reshape(-1, n_channels).copy())
    return PictureSet(pixels, torch.from_numpy(sizes[:, 0]), torch.from_numpy(sizes[:, 1]), torch.from_numpy(starts))
