"""Shape of the refiner. Needs no torch, so that graphs can be run without it."""

from dataclasses import dataclass
from typing import Any

from ulcodec.errors import ModelError
from ulcodec.model.config import MAX_BLOCKS, MAX_WIDTH, is_count

STILL_SCALE, STILL_TABLES = 0.2, 6
"""Predicted standard deviation in bins up to which an element is surely zero, and the number of frequency tables of
such scales. These elements stay where they are: the decoder was trained with zeros there."""

LARGEST_STEP = 1.0
"""Limit of a step in bins."""

STEP_SHARE = 0.8
"""Share of the steps that the encoder takes: those of neighbours partly repair the same error
(docs/lab-notes/rate-distortion-optimisation.md)."""


@dataclass(frozen=True)
class RefinerConfig:
    """Shape of the refiner: channels, and bottleneck blocks at 1/16 of the picture's sides."""

    width: int = 256
    n_blocks: int = 4

    def __post_init__(self) -> None:
        if not (is_count(self.width, MAX_WIDTH) and self.width > 1):
            raise ModelError(f"the refiner's width must be from 2 to {MAX_WIDTH}, got {self.width!r}")
        if not is_count(self.n_blocks, MAX_BLOCKS):
            raise ModelError(f"the refiner's blocks must be from 0 to {MAX_BLOCKS}, got {self.n_blocks!r}")

    @classmethod
    def from_json(cls, values: Any) -> "RefinerConfig":
        """Read the shape among other values. Raises ModelError for missing fields, and for values out of range."""
        try:
            return cls(width=values["width"], n_blocks=values["n_blocks"])
        except (TypeError, KeyError) as error:
            raise ModelError("incomplete configuration of the refiner: export the model again") from error

    @property
    def halo(self) -> int:
        """Latent positions on each side that a step depends on."""
        return self.n_blocks
