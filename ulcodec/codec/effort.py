"""Efforts of the encoder, and what refinement returns; `ulcodec.codec.refinement` refines."""

from typing import NamedTuple

from ulcodec.codec.networks import Array

EFFORT_STEPS = (0, 1, 2, 3, 5, 8, 16, 32, 64)
"""Refinement steps at effort 1 to 9."""


class Refined(NamedTuple):
    """A refined latent [h, w, C], its coded segments and symbol check, and the thrift that they were coded with."""

    y: Array
    segments: tuple[bytes, ...]
    symbol_check: int
    thrift: float
