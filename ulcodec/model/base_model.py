"""The base model of stage 2: a transformer that draws latents, larger than the prior that codes them.

B batch, C latent channels, h w the latent grid. Latents are clean z in the paper's units, as `encode_clean` gives them.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ulcodec.diffusion.schedule import LATENT_LOG_SNR_1, alpha, sigma
from ulcodec.errors import ModelError
from ulcodec.model.transformer import LevelEmbedding, Transformer, zero


@dataclass(frozen=True)
class BaseModelConfig:
    """Shape of the transformer, a token a latent position. `width` is a multiple of `head_size`, that of 4."""

    latent_channels: int
    width: int
    n_blocks: int
    head_size: int = 64
    dropout: float = 0.1


BASE_MODELS: dict[str, dict[str, Any]] = {
    "tiny": {"width": 64, "n_blocks": 2, "head_size": 32},
    "mini": {"width": 256, "n_blocks": 6},
    "small": {"width": 384, "n_blocks": 8},
    "medium": {"width": 768, "n_blocks": 12},
    "large": {"width": 1024, "n_blocks": 22},
}


def base_model_config(name: str, latent_channels: int) -> BaseModelConfig:
    """A configuration by name. Raises ModelError for one that is not known."""
    if name not in BASE_MODELS:
        raise ModelError(f"unknown base model {name!r}; known: {', '.join(BASE_MODELS)}")
    return BaseModelConfig(latent_channels=latent_channels, **BASE_MODELS[name])


class BaseModel(nn.Module):
    """Denoiser of latents: the exact one for a Gaussian of the latents' mean and deviation, and a network's correction.

    Channels of a codec's latent differ in scale by orders of magnitude. The network sees each at unit variance at every
    noise level, and its output of unit variance is what the Gaussian's denoiser misses (after EDM, arXiv 2206.00364,
    section 5, with one data deviation a channel). `mean` and `std` are not trained.
    """

    def __init__(self, config: BaseModelConfig):
        super().__init__()
        self.config = config
        self.mean = nn.Parameter(torch.zeros(config.latent_channels), requires_grad=False)
        self.std = nn.Parameter(torch.ones(config.latent_channels), requires_grad=False)
        self.level = LevelEmbedding(config.width)
        self.stem = nn.Conv2d(config.latent_channels, config.width, 1)
        self.transformer = Transformer(config.width, config.n_blocks, config.head_size, config.dropout)
        self.head = zero(nn.Conv2d(config.width, config.latent_channels, 1))

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Mean and standard deviation [C] of the latents."""
        with torch.no_grad():
            self.mean.copy_(mean)
            self.std.copy_(std)

    def forward(self, z_t: Tensor, log_snr: Tensor) -> Tensor:
        """z_t [B, C, h, w], log_snr [B] -> z_hat [B, C, h, w], float32 under autocast too."""
        level = log_snr.float()[:, None, None, None]
        a, s = alpha(level), sigma(level)
        mean, std = self.mean[:, None, None], self.std[:, None, None]
        total = torch.sqrt((a * std) ** 2 + s**2)
        centred = z_t - a * mean
        hidden = self.transformer(self.stem(centred / total), self.level(log_snr))
        correction = self.head(hidden).float()
        z_hat: Tensor = mean + (a * std**2 / total * centred + std * s * correction) / total
        return z_hat

    def draw_noisiest(self, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        """z_1 [B, C, h, w] for `shape` = (B, h, w): a Gaussian with the mean and variance of the noisy latents."""
        device = self.mean.device
        last = torch.tensor(LATENT_LOG_SNR_1, device=device)
        mean, std = self.mean[:, None, None], self.std[:, None, None]
        batch, h, w = shape
        noise = torch.randn(batch, len(self.mean), h, w, generator=generator, device=device)
        return alpha(last) * mean + torch.sqrt((alpha(last) * std) ** 2 + sigma(last) ** 2) * noise
