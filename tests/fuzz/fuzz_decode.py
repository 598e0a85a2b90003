"""Decode mutated files: only `UlcError` may be raised, and no file may take longer than its declared pixels explain.

`python tests/fuzz/fuzz_decode.py --count 100000 --model MODEL` prints the counts of pictures and of each error class,
and the time of the slowest decode.
"""

import argparse
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from mutations import mutate

import ulcodec
from ulcodec.backends import BACKENDS
from ulcodec.codec.image import Codec
from ulcodec.errors import UlcError
from ulcodec.format.container import Container
from ulcodec.io.picture import Picture

SIZES = ((1, 1), (16, 16), (33, 17), (96, 80))
MAX_PIXELS = 2**15
"""Pixel limit of the tested reader: about four times the pixels of the largest sound file."""
QUALITIES = (0, 40, 75, 100)


@dataclass
class Outcome:
    """Results of a run: files by outcome, and the times of the slowest decode and of the slowest sound file."""

    outcomes: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    clean_s: float = 0.0


def sound_files(codec: Codec, seed: int = 0) -> list[bytes]:
    """Encode small noisy gradients: RGB, grey, 16 and 12 bits, lossless, with alpha and metadata, and cut files."""
    rng = np.random.default_rng(seed)
    files = []
    for width, height in SIZES:
        ramp = np.linspace(0, 200, width)[None, :, None] + rng.normal(0, 20, (height, width, 3))
        pixels = ramp.clip(0, 255).astype(np.uint8)
        files += [codec.encode(pixels, quality=quality) for quality in QUALITIES]
        files.append(codec.encode(pixels[:, :, 0], quality=50))
        files.append(codec.encode(pixels.astype(np.uint16) * 257, quality=60))
        files.append(codec.encode(pixels.astype(np.uint16) * 16, quality=60))
        files.append(codec.encode(pixels // 128 * 255, quality=100))
        alpha = pixels[:, :, 1].copy()
        picture = Picture(pixels, alpha, None, bytes(40), b"<x:xmpmeta/>")
        files += [codec.encode(picture, quality=50), codec.encode(picture, quality=50, alpha_quality=30)]
        whole = Container.from_bytes(codec.encode(pixels, quality=80))
        files += [whole.truncated(1).to_bytes(), whole.within(len(whole.to_bytes()) * 3 // 4).to_bytes()]
    return files


def timed_decode(codec: Codec, data: bytes) -> tuple[str, float]:
    """Recover and decode a file. Return "decoded" or the name of the error, and the time in seconds."""
    start = time.perf_counter()
    try:
        codec.recover(data, max_pixels=MAX_PIXELS)
        codec.decode_array(data, max_pixels=MAX_PIXELS)
        outcome = "decoded"
    except UlcError as error:
        outcome = type(error).__name__
    return outcome, time.perf_counter() - start


def fuzz(codec: Codec, count: int, seed: int = 0) -> Outcome:
    """Decode `count` mutated files. Prints the file and raises again if the exception is not a UlcError."""
    files = sound_files(codec)
    result = Outcome()
    result.clean_s = max(timed_decode(codec, data)[1] for data in files for _ in range(3))
    read_mutated(result, lambda rng: mutate(files, rng), lambda data, _: timed_decode(codec, data), count, seed)
    return result


def read_mutated(
    result: Outcome,
    mutated: Callable[[random.Random], bytes],
    timed: Callable[[bytes, random.Random], tuple[str, float]],
    count: int,
    seed: int,
) -> None:
    """Read `count` mutated files, and add their outcomes to a result. Prints a file that raises, and raises again."""
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        data = mutated(rng)
        try:
            outcome, seconds = timed(data, rng)
        except BaseException:
            print(f"seed {seed}, file {number}: {data.hex()}")
            raise
        result.outcomes[outcome] += 1
        result.slowest_s = max(result.slowest_s, seconds)


def count_undetected_flips(files: list[bytes], count: int, seed: int) -> int:
    """Flip a random bit of a random file, `count` times. Return how often the container's reader accepts the file."""
    rng = random.Random(seed)
    undetected = 0
    for _ in range(count):
        flipped = bytearray(rng.choice(files))
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        try:
            Container.from_bytes(bytes(flipped))
            undetected += 1
        except UlcError:
            pass
    return undetected


def fuzzing_parser(description: str | None, count: int) -> argparse.ArgumentParser:
    """A parser with the options of a fuzzer; `count`: default number of files."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--count", type=int, default=count)
    parser.add_argument("--model", default="small")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--backend", choices=BACKENDS, default="torch")
    return parser


def run_fuzzer(fuzzer: Callable[[Codec, int, int], Outcome], arguments: argparse.Namespace) -> Codec:
    """Run a fuzzer, and print its result; return the codec."""
    torch.set_num_threads(arguments.threads)
    codec = ulcodec.load(arguments.model, device="cpu", backend=arguments.backend, n_threads=arguments.threads)
    result = fuzzer(codec, arguments.count, arguments.seed)
    for name, count in result.outcomes.most_common():
        print(f"{count:8d}  {name}")
    print(f"slowest {1000 * result.slowest_s:.0f} ms; slowest sound file {1000 * result.clean_s:.0f} ms")
    return codec


def main() -> None:
    parser = fuzzing_parser(__doc__, 100_000)
    parser.add_argument("--flips", type=int, default=1_000_000, help="single bit flips to try")
    arguments = parser.parse_args()
    codec = run_fuzzer(fuzz, arguments)
    undetected = count_undetected_flips(sound_files(codec), arguments.flips, arguments.seed)
    print(f"{undetected} of {arguments.flips} single bit flips undetected")


if __name__ == "__main__":
    main()
