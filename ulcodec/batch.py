"""Several pictures at once: those of one latent grid share the passes of all networks, each has a file of its own.

A GPU is idle for most of a small picture, and on a CPU a picture of 64x64 pixels costs little more than the calls that
it takes. The files are those that `Codec` reads and writes.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ulcodec.attachments import from_full_range
from ulcodec.codec import (
    ANALYSIS_SHARE,
    DECODING_SHARE,
    Codec,
    Encoding,
    ImageLike,
    as_picture,
    checked_quality,
    latent_grid,
)
from ulcodec.container import MAX_PIXELS
from ulcodec.images import Picture
from ulcodec.latent_coding import decode_latents, encode_latents
from ulcodec.progress import share, tracked

POSITIONS_ON_CPU, POSITIONS_ON_GPU = 2**10, 2**14
"""Latent positions, of 256 pixels each, that go through the networks together: what gains on a CPU
(docs/lab-notes/coding-speed.md), and what a GPU has memory for."""

Kind = tuple[Any, ...]
"""What pictures that go together have in common, their latent grid first."""


def positions_at_once(device: torch.device) -> int:
    return POSITIONS_ON_CPU if device.type == "cpu" else POSITIONS_ON_GPU


def encode_batch(
    codec: Codec,
    images: Sequence[ImageLike],
    *,
    quality: int = 50,
    alpha_quality: int | None = None,
    strip: bool = False,
    effort: int = 1,
    max_pixels: int = MAX_PIXELS,
) -> list[bytes]:
    """The files of several pictures, of any sizes. Parameters and errors as in `Codec.encode`.

    Above effort 1 a picture is refined and coded by itself.
    """
    checked_quality(quality)
    encodings = [Encoding(codec, as_picture(image, max_pixels), alpha_quality, strip, effort) for image in images]
    if effort > 1:
        return [encoding.code_once(quality) for encoding in tracked(encodings)]
    files = [b""] * len(encodings)
    for indices in tracked(list(together(codec, [(encoding.grid,) for encoding in encodings]))):
        with share(ANALYSIS_SHARE):
            latents = codec.analyse_batch([encodings[index].pixels for index in indices], quality)
        for index, coded in zip(indices, encode_latents(codec.coder, *latents, quality, overwrite_y=True), strict=True):
            files[index] = encodings[index].file(coded, quality)
    return files


def decode_batch(codec: Codec, files: Sequence[bytes], *, max_pixels: int = MAX_PIXELS) -> list[Picture]:
    """The pictures of several files, of any sizes. Errors as in `Codec.decode`: that of a broken file is raised."""
    containers = [codec.open(data, max_pixels) for data in files]
    pictures: dict[int, Picture] = {}
    kinds = [(latent_grid(said), said.quality, said.symbol_check is None, said.is_lossless) for said in containers]
    for indices in tracked(list(together(codec, kinds))):
        said = [containers[index] for index in indices]
        grid, quality, is_cut, is_lossless = kinds[indices[0]]
        if is_lossless:
            pictures |= {index: codec.lossless_picture(containers[index]) for index in indices}
            continue
        with share(DECODING_SHARE):
            if is_cut:
                decoded = [codec.decode_latents(own) for own in tracked(said)]
            else:
                checks = [own.symbol_check or 0 for own in said]
                decoded = decode_latents(codec.coder, [own.segments for own in said], checks, quality, grid)
        for index, own, pixels in zip(indices, said, codec.synthesise(decoded, said), strict=True):
            pictures[index] = Picture(from_full_range(pixels, own), **codec.detach(own))
    return [pictures[index] for index in range(len(files))]


def together(codec: Codec, kinds: Sequence[Kind]) -> Iterator[list[int]]:
    """Indices of pictures of one kind, as many as the device takes at once."""
    groups: dict[Kind, list[int]] = defaultdict(list)
    for index, kind in enumerate(kinds):
        groups[kind].append(index)
    for ((h, w), *_), indices in groups.items():
        size = max(positions_at_once(codec.device) // (h * w), 1)
        for start in range(0, len(indices), size):
            yield indices[start : start + size]
