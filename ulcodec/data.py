"""Training pictures: decoded once, held as uint8 in one tensor, cropped at random on the training device.

All of them, or a few shards at a time of those that do not fit.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from ulcodec.errors import TrainingError
from ulcodec.sources import LeftOut, Source, decode_rgb, expand_sources, picture_files, pictures_of, usable


@dataclass(frozen=True)
class PictureSet:
    """Pictures of any sizes, laid end to end: `pixels` uint8 [sum of H W, 3]; heights, widths, starts int64 [N].

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
        """Squares of pictures drawn evenly, of the stored dtype [count, side, side, C].

        `rows_of` takes the rows that are wanted, out of `count`; `mirrored` flips half of them left-right.
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
        """`random_windows` of pictures, half of them mirrored, as float32 [count, 3, crop, crop] in [0, 1]."""
        crops = self.random_windows(count, crop_px, generator, rows_of, mirrored=True)
        return crops.permute(0, 3, 1, 2).float() / 255


def read_pictures(files: Iterable[tuple[str, bytes]], min_side_px: int, left_out: LeftOut) -> Iterator[np.ndarray]:
    """The usable ones among named files, decoded: uint8 [H, W, 3] with both sides at least `min_side_px`.

    The others are counted in `left_out`.
    """
    remaining = iter(files)
    with ThreadPoolExecutor() as pool:
        while chunk := list(islice(remaining, 64)):
            decoded = pool.map(decode_rgb, (data for _, data in chunk))
            yield from usable(decoded, left_out, min_side_px)


def held_out_every(validation_share: float) -> int:
    """Every how many pictures one is held out."""
    return max(2, round(1 / validation_share))


def load_pictures(
    sources: Iterable[Source],
    *,
    min_side_px: int,
    validation_share: float,
    limit: int | None = None,
    left_out: LeftOut | None = None,
) -> tuple[PictureSet, PictureSet]:
    """Decode every picture once and split: returns (training, validation).

    Every `1 / validation_share`-th usable picture goes to validation (at least one). Pictures with a side below
    `min_side_px` are left out, those with transparency, and what cannot be read; `left_out` counts them. Raises
    TrainingError if fewer than two pictures remain.
    """
    counted = LeftOut() if left_out is None else left_out
    pictures = list(islice(read_pictures(pictures_of(sources, counted), min_side_px, counted), limit))
    if len(pictures) < 2:
        found = f"found {len(pictures)} pictures with sides of at least {min_side_px} px; need two or more"
        raise TrainingError(counted.after(found))
    every = held_out_every(validation_share)
    held_out = [p for i, p in enumerate(pictures) if i % every == 0]
    return pack([p for i, p in enumerate(pictures) if i % every]), pack(held_out)


class ShardStream:
    """Training pictures too many for the memory: `n_held` shards at a time, the next one read in the background.

    After every `crops_per_shard` images the oldest shard gives way to the next, in an order shuffled anew on each pass
    over the shards. What is held depends on the number of images seen alone, so that a resumed run goes on exactly.
    """

    def __init__(
        self,
        sources: Iterable[Source],
        *,
        n_held: int,
        crops_per_shard: int,
        min_side_px: int,
        validation_share: float,
        seed: int,
        device: torch.device,
    ):
        self.shards = expand_sources(sources)
        if not 1 <= n_held <= len(self.shards):
            raise TrainingError(f"cannot hold {n_held} of {len(self.shards)} shards")
        self.n_held, self.crops_per_shard, self.min_side_px = n_held, crops_per_shard, min_side_px
        self.every, self.seed, self.device = held_out_every(validation_share), seed, device
        self.reader = ThreadPoolExecutor(max_workers=1)
        self.reading: dict[int, Future[PictureSet | None]] = {}
        self.first = -1
        self.held: PictureSet | None = None
        self.left_out = LeftOut()

    def at(self, n_images: int) -> PictureSet:
        """The pictures to train on after `n_images`. Raises TrainingError if a shard is unreadable or none usable."""
        first = n_images // self.crops_per_shard
        if self.held is None or first != self.first:
            wanted = range(first, first + self.n_held)
            for position in (*wanted, wanted.stop):
                if position not in self.reading:
                    self.reading[position] = self.reader.submit(self.read, self.shard(position), False, LeftOut())
            self.reading = {position: future for position, future in self.reading.items() if position >= first}
            self.held = None  # free its memory before the next one takes as much
            self.first, self.held = first, self.joined(self.reading[position].result() for position in wanted)
        return self.held

    def validation(self) -> PictureSet:
        """Pictures held out of the first `n_held` shards in the order given. Raises TrainingError if there are none.

        `left_out` counts what is not used of these shards.
        """
        return self.joined(self.read(shard, True, self.left_out) for shard in self.shards[: self.n_held])

    def shard(self, position: int) -> Source:
        """The shard at a position of the endless shuffled order."""
        n_pass, index = divmod(position, len(self.shards))
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + n_pass)
        return self.shards[int(torch.randperm(len(self.shards), generator=generator)[index])]

    def read(self, shard: Source, held_out: bool, left_out: LeftOut) -> PictureSet | None:
        pictures = read_pictures(picture_files(shard, left_out), self.min_side_px, left_out)
        chosen = [picture for index, picture in enumerate(pictures) if (index % self.every == 0) == held_out]
        return pack(chosen) if chosen else None

    def joined(self, sets: Iterable[PictureSet | None]) -> PictureSet:
        found = [pictures for pictures in sets if pictures is not None]
        if not found:
            nothing = f"no pictures with sides of at least {self.min_side_px} px in {self.n_held} shards"
            raise TrainingError(self.left_out.after(nothing))
        return join(found).to(self.device)


def join(sets: list[PictureSet]) -> PictureSet:
    """Several sets as one."""
    offsets = np.concatenate(([0], np.cumsum([len(part.pixels) for part in sets])[:-1]))
    return PictureSet(
        torch.cat([part.pixels for part in sets]),
        torch.cat([part.heights for part in sets]),
        torch.cat([part.widths for part in sets]),
        torch.cat([part.starts + int(offset) for part, offset in zip(sets, offsets, strict=True)]),
    )


def pack(pictures: list[np.ndarray]) -> PictureSet:
    """Arrays [H, W, C] of one dtype, end to end."""
    sizes = np.array([p.shape[:2] for p in pictures], dtype=np.int64)
    counts = sizes.prod(axis=1)
    starts = np.concatenate(([0], counts.cumsum()[:-1]))
    n_channels = pictures[0].shape[2]
    pixels = torch.empty((int(counts.sum()), n_channels), dtype=torch.from_numpy(pictures[0][:0]).dtype)
    for picture, start, count in zip(pictures, starts, counts, strict=True):
        pixels[start : start + count] = torch.from_numpy(picture.reshape(-1, n_channels).copy())
    return PictureSet(pixels, torch.from_numpy(sizes[:, 0]), torch.from_numpy(sizes[:, 1]), torch.from_numpy(starts))
