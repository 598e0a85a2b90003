"""Read videos as a set of clips in memory."""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from ulcodec.io.clip_kinds import VIDEO_SUFFIXES
from ulcodec.io.locations import Source
from ulcodec.io.sources import LeftOut, video_files, videos_of
from ulcodec.train.data.clip_set import ClipSet, join_clips, pack_clips
from ulcodec.train.data.clips import Clip, StretchSettings, clips_in
from ulcodec.train.data.readers import Example, Files, Reader

READ_AHEAD = 8


class ClipReader(Reader[ClipSet]):
    """Reads clips of videos, see `StretchSettings`. The name of a video and `seed` decide its crop."""

    noun = "clips"
    of_scenes = ", of different scenes"

    def __init__(self, settings: StretchSettings, seed: int):
        self.settings, self.seed = settings, seed
        of_sides = "" if settings.resize_px else f" with sides of at least {settings.least_px} px"
        self.what = f"clips of {settings.n_frames} frames{of_sides}"
        self.suffixes = VIDEO_SUFFIXES

    def files(self, sources: Iterable[Source], left_out: LeftOut) -> Files:
        return videos_of(sources, left_out)

    def shard_files(self, source: Source, left_out: LeftOut) -> Files:
        return video_files(source, left_out)

    def examples(self, files: Files, left_out: LeftOut, limit: int | None = None) -> Iterator[Example]:
        return islice(self._clips(files, left_out, limit), limit)

    def _clips(self, files: Files, left_out: LeftOut, most: int | None) -> Iterator[Example]:
        """Read the clips of videos, at most `most` of each."""
        remaining = iter(files)
        with ThreadPoolExecutor() as pool:
            while chunk := list(islice(remaining, READ_AHEAD)):
                for clips, reasons in pool.map(partial(self.clips_of, most=most), chunk):
                    left_out.update(reasons)
                    for clip in clips:
                        yield clip.scene, clip.frames

    def clips_of(self, file: tuple[str, Path | bytes], most: int | None = None) -> tuple[list[Clip], LeftOut]:
        """Read the clips of a video, at most `most`, and why it was left out."""
        name, source = file
        left_out = LeftOut()
        random = np.random.default_rng((self.seed, *os.fsencode(Path(name).name)))
        return list(islice(clips_in(name, source, self.settings, random, left_out), most)), left_out

    def pack(self, examples: list[np.ndarray]) -> ClipSet:
        return pack_clips(examples, self.settings.n_frames)

    def join(self, sets: list[ClipSet]) -> ClipSet:
        return join_clips(sets)
