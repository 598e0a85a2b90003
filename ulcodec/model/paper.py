"""The architecture of the Unified Latents paper (arXiv 2602.17270), for 512x512 pictures.

It trains with the `ul` objective and writes no files; the codec's own model is in `unified.py`.

The paper states: a ResNet encoder with 2x2 patches, widths 128, 256, 512, 512, 2 blocks a stage and 3 in the last,
32 latent channels at 1/16; a ViT prior with 8 blocks of width 1024; a U-ViT decoder with 2x2 patches, convolution
stages 128, 256, 512, a middle of 8 transformer blocks of width 1024 and dropout 0.1; a deterministic encoder, whose
noise is fixed at log-SNR 5.

It does not state [NS] the following; chosen here:
- Target: v-prediction in prior and decoder, as in the authors' earlier work (simple diffusion, arXiv 2301.11093).
- Transformers: a token a latent position (the decoder's middle is at 1/16 too), head size 64, MLP ratio 4, GELU,
  pre-norm, normalised queries and keys, adaLN-zero conditioning (DiT, arXiv 2212.09748), rotary positions split
  between rows and columns, so that any grid size runs.
- Convolution blocks: two 3x3 convolutions, pre-activation group norm and SiLU. Strided 2x2 convolutions go down,
  1x1 convolutions and pixel shuffles go up.
- Log-SNR enters as sines and cosines through an MLP: scale, shift and gate in transformer blocks, scale and shift
  in the decoder's convolution blocks.
- z_0 enters the decoder by 1x1 projections: added to the middle tokens and, repeated over positions, to the input
  of every convolution stage on the way down.
- Decoder: 2 convolution blocks a stage each way and one additive skip a stage (SiD2, arXiv 2410.19324, argues for
  few skips); dropout in the middle's MLPs (simple diffusion keeps it from the highest resolutions), none elsewhere.
- Initial values: residual branches and both v heads are zero, so that `x_hat = alpha x_t` at first. The encoder's
  head is not: a zero latent costs the prior nothing and tells the decoder nothing.

B batch, C latent channels, H W pixels (multiples of 16), h w = H/16 W/16. Inputs and outputs are float32, under
autocast too. The networks take quality, so that they are called like the codec's, and ignore it.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ulcodec.schedule import alpha, sigma

PATCH_SIZE = 2
LATENT_STRIDE = 16
N_LEVEL_FREQUENCIES = 32
ROTARY_BASE = 100.0


@dataclass(frozen=True)
class PaperConfig:
    """Shapes of the three networks; `decoder_blocks` counts the blocks of a stage each way.

    `prior_width` and `middle_width` are multiples of `head_size`, `head_size` of 4, convolution widths of 4 below 128
    and of 32 from there on.
    """

    name: str
    encoder_widths: tuple[int, int, int, int]
    encoder_blocks: tuple[int, int, int, int]
    prior_width: int
    prior_blocks: int
    decoder_widths: tuple[int, int, int]
    decoder_blocks: int
    middle_width: int
    middle_blocks: int
    head_size: int
    latent_channels: int = 32
    decoder_dropout: float = 0.1


PAPER = PaperConfig(
    name="paper", encoder_widths=(128, 256, 512, 512), encoder_blocks=(2, 2, 2, 3), prior_width=1024, prior_blocks=8,
    decoder_widths=(128, 256, 512), decoder_blocks=2, middle_width=1024, middle_blocks=8, head_size=64,
)  # fmt: skip

PAPER_TINY = PaperConfig(
    name="paper_tiny", encoder_widths=(16, 16, 32, 32), encoder_blocks=(1, 1, 1, 1), prior_width=32, prior_blocks=2,
    decoder_widths=(16, 16, 32), decoder_blocks=1, middle_width=32, middle_blocks=2, head_size=16,
)  # fmt: skip


def clean_from_v(noisy: Tensor, v: Tensor, log_snr: Tensor) -> Tensor:
    """`x_hat = alpha x_t - sigma v`, with `v = alpha eps - sigma x` (arXiv 2202.00512, appendix D)."""
    log_snr = log_snr.float()[:, None, None, None]
    return alpha(log_snr) * noisy - sigma(log_snr) * v.float()


def modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return x * (1 + scale) + shift


def zero(layer: nn.Module) -> nn.Module:
    """The layer with all its parameters set to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def group_norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(32, width // 4), width)


def check_sides(x: Tensor) -> None:
    if x.shape[-2] % LATENT_STRIDE or x.shape[-1] % LATENT_STRIDE:
        raise ValueError(f"picture sides must be multiples of {LATENT_STRIDE}, got {x.shape[-2]}x{x.shape[-1]}")


class LevelEmbedding(nn.Module):
    """Noise level as a vector: sines and cosines of the log-SNR, periods 2 to 128, then an MLP."""

    def __init__(self, width: int):
        super().__init__()
        first = nn.Linear(2 * N_LEVEL_FREQUENCIES, width)
        self.mlp = nn.Sequential(first, nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, log_snr: Tensor) -> Tensor:
        """log_snr [B] -> [B, width]."""
        periods = 2.0 ** torch.linspace(1, 7, N_LEVEL_FREQUENCIES, device=log_snr.device)
        angles = 2 * math.pi * log_snr.float()[:, None] / periods
        embedding: Tensor = self.mlp(torch.cat((angles.sin(), angles.cos()), dim=1))
        return embedding


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions; with a `level_width`, the noise level scales and shifts between them."""

    def __init__(self, width: int, level_width: int | None = None):
        super().__init__()
        self.norm_1, self.conv_1 = group_norm(width), nn.Conv2d(width, width, 3, padding=1)
        self.norm_2, self.conv_2 = group_norm(width), zero(nn.Conv2d(width, width, 3, padding=1))
        self.level = None if level_width is None else zero(nn.Linear(level_width, 2 * width))

    def forward(self, x: Tensor, level: Tensor | None = None) -> Tensor:
        """x [B, width, H, W], level [B, level_width] -> [B, width, H, W]."""
        hidden = self.norm_2(self.conv_1(F.silu(self.norm_1(x))))
        if self.level is not None:
            hidden = modulate(hidden, *self.level(level)[:, :, None, None].chunk(2, dim=1))
        result: Tensor = x + self.conv_2(F.silu(hidden))
        return result


def rotary_angles(h: int, w: int, head_size: int, device: torch.device) -> Tensor:
    """Rotary embedding (arXiv 2104.09864): angles [h * w, head_size / 2], one half by the row, one by the column."""
    n_frequencies = head_size // 4
    frequencies = ROTARY_BASE ** (-torch.arange(n_frequencies, device=device) / n_frequencies)
    rows = (torch.arange(h, device=device)[:, None] * frequencies)[:, None].expand(h, w, -1)
    columns = (torch.arange(w, device=device)[:, None] * frequencies)[None].expand(h, w, -1)
    return torch.cat((rows, columns), dim=-1).flatten(0, 1)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turns the pairs (i, i + head_size / 2) of x [B, heads, N, head_size] by angles [N, head_size / 2]."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


class Attention(nn.Module):
    """Self-attention over all tokens, queries and keys normalised, then rotated by position."""

    def __init__(self, width: int, head_size: int):
        super().__init__()
        self.head_size = head_size
        self.qkv = nn.Linear(width, 3 * width)
        self.query_norm = nn.RMSNorm(head_size)
        self.key_norm = nn.RMSNorm(head_size)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        """x [B, N, width], angles [N, head_size / 2] -> [B, N, width]."""
        heads = self.qkv(x).unflatten(-1, (3, -1, self.head_size))  # [B, N, 3, heads, head_size]
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        query = rotate(self.query_norm(query.float()), angles).to(value.dtype)
        key = rotate(self.key_norm(key.float()), angles).to(value.dtype)
        mixed = F.scaled_dot_product_attention(query, key, value)
        result: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return result


class TransformerBlock(nn.Module):
    """Attention and MLP, each between a norm modulated and a gate set by the noise level; gates start at zero."""

    def __init__(self, width: int, head_size: int, dropout: float):
        super().__init__()
        self.norm_1 = nn.LayerNorm(width, elementwise_affine=False)
        self.norm_2 = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = Attention(width, head_size)
        expand, reduce = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(expand, nn.GELU(), nn.Dropout(dropout), reduce)
        self.level = zero(nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, level: Tensor, angles: Tensor) -> Tensor:
        """x [B, N, width], level [B, width], angles [N, head_size / 2] -> [B, N, width]."""
        scale_1, shift_1, gate_1, scale_2, shift_2, gate_2 = self.level(level)[:, None].chunk(6, dim=-1)
        x = x + gate_1 * self.attention(modulate(self.norm_1(x), scale_1, shift_1), angles)
        result: Tensor = x + gate_2 * self.mlp(modulate(self.norm_2(x), scale_2, shift_2))
        return result


class Transformer(nn.Module):
    """Transformer blocks over the positions of a grid, and a last modulated norm."""

    def __init__(self, width: int, n_blocks: int, head_size: int, dropout: float = 0.0):
        super().__init__()
        self.head_size = head_size
        self.blocks = nn.ModuleList(TransformerBlock(width, head_size, dropout) for _ in range(n_blocks))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.level = zero(nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """x [B, width, h, w], level [B, width] -> [B, width, h, w]."""
        angles = rotary_angles(x.shape[-2], x.shape[-1], self.head_size, x.device)
        tokens = x.flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = block(tokens, level, angles)
        tokens = modulate(self.norm(tokens), *self.level(level)[:, None].chunk(2, dim=-1))
        return tokens.transpose(1, 2).reshape(x.shape)


class PaperEncoder(nn.Module):
    """Deterministic ResNet encoder."""

    def __init__(self, config: PaperConfig):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width, n_blocks in zip(config.encoder_widths, config.encoder_blocks, strict=True):
            layers.append(nn.Conv2d(channels, width, PATCH_SIZE, stride=PATCH_SIZE))
            layers += [ResidualBlock(width) for _ in range(n_blocks)]
            channels = width
        self.stages = nn.Sequential(*layers)
        self.head = nn.Sequential(group_norm(channels), nn.SiLU(), nn.Conv2d(channels, config.latent_channels, 1))

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        """x [B, 3, H, W] in [0, 1] -> clean latent z [B, C, h, w], in the units in which its fixed noise has log-SNR 5.

        Raises ValueError if H or W is not a multiple of 16.
        """
        check_sides(x)
        z: Tensor = self.head(self.stages(2 * x - 1))
        return z.float()


class PaperPrior(nn.Module):
    """ViT on the latent grid, a token a position."""

    def __init__(self, config: PaperConfig):
        super().__init__()
        width = config.prior_width
        self.level = LevelEmbedding(width)
        self.stem = nn.Conv2d(config.latent_channels, width, 1)
        self.transformer = Transformer(width, config.prior_blocks, config.head_size)
        self.head = zero(nn.Conv2d(width, config.latent_channels, 1))

    def forward(self, z_t: Tensor, log_snr: Tensor, quality: Tensor) -> Tensor:
        """z_t [B, C, h, w], log_snr [B] -> z_hat [B, C, h, w]."""
        v = self.head(self.transformer(self.stem(z_t), self.level(log_snr)))
        return clean_from_v(z_t, v, log_snr)


class DownStage(nn.Module):
    """From the scale above to this one, with z_0 added."""

    def __init__(self, config: PaperConfig, in_channels: int, width: int):
        super().__init__()
        self.down = nn.Conv2d(in_channels, width, PATCH_SIZE, stride=PATCH_SIZE)
        self.latent = nn.Conv2d(config.latent_channels, width, 1)
        self.blocks = nn.ModuleList(ResidualBlock(width, config.middle_width) for _ in range(config.decoder_blocks))

    def forward(self, x: Tensor, z_0: Tensor, level: Tensor) -> Tensor:
        """x [B, in_channels, 2 H', 2 W'], z_0 [B, C, h, w], level [B, middle_width] -> [B, width, H', W']."""
        x = self.down(x)
        x = x + F.interpolate(self.latent(z_0), size=x.shape[-2:], mode="nearest")
        for block in self.blocks:
            x = block(x, level)
        return x


class UpStage(nn.Module):
    """From the scale below to this one, with the skip added."""

    def __init__(self, config: PaperConfig, in_channels: int, width: int):
        super().__init__()
        self.up = nn.Conv2d(in_channels, PATCH_SIZE**2 * width, 1)
        self.blocks = nn.ModuleList(ResidualBlock(width, config.middle_width) for _ in range(config.decoder_blocks))

    def forward(self, x: Tensor, skip: Tensor, level: Tensor) -> Tensor:
        """x [B, in_channels, H'/2, W'/2], skip [B, width, H', W'], level [B, middle_width] -> [B, width, H', W']."""
        x = skip + F.pixel_shuffle(self.up(x), PATCH_SIZE)
        for block in self.blocks:
            x = block(x, level)
        return x


class PaperDecoder(nn.Module):
    """U-ViT: convolution stages at 1/2, 1/4, 1/8, a transformer at 1/16, and back."""

    def __init__(self, config: PaperConfig):
        super().__init__()
        first, second, third = config.decoder_widths
        width = config.middle_width
        self.level = LevelEmbedding(width)
        self.down = nn.ModuleList(DownStage(config, *pair) for pair in ((3, first), (first, second), (second, third)))
        self.middle_down = nn.Conv2d(third, width, PATCH_SIZE, stride=PATCH_SIZE)
        self.middle_latent = nn.Conv2d(config.latent_channels, width, 1)
        self.middle = Transformer(width, config.middle_blocks, config.head_size, config.decoder_dropout)
        self.up = nn.ModuleList(UpStage(config, *pair) for pair in ((width, third), (third, second), (second, first)))
        self.norm = group_norm(first)
        self.head = zero(nn.Conv2d(first, 3 * PATCH_SIZE**2, 1))

    def forward(self, x_t: Tensor, log_snr: Tensor, z_0: Tensor, quality: Tensor) -> Tensor:
        """x_t [B, 3, H, W], log_snr [B], z_0 [B, C, h, w] -> x_hat [B, 3, H, W]. Clean pictures are in [-1, 1];
        x_hat is not clamped.

        Raises ValueError if H or W is not a multiple of 16.
        """
        check_sides(x_t)
        level = self.level(log_snr)
        hidden, skips = x_t, []
        for stage in self.down:
            hidden = stage(hidden, z_0, level)
            skips.append(hidden)
        hidden = self.middle(self.middle_down(hidden) + self.middle_latent(z_0), level)
        for stage in self.up:
            hidden = stage(hidden, skips.pop(), level)
        v = F.pixel_shuffle(self.head(F.silu(self.norm(hidden))), PATCH_SIZE)
        return clean_from_v(x_t, v, log_snr)


class PaperModel(nn.Module):
    """Encoder, prior and decoder with fresh weights.

    `PAPER` has 28 M, 154 M and 192 M parameters and costs 519, 459 and 1394 kMAC a pixel at 512x512.
    """

    def __init__(self, config: PaperConfig):
        super().__init__()
        self.config = config
        self.encoder = PaperEncoder(config)
        self.prior = PaperPrior(config)
        self.decoder = PaperDecoder(config)

    def encode_clean(self, x: Tensor, quality: Tensor) -> Tensor:
        """x [B, 3, H, W] in [0, 1] -> clean latent z [B, C, h, w]."""
        z: Tensor = self.encoder(x, quality)
        return z

    def denoise_latent(self, z_t: Tensor, log_snr: Tensor, quality: Tensor) -> Tensor:
        """z_t [B, C, h, w], log_snr [B] -> z_hat."""
        z_hat: Tensor = self.prior(z_t, log_snr, quality)
        return z_hat

    def denoise_picture(self, x_t: Tensor, log_snr: Tensor, z_0: Tensor, quality: Tensor) -> Tensor:
        """x_t [B, 3, H, W] scaled to [-1, 1], log_snr [B], z_0 [B, C, h, w] -> x_hat scaled to [-1, 1]."""
        x_hat: Tensor = self.decoder(x_t, log_snr, z_0, quality)
        return x_hat
