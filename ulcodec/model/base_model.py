"""The base model of stage 2: a transformer that generates latents. It is larger than the prior that codes them.

B batch, C latent channels, h w the latent grid. Latents are clean z in the paper's units, as `encode_clean` returns
them.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ulcodec.diffusion.schedule import LATENT_LOG_SNR_1, alpha, sigma
from ulcodec.errors import ModelError
from ulcodec.model.transformer import LevelEmbedding, Transformer, zero_init


@dataclass(frozen=True)
class BaseModelConfig:
    """Shape of the transformer, which has one token per latent position.

    `width` is a multiple of `head_size`, which is a multiple of 4.
    """

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
    """Look up a configuration by name. Raises ModelError for an unknown name."""
    if name not in BASE_MODELS:
        raise ModelError(f"unknown base model {name!r}; known: {', '.join(BASE_MODELS)}")
    return BaseModelConfig(latent_channels=latent_channels, **BASE_MODELS[name])


class BaseModel(nn.Module):
    """Denoiser of latents: the exact denoiser of a Gaussian, plus the correction of a network.

    The Gaussian has the latents' mean and standard deviation per channel; channels differ in scale by orders of
    magnitude. Input and target of the network have unit variance at every noise level (after EDM, arXiv 2206.00364,
    section 5, with one standard deviation of the data per channel). `mean` and `std` are not trained.
    """

    def __init__(self, config: BaseModelConfig):
        super().__init__()
        self.config = config
        self.mean = nn.Parameter(torch.zeros(config.latent_channels), requires_grad=False)
        self.std = nn.Parameter(torch.ones(config.latent_channels), requires_grad=False)
        self.level = LevelEmbedding(config.width)
        self.stem = nn.Conv2d(config.latent_channels, config.width, 1)
        self.transformer = Transformer(config.width, config.n_blocks, config.head_size, config.dropout)
        self.head = zero_init(nn.Conv2d(config.width, config.latent_channels, 1))

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Set the mean and standard deviation [C] of the latents."""
        with torch.no_grad():
            self.mean.copy_(mean)
            self.std.copy_(std)

    def forward(self, z_t: Tensor, log_snr: Tensor) -> Tensor:
        """z_t [B, C, h, w], log_snr [B] -> z_hat [B, C, h, w], float32 under autocast too."""
        level = log_snr.float()[:, None, None, None]
        a, s = alpha(level), sigma(level)
        mean, std = self.mean[:, None, None], self.std[:, None, None]
        noisy_std = torch.sqrt((a * std) ** 2 + s**2)
        centred = z_t - a * mean
        hidden = self.transformer(self.stem(centred / noisy_std), self.level(log_snr))
        correction = self.head(hidden).float()
        z_hat: Tensor = mean + (a * std**2 / noisy_std * centred + std * s * correction) / noisy_std
        return z_hat

    def draw_noisiest(self, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        """Draw z_1 [B, C, h, w] for `shape` (B, h, w): Gaussian, with the mean and variance of latents at `t = 1`."""
        device = self.mean.device
        last = torch.tensor(LATENT_LOG_SNR_1, device=device)
        mean, std = self.mean[:, None, None], self.std[:, None, None]
        batch, h, w = shape
        noise = torch.randn(batch, len(self.mean), h, w, generator=generator, device=device)
        return alpha(last) * mean + torch.sqrt((alpha(last) * std) ** 2 + sigma(last) ** 2) * noise
