"""Realistic pictures: samples of the decoder's diffusion in place of the posterior mean, or anything between."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ulcodec.diffusion import position_noise, sample
from ulcodec.model.config import ModelConfig
from ulcodec.model.decoder import Denoiser

FIRST_LOG_SNR, LAST_LOG_SNR = -2.0, 2.0
"""Where sampling begins, at noise alone, and where it ends. The noise that is left has the spectrum of what it replaces
and does not show as such; a wider range takes more steps for the same statistics (docs/lab-notes/realism.md)."""


@dataclass(frozen=True)
class Realism:
    """How to draw a picture from a file.

    `share`: 0 is the posterior mean, 1 a sample of the decoder's diffusion; in between, the point on the line between
    the two, which no decoder of the same distance from the pictures' distribution can beat in squared error (Freirich,
    Michaeli and Meir 2021, arXiv 2107.02555, theorem 3): it costs `10 log10(1 + share^2)` dB, 3 dB for a perfect
    sample. `n_steps`: evaluations of the denoiser, 1 to 50. `seed`: 0 to 2^64 - 1; one seed gives one picture on one
    device.
    """

    share: float = 0.0
    n_steps: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for a field out of range."""
        if not 0 <= self.share <= 1:
            raise ValueError(f"realism must be a number from 0 to 1, got {self.share}")
        if not 1 <= self.n_steps <= 50:
            raise ValueError(f"the number of steps must be from 1 to 50, got {self.n_steps}")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"the seed must be a whole number from 0 to 2^64 - 1, got {self.seed}")

    def halo(self, config: ModelConfig) -> int:
        """Latent positions that a sample sees to each side beyond what the trunk does."""
        outer = -(-config.denoiser_blocks // 2)
        reach_px = 2 * outer * 4 + config.denoiser_blocks * 8
        return -(-reach_px // 16) * self.n_steps

    def draw(self, denoiser: Denoiser, features: Tensor, mean: Tensor, rows: range, columns: range) -> Tensor:
        """A picture [1, 3, H, W] about [0, 1] around the mean, which lies at these rows and columns of the whole."""
        known = denoiser.conditions(features, 2 * mean - 1)
        noise = denoiser.coefficients(position_noise(self.seed, rows, columns).to(mean.device)[None])
        levels = np.linspace(FIRST_LOG_SNR, LAST_LOG_SNR, self.n_steps + 1).tolist()
        r = sample(
            lambda r_t, log_snr: denoiser(r_t, log_snr[:, None, None, None], known),
            noise.contiguous(memory_format=torch.channels_last),
            levels,
        )
        return mean + denoiser.pixels(self.share / 2 * known.log_std.exp() * r)
