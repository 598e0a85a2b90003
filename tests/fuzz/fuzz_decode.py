"""Decode mutated files: only `UlcError` may come out, and no file may cost more than its declared pixels explain.

`python tests/fuzz/fuzz_decode.py --count 100000 --model MODEL` prints what came out, by class, and the slowest decode.
"""

import argparse
import random
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import torch
from mutations import mutated

import ulcodec
from ulcodec.codec.image import Codec
from ulcodec.errors import UlcError
from ulcodec.format.container import Container
from ulcodec.io.picture import Picture

SIZES = ((1, 1), (16, 16), (33, 17), (96, 80))
MAX_PIXELS = 2**15
"""Limit of the reader under test: four times the largest sound file."""
QUALITIES = (0, 40, 75, 100)


@dataclass
class Outcome:
    """`outcomes`: files by what came out; `slowest_s`: the slowest decode; `clean_s`: the slowest of a sound file."""

    outcomes: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    clean_s: float = 0.0


def sound_files(codec: Codec, seed: int = 0) -> list[bytes]:
    """Small pictures of noise over gradients: RGB, grey, 16 and 12 bits, drawn, with alpha and metadata, and cut."""
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
        rich = Picture(pixels, alpha, None, bytes(40), b"<x:xmpmeta/>")
        files += [codec.encode(rich, quality=50), codec.encode(rich, quality=50, alpha_quality=30)]
        whole = Container.from_bytes(codec.encode(pixels, quality=80))
        files += [whole.truncated(1).to_bytes(), whole.within(len(whole.to_bytes()) * 3 // 4).to_bytes()]
    return files


def decode_s(codec: Codec, data: bytes) -> tuple[str, float]:
    """What came out, and how long it took."""
    start = time.perf_counter()
    try:
        codec.recover(data, max_pixels=MAX_PIXELS)
        codec.decode_array(data, max_pixels=MAX_PIXELS)
        outcome = "decoded"
    except UlcError as error:
        outcome = type(error).__name__
    return outcome, time.perf_counter() - start


def fuzz(codec: Codec, count: int, seed: int = 0) -> Outcome:
    """Decode `count` mutated files. Any other exception than a UlcError passes through."""
    files = sound_files(codec)
    result = Outcome()
    result.clean_s = max(decode_s(codec, data)[1] for data in files for _ in range(3))
    for number in range(count):
        data = mutated(files, random.Random(f"{seed} {number}"))
        try:
            outcome, seconds = decode_s(codec, data)
        except BaseException:
            print(f"seed {seed}, file {number}: {data.hex()}")
            raise
        result.outcomes[outcome] += 1
        result.slowest_s = max(result.slowest_s, seconds)
    return result


def undetected_flips(files: list[bytes], count: int, seed: int) -> int:
    """How many of `count` single bit flips, anywhere in any of the files, the container's reader does not notice."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--flips", type=int, default=1_000_000, help="single bit flips to try")
    parser.add_argument("--model", default="small")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    codec = ulcodec.load(arguments.model, device="cpu")
    result = fuzz(codec, arguments.count, arguments.seed)
    for name, count in result.outcomes.most_common():
        print(f"{count:8d}  {name}")
    undetected = undetected_flips(sound_files(codec), arguments.flips, arguments.seed)
    print(f"{undetected} of {arguments.flips} single bit flips undetected")
    print(f"slowest {1000 * result.slowest_s:.0f} ms; slowest sound file {1000 * result.clean_s:.0f} ms")


if __name__ == "__main__":
    main()
