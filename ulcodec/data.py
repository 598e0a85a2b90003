"""Training pictures: decoded once, held as uint8 in one tensor, cropped at random on the training device."""

import tarfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ulcodec.errors import ImageError, TrainingError
from ulcodec.images import load_image

PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".ppm"}


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


def picture_files(source: Path) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of the pictures in a folder (searched in depth, sorted) or a tar shard."""
    if source.is_dir():
        for file in sorted(source.rglob("*")):
            if file.suffix.lower() in PICTURE_SUFFIXES and file.is_file():
                yield str(file), file.read_bytes()
        return
    try:
        with tarfile.open(source) as shard:
            for member in shard:
                if Path(member.name).suffix.lower() not in PICTURE_SUFFIXES:
                    continue
                if (handle := shard.extractfile(member)) is not None:
                    yield f"{source}:{member.name}", handle.read()
    except (OSError, KeyError, tarfile.TarError) as error:
        raise TrainingError(f"cannot read training data {source}: {error}") from error


def expand_sources(sources: Iterable[Path]) -> list[Path]:
    """Folders that hold tar shards stand for their shards."""
    expanded: list[Path] = []
    for source in sources:
        expanded.extend(sorted(source.glob("*.tar")) or [source] if source.is_dir() else [source])
    return expanded


def decode_rgb(data: bytes) -> np.ndarray | None:
    """uint8 [H, W, 3], or None for what cannot be decoded or coded."""
    try:
        pixels = load_image(data).pixels
    except ImageError:
        return None
    return pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)


def load_pictures(
    sources: Iterable[Path], *, min_side_px: int, validation_share: float, limit: int | None = None
) -> tuple[PictureSet, PictureSet]:
    """Decode every picture once and split: returns (training, validation).

    Every `1 / validation_share`-th usable picture goes to validation (at least one). Pictures with a side below
    `min_side_px` are left out. Raises TrainingError if fewer than two pictures remain.
    """
    files = (file for source in expand_sources(sources) for file in picture_files(source))
    pictures: list[np.ndarray] = []
    with ThreadPoolExecutor() as pool:
        while chunk := list(islice(files, 64)):
            decoded = pool.map(decode_rgb, (data for _, data in chunk))
            pictures.extend(p for p in decoded if p is not None and min(p.shape[:2]) >= min_side_px)
            if limit is not None and len(pictures) >= limit:
                break
    pictures = pictures[:limit]
    if len(pictures) < 2:
        raise TrainingError(f"found {len(pictures)} pictures with sides of at least {min_side_px} px; need two or more")
    every = max(2, round(1 / validation_share))
    held_out = [p for i, p in enumerate(pictures) if i % every == 0]
    return pack([p for i, p in enumerate(pictures) if i % every]), pack(held_out)


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
