"""A set of pictures or latents in one tensor, and random crops from it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from ulcodec.train.data.crops import RowsOf, whole


@dataclass(frozen=True)
class PictureSet:
    """Pictures of any sizes in one tensor: `pixels` uint8 [sum of H W, 3]; heights, widths, starts int64 [N].

    Or latents in the same order: floats [sum of h w, C].
    """

    pixels: Tensor
    heights: Tensor
    widths: Tensor
    starts: Tensor

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> "PictureSet":
        """Invert `tensors`."""
        return cls(*(tensors[part.name] for part in fields(cls)))

    def tensors(self) -> dict[str, Tensor]:
        """Return the parts by name, to be written to a file."""
        return {part.name: getattr(self, part.name) for part in fields(self)}

    @property
    def device(self) -> torch.device:
        return self.pixels.device

    def __len__(self) -> int:
        return len(self.heights)

    def to(self, device: torch.device) -> "PictureSet":
        return PictureSet(*(part.to(device) for part in (self.pixels, self.heights, self.widths, self.starts)))

    def picture(self, index: int) -> Tensor:
        """A view of one picture: uint8 [H, W, 3], or of one latent [h, w, C]."""
        height, width, start = int(self.heights[index]), int(self.widths[index]), int(self.starts[index])
        return self.pixels[start : start + height * width].view(height, width, -1)

    def random_windows(
        self,
        count: int,
        side: int,
        generator: torch.Generator,
        rows_of: RowsOf = whole,
        mirrored: bool = False,
    ) -> Tensor:
        """Draw square windows of random pictures, of the stored dtype [count, side, side, C].

        `rows_of` selects rows out of `count`, for a worker; `mirrored` flips half of the windows left-right.
        """
        chosen = rows_of(torch.rand(count, generator=generator, device=self.pixels.device)) * len(self)
        return self._windows(chosen.long(), count, side, generator, rows_of, mirrored)

    def stratified_windows(
        self, count: int, side: int, generator: torch.Generator, rows_of: RowsOf = whole
    ) -> tuple[Tensor, Tensor]:
        """Draw windows as `random_windows` does, one of each of `count` equal parts of the pictures in their order.

        Returns them and the numbers of their pictures, int64 [count].
        """
        offsets = torch.rand(count, generator=generator, device=self.pixels.device)
        strata = torch.arange(count, device=self.pixels.device)
        chosen = rows_of((strata + offsets) / count * len(self)).long().clamp(max=len(self) - 1)
        return self._windows(chosen, count, side, generator, rows_of, mirrored=False), chosen

    def _windows(
        self,
        chosen: Tensor,
        count: int,
        side: int,
        generator: torch.Generator,
        rows_of: RowsOf,
        mirrored: bool,
    ) -> Tensor:
        """Draw a window of each chosen picture."""
        device = self.pixels.device

        def draw() -> Tensor:
            return rows_of(torch.rand(count, generator=generator, device=device))

        widths = self.widths[chosen]
        tops = (draw() * (self.heights[chosen] - side + 1)).long()
        lefts = (draw() * (widths - side + 1)).long()
        columns = torch.arange(side, device=device).expand(len(chosen), side)
        if mirrored:
            columns = torch.where(draw()[:, None] < 0.5, columns, columns.flip(1))
        rows = torch.arange(side, device=device) + tops[:, None]
        return self.gather(chosen, rows, columns + lefts[:, None])

    def gather(self, chosen: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Read chosen [B] pictures at rows [B, h] and columns [B, w]: [B, h, w, C] of the stored dtype."""
        starts = rows * self.widths[chosen][:, None] + self.starts[chosen][:, None]
        return self.pixels[starts[:, :, None] + columns[:, None, :]]

    def random_crops(
        self,
        count: int,
        crop_px: int,
        generator: torch.Generator,
        rows_of: RowsOf = whole,
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
    sizes = np.array([picture.shape[:2] for picture in pictures], dtype=np.int64)
    packed = empty_set(sizes, pictures[0].shape[2], torch.from_numpy(pictures[0][:0]).dtype)
    for number, picture in enumerate(pictures):
        packed.picture(number).copy_(torch.from_numpy(picture.copy()))
    return packed


def empty_set(sizes: np.ndarray, n_channels: int, dtype: torch.dtype) -> PictureSet:
    """Allocate a set of pictures, to be filled. sizes int64 [N, 2]: heights and widths."""
    counts = sizes.prod(axis=1)
    starts = np.concatenate(([0], counts.cumsum()[:-1]))
    pixels = torch.empty((int(counts.sum()), n_channels), dtype=dtype)
    return PictureSet(pixels, torch.from_numpy(sizes[:, 0]), torch.from_numpy(sizes[:, 1]), torch.from_numpy(starts))
