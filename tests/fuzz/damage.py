"""Damage encoded crops, and count the detected and the recovered files.

`python tests/fuzz/damage.py --images FOLDER --count 500` encodes crops of the pictures at random qualities. It damages
each file in three ways: flip one bit, cut off the end, drop one segment. It prints the counts of detected and of
recovered files for each kind of damage, and the mean PSNR by the number of sound segments.
"""

import argparse
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import ulcodec
from ulcodec.codec.image import Codec
from ulcodec.errors import FormatError
from ulcodec.format.container import Container, read_head
from ulcodec.format.primitives import leb128
from ulcodec.io.pictures import load_image
from ulcodec.metrics import psnr_db

CROP_WIDTH, CROP_HEIGHT = 384, 256


def random_crops(folder: Path, count: int, rng: random.Random) -> Iterator[np.ndarray]:
    """Iterate over `count` crops uint8 [H, W, 3] of the folder's pictures in turn."""
    pictures = [load_image(path).pixels for path in sorted(folder.glob("*.png"))]
    for number in range(count):
        pixels = pictures[number % len(pictures)]
        top, left = rng.randrange(pixels.shape[0] - CROP_HEIGHT + 1), rng.randrange(pixels.shape[1] - CROP_WIDTH + 1)
        yield pixels[top : top + CROP_HEIGHT, left : left + CROP_WIDTH]


def flip_bit(data: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(data)
    damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def cut_end(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(1, len(data))]


def drop_segment(data: bytes, rng: random.Random) -> bytes:
    """Remove one of the first three segments: length, payload and checksum."""
    segments = Container.from_bytes(data).segments
    sizes = [len(leb128(len(segment))) + len(segment) + 1 for segment in segments[:3]]
    number = rng.randrange(3)
    position = read_head(data).size_bytes + sum(sizes[:number])
    return data[:position] + data[position + sizes[number] :]


DAMAGES = {"bit flipped": flip_bit, "cut": cut_end, "segment dropped": drop_segment}


def report(codec: Codec, folder: Path, count: int, seed: int) -> None:
    """Damage `count` files in each way, and print counts and PSNR."""
    rng = random.Random(seed)
    detected: dict[str, int] = defaultdict(int)
    recovered: dict[str, int] = defaultdict(int)
    quality_db: dict[int, list[float]] = defaultdict(list)
    for pixels in random_crops(folder, count, rng):
        data = codec.encode(pixels, quality=rng.randrange(101))
        quality_db[4].append(psnr_db(pixels, codec.decode_array(data)))
        for name, damage in DAMAGES.items():
            damaged = damage(data, rng)
            try:
                codec.decode_array(damaged)
            except FormatError:
                detected[name] += 1
            try:
                recovery = codec.recover(damaged, max_pixels=CROP_WIDTH * CROP_HEIGHT)
            except FormatError:
                continue
            if recovery.pixels.shape == pixels.shape:
                recovered[name] += 1
                quality_db[recovery.n_segments].append(psnr_db(pixels, recovery.pixels))
    for name in DAMAGES:
        print(f"{name}: {count} files, {detected[name]} detected, {recovered[name]} shown by --recover")
    for n_segments, values in sorted(quality_db.items()):
        print(f"{n_segments} sound segments: {len(values)} pictures, mean {np.mean(values):.2f} dB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder of PNG pictures")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--model", default="small")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    report(ulcodec.load(arguments.model, device="cpu"), arguments.images, arguments.count, arguments.seed)


if __name__ == "__main__":
    main()
