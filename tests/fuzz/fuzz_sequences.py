"""Decode mutated sequences in many ways: only documented errors may be raised, and the work must be proportional.

`python tests/fuzz/fuzz_sequences.py --count 20000 --model MODEL` prints the counts of files by outcome, and the time of
the slowest file. Each file is iterated over, and read by index, by time, in part or as media, once strictly and once
with recovery.
"""

import random
import time
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from io import BytesIO
from itertools import pairwise
from typing import Any

import numpy as np
from fuzz_decode import MAX_PIXELS, Outcome, fuzzing_parser, read_mutated, run_fuzzer
from sequence_mutations import Parts, RawRecord, mutate_sequence, put_together, rebuild_index, take_apart

from ulcodec.codec.image import Codec
from ulcodec.codec.video import Video, VideoFrame
from ulcodec.errors import UlcError
from ulcodec.format.sequence import MEDIA_TAG
from ulcodec.format.sequence_reader import SEARCH_PIECE_BYTES

LEAST_RECORD_BYTES = 6
"""A file has at most one frame for so many bytes."""
READS_PER_BYTE = 60
"""Bytes that one way of reading may read, for every byte of the file; a search behind damage reads a piece more."""
EXAMPLES = ((7, 33, 17, 0), (4, 16, 16, 40), (12, 1, 1, 75))
"""Number of frames, width, height and quality."""


class CountingFile(BytesIO):
    """A file that counts the bytes that are read from it."""

    n_read = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.n_read += len(data)
        return data


# Sound files


def sound_sequences(codec: Codec, seed: int = 0) -> list[bytes]:
    """Encode small clips: RGB, grey, 16 bits, with repeated frames, several rates, short GOPs, and with media."""
    rng = np.random.default_rng(seed)
    files = []
    for n_frames, width, height, quality in EXAMPLES:
        pixels = rng.integers(0, 256, (n_frames, height, width, 3), dtype=np.uint8)
        pixels[2] = pixels[1]
        pixels[-1] = pixels[-2]
        clips = (pixels, pixels[..., 0], pixels.astype(np.uint16) * 257, np.repeat(pixels[:1], 20, axis=0))
        for clip, rate in zip(clips, (25, Fraction(30000, 1001), 1000, Fraction(1, 7)), strict=True):
            files.append(b"".join(codec.encode_video(list(clip), quality=quality, frame_rate=rate, gop=5)))
    return (
        files + [with_media(data, random.Random(seed)) for data in files[::2]] + [reordered(data) for data in files[:2]]
    )


def with_media(data: bytes, rng: random.Random) -> bytes:
    """Put pieces of media between the frames of a sequence."""
    parts = take_apart(data)
    assert parts is not None
    for _ in range(3):
        piece = RawRecord(b"", MEDIA_TAG, rng.randbytes(rng.choice((1, 300))))
        parts.records.insert(rng.randrange(len(parts.records)), piece)
    return rebuilt(parts)


def reordered(data: bytes) -> bytes:
    """Move an intra frame of a sequence before the repetition that is shown before it, as an encoder may do."""
    parts = take_apart(data)
    assert parts is not None
    for place, record in enumerate(parts.records[1:-1]):
        following = parts.records[place + 2]
        if not record.is_intra and following.is_intra:
            parts.records[place + 1 : place + 3] = [following, record]
            break
    return rebuilt(parts)


def rebuilt(parts: Parts) -> bytes:
    rebuild_index(parts, random.Random(0))
    return put_together(parts)


# Ways of reading


class Reading:
    """One file that is read in every way. `recover`: as in `Codec.decode_video`; `frames`: those of an iteration."""

    def __init__(self, codec: Codec, data: bytes, recover: bool, rng: random.Random) -> None:
        self.codec, self.file, self.recover, self.rng = codec, CountingFile(data), recover, rng
        self.size_bytes = len(data)
        self.frames: list[VideoFrame] = []
        self.n_damaged = 0

    def outcome(self) -> str:
        """Iterate over the file, then read it in some other ways.

        Return "decoded", "recovered", or the name of the error that ended the iteration.
        """
        try:
            with self.codec.decode_video(self.file, recover=self.recover, max_pixels=MAX_PIXELS) as video:
                result = self._attempt(lambda: self.frames.extend(video))
                assert result == "decoded" or not self.recover, f"recovery ended with {result}"
                self.n_damaged = len(video.damage)
                self._check_frames(video)
                for read, documented in self.rng.sample(self._other_ways(video), 4):
                    self._attempt(read, *documented)
                return "recovered" if result == "decoded" and video.damage else result
        except UlcError as error:
            return type(error).__name__

    def _other_ways(self, video: Video) -> list[tuple[Callable[[], Any], tuple[type[Exception], ...]]]:
        """Ways of reading besides an iteration, each with the errors that it may raise besides a UlcError."""
        index = self.rng.choice((0, self.rng.randrange(1, 30), self.rng.randrange(1, 30), 2**28))
        time_s = self.rng.choice((0, Fraction(1, 10), self.rng.uniform(-1, 10 ** self.rng.randrange(12)), 10**18))
        start, stop = self.rng.randrange(20), self.rng.randrange(20)
        return [
            (lambda: video[index], (IndexError,)),
            (lambda: video[-index], (IndexError, TypeError)),
            (lambda: video.at(time_s), (IndexError,)),
            (lambda: len(video), (TypeError,)),
            (lambda: list(video.frames(start, stop)), ()),
            (lambda: video.media().read(), ()),
            (lambda: self._by_turns(video), ()),
        ]

    def _attempt(self, call: Callable[[], Any], *documented: type[Exception]) -> str:
        """Do something that may raise documented errors, and that must not read the file too often."""
        self.file.n_read = 0
        try:
            call()
            return "decoded"
        except (UlcError, *documented) as error:
            return type(error).__name__
        finally:
            most = READS_PER_BYTE * self.size_bytes + 2 * SEARCH_PIECE_BYTES * (1 + self.n_damaged)
            assert self.file.n_read < most, f"{self.file.n_read} bytes were read of {self.size_bytes}"

    def _check_frames(self, video: Video) -> None:
        """Check that frames rise in index and time, and have the shape that the header states."""
        clip = video.format
        shape = (clip.height, clip.width, 3) if clip.layout == 0 else (clip.height, clip.width)
        assert all(frame.pixels.shape == shape for frame in self.frames)
        pairs = [(frame.index, frame.time_s) for frame in self.frames]
        assert all(first[0] < second[0] and first[1] < second[1] for first, second in pairwise(pairs))
        assert len(pairs) * LEAST_RECORD_BYTES <= self.size_bytes

    def _by_turns(self, video: Video) -> None:
        """Read media and frames by turns."""
        media = video.media()
        for _ in zip(video, range(10), strict=False):
            media.read(100)


def timed_reading(codec: Codec, data: bytes, rng: random.Random) -> tuple[str, float]:
    """Read a file strictly and with recovery. Return the outcome of the strict reading, and the time in seconds."""
    start = time.perf_counter()
    strict, recovering = (Reading(codec, data, recover, rng) for recover in (False, True))
    outcomes = strict.outcome(), recovering.outcome()
    if outcomes[0] == "decoded":
        assert outcomes[1] == "decoded", "a sound file is damaged for a reader that recovers"
    known = {frame.index: frame for frame in recovering.frames}
    for frame in strict.frames:
        other = known.get(frame.index)
        assert other is None or (frame.time_s == other.time_s and nearly_equal(frame.pixels, other.pixels))
        assert outcomes[0] != "decoded" or other is not None
    return outcomes[0], time.perf_counter() - start


def nearly_equal(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether samples differ by rounding alone: frames of another group are summed in another order."""
    return bool(np.abs(a.astype(np.int64) - b).max() <= np.iinfo(a.dtype).max // 255)


def fuzz_sequences(codec: Codec, count: int, seed: int = 0) -> Outcome:
    """Decode `count` mutated files. Prints the file and raises again if an exception is not documented."""
    files = sound_sequences(codec)
    result = Outcome()
    for data in files:
        outcome, seconds = timed_reading(codec, data, random.Random(0))
        assert outcome == "decoded", outcome
        result.clean_s = max(result.clean_s, seconds)
    timed = partial(timed_reading, codec)
    read_mutated(result, lambda rng: mutate_sequence(files, rng), timed, count, seed)
    return result


if __name__ == "__main__":
    run_fuzzer(fuzz_sequences, fuzzing_parser(__doc__, 20_000).parse_args())
