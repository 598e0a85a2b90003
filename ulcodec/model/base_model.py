"""The base model of stage 2: a transformer that generates latents. It is larger than the prior that codes them.

B batch, C latent channels, x the latent grid: h w of a picture, or t h w of a clip. Latents are clean z in the paper's
units, as `encode_clean` returns them.
"""

import math
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ulcodec.diffusion.gaussian import corrected_gaussian, noisy_std
from ulcodec.diffusion.per_picture import per_picture
from ulcodec.diffusion.schedule import LATENT_LOG_SNR_1, alpha
from ulcodec.errors import ModelError
from ulcodec.model.config import check_dropout, check_transformer
from ulcodec.model.patches import from_patches, pointwise, to_patches
from ulcodec.model.transformer import LevelEmbedding, Transformer, zero_init


@dataclass(frozen=True)
class BaseModelConfig:
    """Shape of the transformer, which has one token per latent position.

    With `fine_blocks` it has two levels: half of them before and half after the `n_blocks` blocks of the coarse level,
    which has one token for 2x2 positions. `width` and `fine_width` are multiples of `head_size`, which is a multiple
    of 4. `n_axes`: axes of the latent grid, 2 for pictures and 3 for clips.
    """

    latent_channels: int
    width: int
    n_blocks: int
    head_size: int = 64
    dropout: float = 0.1
    n_axes: int = 2
    fine_width: int = 0
    fine_blocks: int = 0

    @classmethod
    def from_json(cls, values: Any) -> "BaseModelConfig":
        """Invert `asdict`. Raises ModelError for unknown or missing fields, and for values out of range."""
        try:
            config = cls(**values)
        except TypeError as error:
            raise ModelError(f"incomplete configuration of the base model: {error}") from error
        check_transformer(config.width, config.n_blocks, config.head_size, config.latent_channels)
        if config.fine_blocks:
            check_transformer(config.fine_width, config.fine_blocks, config.head_size, config.latent_channels)
        check_dropout(config.dropout)
        if config.n_axes not in (2, 3):
            raise ModelError(f"a base model has 2 or 3 axes, got {config.n_axes}")
        return config

    @property
    def step(self) -> int:
        """Number that divides the rows and columns of a latent."""
        return COARSE_SIDE if self.fine_blocks else 1


BASE_MODELS: dict[str, dict[str, Any]] = {
    "tiny": {"width": 64, "n_blocks": 2, "head_size": 32},
    "mini": {"width": 256, "n_blocks": 6},
    "small": {"width": 384, "n_blocks": 8},
    "medium": {"width": 768, "n_blocks": 12},
    "large": {"width": 1024, "n_blocks": 22},
    "paper": {"width": 1024, "n_blocks": 16, "fine_width": 512, "fine_blocks": 6},
}
"""`paper`: the widths and numbers of blocks of arXiv 2602.17270. It does not state how the levels are connected."""

COARSE_SIDE = 2
"""Positions per side that a token of the coarse level covers. Clips keep their extent in time."""


def base_model_config(name: str, latent_channels: int, n_axes: int = 2) -> BaseModelConfig:
    """Look up a configuration by name. Raises ModelError for an unknown name."""
    if name not in tuple(BASE_MODELS):
        raise ModelError(f"unknown base model {name!r}; known: {', '.join(BASE_MODELS)}")
    return BaseModelConfig(latent_channels=latent_channels, n_axes=n_axes, **BASE_MODELS[name])


class FineLevel(nn.Module):
    """The fine level of a transformer with two levels: blocks before and after the coarse level, and a skip."""

    def __init__(self, config: BaseModelConfig):
        super().__init__()
        width, n_blocks = config.fine_width, config.fine_blocks
        self.stride = (1,) * (config.n_axes - 2) + (COARSE_SIDE,) * 2
        self.level = LevelEmbedding(width)
        before = n_blocks - n_blocks // 2
        self.before = Transformer(width, before, config.head_size, config.dropout)
        self.down = to_patches(width, config.width, self.stride)
        self.up = zero_init(pointwise(config.width, math.prod(self.stride) * width, config.n_axes))
        self.after = Transformer(width, n_blocks - before, config.head_size, config.dropout)

    def forward(self, x: Tensor, log_snr: Tensor, coarse: Transformer, coarse_level: Tensor) -> Tensor:
        """x [B, fine_width, x], log_snr [B], coarse_level [B, width] -> [B, fine_width, x]."""
        level = self.level(log_snr)
        x = self.before(x, level)
        x = x + from_patches(self.up(coarse(self.down(x), coarse_level)), self.stride)
        result: Tensor = self.after(x, level)
        return result


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
        width = config.fine_width if config.fine_blocks else config.width
        self.level = LevelEmbedding(config.width)
        self.stem = pointwise(config.latent_channels, width, config.n_axes)
        self.fine = FineLevel(config) if config.fine_blocks else None
        self.transformer = Transformer(config.width, config.n_blocks, config.head_size, config.dropout)
        self.head = zero_init(pointwise(width, config.latent_channels, config.n_axes))

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Set the mean and standard deviation [C] of the latents."""
        with torch.no_grad():
            self.mean.copy_(mean)
            self.std.copy_(std)

    def blocks(self) -> list[nn.Module]:
        """Return all transformer blocks."""
        fine = () if self.fine is None else (self.fine.before, self.fine.after)
        return list(chain.from_iterable(transformer.blocks for transformer in (*fine, self.transformer)))

    def forward(self, z_t: Tensor, log_snr: Tensor) -> Tensor:
        """z_t [B, C, x], log_snr [B] -> z_hat [B, C, x], float32 under autocast too."""
        level = per_picture(log_snr.float(), z_t)
        mean, std = self._statistics()
        normalised = (z_t - alpha(level) * mean) / noisy_std(level, std)
        hidden = self._transformed(self.stem(normalised), log_snr)
        return corrected_gaussian(z_t, level, mean, std, self.head(hidden).float())

    def _transformed(self, hidden: Tensor, log_snr: Tensor) -> Tensor:
        level = self.level(log_snr)
        transformed: Tensor
        if self.fine is None:
            transformed = self.transformer(hidden, level)
        else:
            transformed = self.fine(hidden, log_snr, self.transformer, level)
        return transformed

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation, broadcastable to latents: [C, 1, ...]."""
        ones = (1,) * self.config.n_axes
        return self.mean.view(-1, *ones), self.std.view(-1, *ones)

    def draw_noisiest(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw z_1 [B, C, x] for `shape` (B, *x): Gaussian, with the mean and variance of latents at `t = 1`."""
        device = self.mean.device
        last = torch.tensor(LATENT_LOG_SNR_1, device=device)
        mean, std = self._statistics()
        batch, *grid = shape
        noise = torch.randn(batch, len(self.mean), *grid, generator=generator, device=device)
        return alpha(last) * mean + noisy_std(last, std) * noise
