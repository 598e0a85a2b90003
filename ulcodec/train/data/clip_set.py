"""A set of clips in one tensor, and random crops from it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ulcodec.train.data.crops import RowsOf, whole


@dataclass(frozen=True)
class ClipSet:
    """Clips of any sizes in one tensor, whose crops have `crop_frames` frames.

    `pixels` uint8 [sum of T H W, 3]; lengths, heights, widths, starts int64 [N].
    """

    pixels: Tensor
    lengths: Tensor
    heights: Tensor
    widths: Tensor
    starts: Tensor
    crop_frames: int

    @property
    def device(self) -> torch.device:
        return self.pixels.device

    def __len__(self) -> int:
        return len(self.lengths)

    def to(self, device: torch.device) -> "ClipSet":
        names = ("pixels", "lengths", "heights", "widths", "starts")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def random_crops(self, count: int, crop_px: int, generator: torch.Generator, rows_of: RowsOf = whole) -> Tensor:
        """Draw crops of random clips, half of them mirrored, as float32 [rows, 3, T, crop, crop] in [0, 1].

        `rows_of` selects rows out of `count`, for a worker.
        """

        def draw() -> Tensor:
            return rows_of(torch.rand(count, generator=generator, device=self.device))

        def positions(lengths: Tensor, extent: int) -> Tensor:
            """Draw positions [rows, extent] that follow each other along an axis."""
            first = (draw() * (lengths - extent + 1)).long()
            return first[:, None] + torch.arange(extent, device=self.device)

        chosen = (draw() * len(self)).long()
        heights, widths = self.heights[chosen], self.widths[chosen]
        frames = positions(self.lengths[chosen], self.crop_frames)
        rows, columns = positions(heights, crop_px), positions(widths, crop_px)
        columns = torch.where(draw()[:, None] < 0.5, columns, columns.flip(1))
        in_rows = frames[:, :, None] * heights[:, None, None] + rows[:, None]
        in_pixels = in_rows[..., None] * widths[:, None, None, None] + columns[:, None, None]
        crops = self.pixels[in_pixels + self.starts[chosen][:, None, None, None]]
        return crops.permute(0, 4, 1, 2, 3).float() / 255


def pack_clips(clips: Sequence[np.ndarray], crop_frames: int) -> ClipSet:
    """Pack clips uint8 [T, H, W, 3] of at least `crop_frames` frames into a set."""
    sizes = torch.tensor([clip.shape[:3] for clip in clips])
    lengths, heights, widths = sizes.unbind(1)
    n_pixels = sizes.prod(1)
    starts = n_pixels.cumsum(0) - n_pixels
    pixels = torch.empty((int(n_pixels.sum()), 3), dtype=torch.uint8)
    for clip, start, count in zip(clips, starts.tolist(), n_pixels.tolist(), strict=True):
        pixels[start : start + count] = torch.from_numpy(clip.reshape(-1, 3))
    return ClipSet(pixels, lengths, heights, widths, starts, crop_frames)


def join_clips(sets: Sequence[ClipSet]) -> ClipSet:
    """Join several sets whose crops have equally many frames."""
    offsets = np.concatenate(([0], np.cumsum([len(part.pixels) for part in sets])[:-1]))
    return ClipSet(
        torch.cat([part.pixels for part in sets]),
        torch.cat([part.lengths for part in sets]),
        torch.cat([part.heights for part in sets]),
        torch.cat([part.widths for part in sets]),
        torch.cat([part.starts + int(offset) for part, offset in zip(sets, offsets, strict=True)]),
        sets[0].crop_frames,
    )
