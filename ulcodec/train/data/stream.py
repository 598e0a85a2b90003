"""Stream training pictures from tar shards, a few shards in memory at a time."""

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from ulcodec.errors import TrainingError
from ulcodec.io.locations import Source
from ulcodec.io.sources import LeftOut, expand_sources, picture_files
from ulcodec.train.data.loading import held_out_every, read_pictures
from ulcodec.train.data.pictures import PictureSet, join, pack


class ShardStream:
    """Training pictures that exceed the memory: `n_held` shards at a time; the next one is read in the background.

    After every `crops_per_shard` images the next shard replaces the oldest, in an order that is shuffled on each pass
    over the shards. The shards in memory depend only on the number of images seen, so that a resumed run is exact.
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
        """The pictures to train on after `n_images`. Raises TrainingError without pictures or for a bad shard."""
        first = n_images // self.crops_per_shard
        if self.held is None or first != self.first:
            positions = range(first, first + self.n_held)
            for position in (*positions, positions.stop):
                if position not in self.reading:
                    self.reading[position] = self.reader.submit(self.read, self.shard(position), False, LeftOut())
            self.reading = {position: future for position, future in self.reading.items() if position >= first}
            self.held = None  # free the memory before the next set takes as much
            self.first, self.held = first, self.joined(self.reading[position].result() for position in positions)
        return self.held

    def validation(self) -> PictureSet:
        """Load the pictures held out of the first `n_held` shards in the given order.

        `self.left_out` counts the files of these shards that are not used. Raises TrainingError if there are none.
        """
        return self.joined(self.read(shard, True, self.left_out) for shard in self.shards[: self.n_held])

    def shard(self, position: int) -> Source:
        """The shard at a position in the endless shuffled order."""
        n_pass, index = divmod(position, len(self.shards))
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + n_pass)
        return self.shards[int(torch.randperm(len(self.shards), generator=generator)[index])]

    def read(self, shard: Source, held_out: bool, left_out: LeftOut) -> PictureSet | None:
        pictures = read_pictures(picture_files(shard, left_out), self.min_side_px, left_out)
        chosen = [picture for index, picture in enumerate(pictures) if (index % self.every == 0) == held_out]
        return pack(chosen) if chosen else None

    def joined(self, sets: Iterable[PictureSet | None]) -> PictureSet:
        loaded = [pictures for pictures in sets if pictures is not None]
        if not loaded:
            message = f"no pictures with sides of at least {self.min_side_px} px in {self.n_held} shards"
            raise TrainingError(self.left_out.after(message))
        return join(loaded).to(self.device)
