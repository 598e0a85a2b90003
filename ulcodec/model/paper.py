"""The architecture of the Unified Latents paper (arXiv 2602.17270), for 512x512 pictures: an experiment.

It trains with the `ul` objective and cannot write files. The codec's model is in `unified.py`.

The paper states: a ResNet encoder with 2x2 patches, widths 128, 256, 512, 512, 2 blocks a stage and 3 in the last,
32 latent channels at 1/16; a ViT prior with 8 blocks of width 1024; a U-ViT decoder with 2x2 patches, convolution
stages 128, 256, 512, a middle of 8 transformer blocks of width 1024 and dropout 0.1; a deterministic encoder, whose
noise is fixed at log-SNR 5.

It does not state [NS] the following. Choices made here:
- Target: v-prediction in prior and decoder, as in the authors' earlier work (simple diffusion, arXiv 2301.11093).
- Transformers: one token per latent position (the decoder's middle is at 1/16 too), head size 64, MLP ratio 4, GELU,
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
  head is not zero: a zero latent would cost the prior nothing and tell the decoder nothing.

B batch, C latent channels, H W pixels (multiples of 16), h w = H/16 W/16. Inputs and outputs are float32, also under
autocast. The networks accept quality, to have the interface of the codec's model, and ignore it.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from ulcodec.diffusion.schedule import alpha, sigma
from ulcodec.model.config import PATCH_PX, PaperConfig
from ulcodec.model.transformer import LevelEmbedding, Transformer, scale_and_shift, zero_init

PATCH_SIZE = 2


def clean_from_v(noisy: Tensor, v: Tensor, log_snr: Tensor) -> Tensor:
    """Convert v to a clean estimate: `x_hat = alpha x_t - sigma v` (arXiv 2202.00512, appendix D).

    `v = alpha eps - sigma x`.
    """
    log_snr = log_snr.float()[:, None, None, None]
    return alpha(log_snr) * noisy - sigma(log_snr) * v.float()


def _group_norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(32, width // 4), width)


def _check_sides(x: Tensor) -> None:
    if x.shape[-2] % PATCH_PX or x.shape[-1] % PATCH_PX:
        raise ValueError(f"picture sides must be multiples of {PATCH_PX}, got {x.shape[-2]}x{x.shape[-1]}")


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions. With a `level_width`, the noise level scales and shifts the features between them."""

    def __init__(self, width: int, level_width: int | None = None):
        super().__init__()
        self.norm_1, self.conv_1 = _group_norm(width), nn.Conv2d(width, width, 3, padding=1)
        self.norm_2, self.conv_2 = _group_norm(width), zero_init(nn.Conv2d(width, width, 3, padding=1))
        self.level = None if level_width is None else zero_init(nn.Linear(level_width, 2 * width))

    def forward(self, x: Tensor, level: Tensor | None = None) -> Tensor:
        """x [B, width, H, W], level [B, level_width] -> [B, width, H, W]."""
        hidden = self.norm_2(self.conv_1(F.silu(self.norm_1(x))))
        if self.level is not None:
            hidden = scale_and_shift(hidden, *self.level(level)[:, :, None, None].chunk(2, dim=1))
        result: Tensor = x + self.conv_2(F.silu(hidden))
        return result


class PaperEncoder(nn.Module):
    """Deterministic ResNet from a picture to its latent."""

    def __init__(self, config: PaperConfig):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width, n_blocks in zip(config.encoder_widths, config.encoder_blocks, strict=True):
            layers.append(nn.Conv2d(channels, width, PATCH_SIZE, stride=PATCH_SIZE))
            layers += [ResidualBlock(width) for _ in range(n_blocks)]
            channels = width
        self.stages = nn.Sequential(*layers)
        self.head = nn.Sequential(_group_norm(channels), nn.SiLU(), nn.Conv2d(channels, config.latent_channels, 1))

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        """x [B, 3, H, W] in [0, 1] -> clean latent z [B, C, h, w] in units where its fixed noise has log-SNR 5.

        Raises ValueError if H or W is not a multiple of 16.
        """
        _check_sides(x)
        z: Tensor = self.head(self.stages(2 * x - 1))
        return z.float()


class PaperPrior(nn.Module):
    """ViT on the latent grid, one token per position."""

    def __init__(self, config: PaperConfig):
        super().__init__()
        width = config.prior_width
        self.level = LevelEmbedding(width)
        self.stem = nn.Conv2d(config.latent_channels, width, 1)
        self.transformer = Transformer(width, config.prior_blocks, config.head_size)
        self.head = zero_init(nn.Conv2d(width, config.latent_channels, 1))

    def forward(self, z_t: Tensor, log_snr: Tensor, quality: Tensor) -> Tensor:
        """z_t [B, C, h, w], log_snr [B] -> z_hat [B, C, h, w]."""
        v = self.head(self.transformer(self.stem(z_t), self.level(log_snr)))
        return clean_from_v(z_t, v, log_snr)


class DownStage(nn.Module):
    """Stage on the way down: from the next finer scale to this one, with z_0 added."""

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
    """Stage on the way up: from the next coarser scale to this one, with the skip added."""

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
        self.norm = _group_norm(first)
        self.head = zero_init(nn.Conv2d(first, 3 * PATCH_SIZE**2, 1))

    def forward(self, x_t: Tensor, log_snr: Tensor, z_0: Tensor, quality: Tensor) -> Tensor:
        """x_t [B, 3, H, W], log_snr [B], z_0 [B, C, h, w] -> x_hat [B, 3, H, W].

        Clean pictures are in [-1, 1]; x_hat is not clamped. Raises ValueError if H or W is not a multiple of 16.
        """
        _check_sides(x_t)
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
    """Encoder, prior and decoder, with initial weights.

    With `PAPER` they have 28 M, 154 M and 192 M parameters, and cost 519, 459 and 1394 kMAC a pixel at 512x512.
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
