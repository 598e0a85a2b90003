"""Stream training data from tar shards, a few shards in memory at a time."""

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic

import torch

from ulcodec.errors import TrainingError
from ulcodec.io.locations import Source
from ulcodec.io.sources import LeftOut, expand_sources
from ulcodec.train.data.crops import Set
from ulcodec.train.data.loading import held_out_every
from ulcodec.train.data.readers import Reader, split


class ShardStream(Generic[Set]):
    """Training data that exceed the memory: `n_held` shards at a time; the next one is read in the background.

    After every `crops_per_shard` images the next shard replaces the oldest, in an order that is shuffled on each pass
    over the shards. The shards in memory depend only on the number of images seen, so that a resumed run is exact.
    """

    def __init__(
        self,
        sources: Iterable[Source],
        reader: Reader[Set],
        *,
        n_held: int,
        crops_per_shard: int,
        validation_share: float,
        seed: int,
        device: torch.device,
    ):
        self.data = reader
        self.shards = expand_sources(sources, reader.suffixes)
        if not 1 <= n_held <= len(self.shards):
            raise TrainingError(f"cannot hold {n_held} of {len(self.shards)} shards")
        self.n_held, self.crops_per_shard = n_held, crops_per_shard
        self.every, self.seed, self.device = held_out_every(validation_share), seed, device
        self.background = ThreadPoolExecutor(max_workers=1)
        self.reading: dict[int, Future[Set | None]] = {}
        self.first = -1
        self.held: Set | None = None
        self.left_out = LeftOut()

    def at(self, n_images: int) -> Set:
        """The data to train on after `n_images`. Raises TrainingError without any, or for a bad shard."""
        first = n_images // self.crops_per_shard
        if self.held is None or first != self.first:
            positions = range(first, first + self.n_held)
            for position in (*positions, positions.stop):
                if position not in self.reading:
                    self.reading[position] = self.background.submit(self.read, self.shard(position), False, LeftOut())
            self.reading = {position: future for position, future in self.reading.items() if position >= first}
            self.held = None  # free the memory before the next set takes as much
            self.first, self.held = first, self.joined(self.reading[position].result() for position in positions)
        return self.held

    def validation(self) -> Set:
        """Load the data held out of the first `n_held` shards in the given order.

        `self.left_out` counts the files of these shards that are not used. Raises TrainingError if there are none.
        """
        return self.joined(self.read(shard, True, self.left_out) for shard in self.shards[: self.n_held])

    def shard(self, position: int) -> Source:
        """The shard at a position in the endless shuffled order."""
        n_pass, index = divmod(position, len(self.shards))
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + n_pass)
        return self.shards[int(torch.randperm(len(self.shards), generator=generator)[index])]

    def read(self, shard: Source, held_out: bool, left_out: LeftOut) -> Set | None:
        files = self.data.shard_files(shard, left_out)
        chosen = split(self.data.examples(files, left_out), self.every)[held_out]
        return self.data.pack(chosen) if chosen else None

    def joined(self, sets: Iterable[Set | None]) -> Set:
        loaded = [part for part in sets if part is not None]
        if not loaded:
            raise TrainingError(self.left_out.after(f"no {self.data.what} in {self.n_held} shards"))
        return self.data.join(loaded).to(self.device)
