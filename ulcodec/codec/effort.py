"""Efforts of the encoder, and what refinement returns.

`ulcodec.codec.refiner` refines by a network, `ulcodec.codec.refinement` by gradients.
"""

from typing import NamedTuple

from ulcodec.codec.networks import Array

EFFORT_STEPS = (0, 1, 2, 3, 5, 8, 16, 32, 64)
"""Refinement steps at effort 1 to 9, along gradients."""

REFINER_EFFORT = 2
"""Effort at which a network predicts the step, where a model has one."""


class Refinement(NamedTuple):
    """How a latent is refined: by `n_steps` along gradients, or by one that the refiner predicts, or not at all."""

    n_steps: int = 0
    by_refiner: bool = False


NO_REFINEMENT = Refinement()


def refinement_of(effort: int, *, has_refiner: bool) -> Refinement:
    """Return what an effort from 1 to 9 means for pictures, with a model that has a refiner or has none."""
    if effort == REFINER_EFFORT and has_refiner:
        return Refinement(by_refiner=True)
    return Refinement(EFFORT_STEPS[effort - 1])


class Refined(NamedTuple):
    """A refined latent [h, w, C], its coded segments and symbol check, and the thrift that they were coded with."""

    y: Array
    segments: tuple[bytes, ...]
    symbol_check: int
    thrift: float
