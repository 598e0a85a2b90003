"""Efforts of the encoder, and what refinement returns; `ulcodec.codec.refinement` refines."""

from typing import NamedTuple

from ulcodec.codec.networks import Array


class Steps(NamedTuple):
    """Numbers of refinement steps: of the whole latent, and then of the elements of the last reveal pass."""

    whole: int
    last_pass: int

    @property
    def total(self) -> int:
        """Number of steps of both kinds."""
        return self.whole + self.last_pass

    @property
    def of_residual(self) -> "Steps":
        """Steps for the latent of a predicted frame, where those of the last pass give less."""
        return Steps(self.whole + 1, 0) if self.total else self


NO_STEPS = Steps(0, 0)

EFFORT_STEPS = (NO_STEPS, Steps(0, 2), *(Steps(n_whole, 1) for n_whole in (1, 2, 4, 7, 15, 31, 63)))
"""Refinement steps at effort 1 to 9."""


class Refined(NamedTuple):
    """A refined latent [h, w, C], its coded segments and symbol check, and the thrift that they were coded with."""

    y: Array
    segments: tuple[bytes, ...]
    symbol_check: int
    thrift: float
