"""Decode with realism: samples of the decoder's diffusion, the posterior mean, or a point between them."""

from dataclasses import dataclass

from ulcodec.model.config import PATCH_PX, ModelConfig

FIRST_LOG_SNR, LAST_LOG_SNR = -2.0, 2.0
"""Log-SNR where sampling begins, at pure noise, and where it ends. The remaining noise has the spectrum of the detail
that it replaces, and is not visible as noise. A wider range needs more evaluations (docs/lab-notes/realism.md)."""


@dataclass(frozen=True)
class Realism:
    """How much detail to sample when decoding, and how.

    `share`: 0 decodes to the posterior mean, 1 to a sample of the decoder's diffusion, a value between to the point on
    the line between both. No decoder at the same distance from the distribution of pictures has a smaller squared error
    (Freirich, Michaeli and Meir 2021, arXiv 2107.02555, theorem 3). It costs `10 log10(1 + share^2)` dB: 3 dB for a
    perfect sample. `n_steps`: evaluations of the denoiser, 1 to 50. `seed`: 0 to 2^64 - 1; a seed gives one picture per
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

    @classmethod
    def of(cls, realism: "float | Realism") -> "Realism":
        """Make one of a share, or return it as it is. Raises ValueError for a share out of range."""
        return realism if isinstance(realism, Realism) else cls(realism)

    def halo(self, config: ModelConfig) -> int:
        """Halo of a sample, in latent positions, beyond the trunk's halo; 0 for the posterior mean."""
        if not self.share:
            return 0
        outer = -(-config.denoiser_blocks // 2)
        reach_px = 2 * outer * 4 + config.denoiser_blocks * 8
        return -(-reach_px // PATCH_PX) * self.n_steps


POSTERIOR_MEAN = Realism()
