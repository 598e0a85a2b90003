"""The interface of models that the objective `ul` trains."""

from typing import Protocol

from torch import Tensor


class LatentDiffusion(Protocol):
    """A model of pictures or of clips that the objective `ul` can train.

    z, z_0 in the paper's units, x in [0, 1], x_t scaled to [-1, 1].
    """

    def encode_clean(self, x: Tensor, quality: Tensor) -> Tensor: ...

    def denoise_latent(self, z_t: Tensor, log_snr: Tensor, quality: Tensor) -> Tensor: ...

    def denoise_picture(self, x_t: Tensor, log_snr: Tensor, z_0: Tensor, quality: Tensor) -> Tensor: ...
