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
    pixels = torch.cat([torch.from_numpy(clip.reshape(-1, 3)) for clip in clips])
    return _clip_set(pixels, torch.tensor([clip.shape[:3] for clip in clips]), crop_frames)


def join_clips(sets: Sequence[ClipSet]) -> ClipSet:
    """Join several sets whose crops have equally many frames."""
    sizes = [torch.stack((part.lengths, part.heights, part.widths), dim=1) for part in sets]
    return _clip_set(torch.cat([part.pixels for part in sets]), torch.cat(sizes), sets[0].crop_frames)


def _clip_set(pixels: Tensor, sizes: Tensor, crop_frames: int) -> ClipSet:
    """Make a set of clips that follow each other in `pixels`. sizes int64 [N, 3]: lengths, heights and widths."""
    n_pixels, (lengths, heights, widths) = sizes.prod(1), sizes.unbind(1)
    return ClipSet(pixels, lengths, heights, widths, n_pixels.cumsum(0) - n_pixels, crop_frames)
