"""The architecture of the Unified Latents paper (arXiv 2602.17270), for pictures and for clips: an experiment.

It trains with the `ul` objective and cannot write files. The codec's model is in `unified.py`.

For 512x512 pictures, the paper states: a ResNet encoder with 2x2 patches, widths 128, 256, 512, 512, 2 blocks a stage
and 3 in the last, 32 latent channels at 1/16; a ViT prior with 8 blocks of width 1024; a U-ViT decoder with 2x2
patches, convolution stages 128, 256, 512, a middle of 8 transformer blocks of width 1024 and dropout 0.1; a
deterministic encoder, whose noise is fixed at log-SNR 5. For clips of 16 frames of 128x128, it states a reduction of
4 in time and of 8 in height and width.

It does not state [NS] the following. Choices made here:
- Target: v-prediction in prior and decoder, as in the authors' earlier work (simple diffusion, arXiv 2301.11093).
- Transformers: one token per latent position (the decoder's middle has one per latent position too), head size 64, MLP
  ratio 4, GELU, pre-norm, normalised queries and keys, adaLN-zero conditioning (DiT, arXiv 2212.09748), rotary
  positions split between the axes of the grid, so that any grid size runs.
- Convolution blocks: two convolutions with kernels of 3 along each axis, pre-activation group norm and SiLU. Strided
  convolutions without overlap go down, convolutions of single positions and rearrangement to patches go up.
- Log-SNR enters as sines and cosines through an MLP: scale, shift and gate in transformer blocks, scale and shift
  in the decoder's convolution blocks.
- z_0 enters the decoder by projections of single positions: added to the middle tokens and, repeated over positions,
  to the input of every convolution stage on the way down.
- Decoder: 2 convolution blocks a stage each way and one additive skip a stage (SiD2, arXiv 2410.19324, argues for
  few skips); dropout in the middle's MLPs (simple diffusion keeps it from the highest resolutions), none elsewhere.
- Initial values: residual branches and both v heads are zero, so that `x_hat = alpha x_t` at first. The encoder's
  head is not zero: a zero latent would cost the prior nothing and tell the decoder nothing.
- Clips: the widths and numbers of blocks are those for pictures. The first stage halves height and width, the second
  and third also halve the time, and the fourth reduces nothing, so that 16x128x128 gives 1024 tokens, as 512x512 does.
  32 latent channels: one for 24 samples, as for pictures. All convolutions see frames before and after.

B batch, C latent channels; X is a picture H W, or a clip T H W; x is its latent grid. Inputs and outputs are float32,
also under autocast. The networks accept quality, to have the interface of the codec's model, and ignore it.
"""

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from ulcodec.diffusion.per_picture import per_picture
from ulcodec.diffusion.schedule import alpha, sigma
from ulcodec.model.config import PaperConfig, Stride
from ulcodec.model.linear_paths import LinearDecoder, LinearEncoder
from ulcodec.model.patches import CONVOLUTIONS, from_patches, pointwise, to_patches
from ulcodec.model.transformer import LevelEmbedding, Transformer, scale_and_shift, zero_init


def clean_from_v(noisy: Tensor, v: Tensor, log_snr: Tensor) -> Tensor:
    """Convert v to a clean estimate: `x_hat = alpha x_t - sigma v` (arXiv 2202.00512, appendix D).

    `v = alpha eps - sigma x`.
    """
    level = per_picture(log_snr.float(), noisy)
    return alpha(level) * noisy - sigma(level) * v.float()


def _group_norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(32, width // 4), width)


def _check_extents(x: Tensor, patch: Sequence[int]) -> None:
    extents = x.shape[2:]
    if len(extents) != len(patch) or any(side % step for side, step in zip(extents, patch, strict=True)):
        expected, got = ("x".join(map(str, sides)) for sides in (patch, extents))
        raise ValueError(f"extents must be multiples of {expected}, got {got}")


class ResidualBlock(nn.Module):
    """Two convolutions of 3 positions along each axis.

    With a `level_width`, the noise level scales and shifts the features between them.
    """

    def __init__(self, width: int, n_axes: int, level_width: int | None = None):
        super().__init__()
        convolution = CONVOLUTIONS[n_axes]
        self.norm_1, self.conv_1 = _group_norm(width), convolution(width, width, 3, padding=1)
        self.norm_2, self.conv_2 = _group_norm(width), zero_init(convolution(width, width, 3, padding=1))
        self.level = None if level_width is None else zero_init(nn.Linear(level_width, 2 * width))

    def forward(self, x: Tensor, level: Tensor | None = None) -> Tensor:
        """x [B, width, X], level [B, level_width] -> [B, width, X]."""
        hidden = self.norm_2(self.conv_1(F.silu(self.norm_1(x))))
        if self.level is not None:
            scale, shift = self.level(level).view(len(x), -1, *(1 for _ in x.shape[2:])).chunk(2, dim=1)
            hidden = scale_and_shift(hidden, scale, shift)
        result: Tensor = x + self.conv_2(F.silu(hidden))
        return result


class PaperEncoder(nn.Module):
    """Deterministic ResNet from a picture or clip to its latent."""

    def __init__(self, config: PaperConfig):
        super().__init__()
        self.patch = config.patch
        layers: list[nn.Module] = []
        channels = 3
        for width, n_blocks, stride in zip(config.encoder_widths, config.encoder_blocks, config.strides, strict=True):
            layers.append(to_patches(channels, width, stride))
            layers += [ResidualBlock(width, config.n_axes) for _ in range(n_blocks)]
            channels = width
        self.stages = nn.Sequential(*layers)
        head = pointwise(channels, config.latent_channels, config.n_axes)
        self.linear_path = LinearEncoder(config) if config.linear_paths else None
        if self.linear_path is not None:
            zero_init(head)
        self.head = nn.Sequential(_group_norm(channels), nn.SiLU(), head)

    def forward(self, x: Tensor, quality: Tensor) -> Tensor:
        """x [B, 3, X] in [0, 1] -> clean latent z [B, C, x] in units where its fixed noise has log-SNR 5.

        Raises ValueError if X is not a multiple of the extent of a latent position.
        """
        _check_extents(x, self.patch)
        scaled = 2 * x - 1
        z: Tensor = self.head(self.stages(scaled))
        return z.float() if self.linear_path is None else z.float() + self.linear_path(scaled).float()


class PaperPrior(nn.Module):
    """ViT on the latent grid, one token per position."""

    def __init__(self, config: PaperConfig):
        super().__init__()
        width = config.prior_width
        self.level = LevelEmbedding(width)
        self.stem = pointwise(config.latent_channels, width, config.n_axes)
        self.transformer = Transformer(width, config.prior_blocks, config.head_size)
        self.head = zero_init(pointwise(width, config.latent_channels, config.n_axes))

    def forward(self, z_t: Tensor, log_snr: Tensor, quality: Tensor) -> Tensor:
        """z_t [B, C, x], log_snr [B] -> z_hat [B, C, x]."""
        v = self.head(self.transformer(self.stem(z_t), self.level(log_snr)))
        return clean_from_v(z_t, v, log_snr)


class DownStage(nn.Module):
    """Stage on the way down: from the next finer scale to this one, with z_0 added."""

    def __init__(self, config: PaperConfig, in_channels: int, width: int, stride: Stride):
        super().__init__()
        self.down = to_patches(in_channels, width, stride)
        self.latent = pointwise(config.latent_channels, width, config.n_axes)
        self.blocks = nn.ModuleList(
            ResidualBlock(width, config.n_axes, config.middle_width) for _ in range(config.decoder_blocks)
        )

    def forward(self, x: Tensor, z_0: Tensor, level: Tensor) -> Tensor:
        """x [B, in_channels, X], z_0 [B, C, x], level [B, middle_width] -> [B, width, X / stride]."""
        x = self.down(x)
        x = x + F.interpolate(self.latent(z_0), size=x.shape[2:], mode="nearest")
        for block in self.blocks:
            x = block(x, level)
        return x


class UpStage(nn.Module):
    """Stage on the way up: from the next coarser scale to this one, with the skip added."""

    def __init__(self, config: PaperConfig, in_channels: int, width: int, stride: Stride):
        super().__init__()
        self.stride = stride
        self.up = pointwise(in_channels, math.prod(stride) * width, config.n_axes)
        self.blocks = nn.ModuleList(
            ResidualBlock(width, config.n_axes, config.middle_width) for _ in range(config.decoder_blocks)
        )

    def forward(self, x: Tensor, skip: Tensor, level: Tensor) -> Tensor:
        """x [B, in_channels, X / stride], skip [B, width, X], level [B, middle_width] -> [B, width, X]."""
        x = skip + from_patches(self.up(x), self.stride)
        for block in self.blocks:
            x = block(x, level)
        return x


class PaperDecoder(nn.Module):
    """U-ViT: three convolution stages, a transformer at the scale of the latent, and back."""

    def __init__(self, config: PaperConfig):
        super().__init__()
        first, second, third = config.decoder_widths
        strides, width = config.strides, config.middle_width
        self.patch, self.patch_stride = config.patch, strides[0]
        self.level = LevelEmbedding(width)
        down = zip((3, first, second), (first, second, third), strides[:3], strict=True)
        self.down = nn.ModuleList(DownStage(config, *sizes) for sizes in down)
        self.middle_down = to_patches(third, width, strides[3])
        self.middle_latent = pointwise(config.latent_channels, width, config.n_axes)
        self.middle = Transformer(width, config.middle_blocks, config.head_size, config.decoder_dropout)
        up = zip((width, third, second), (third, second, first), strides[:0:-1], strict=True)
        self.up = nn.ModuleList(UpStage(config, *sizes) for sizes in up)
        self.linear_path = LinearDecoder(config) if config.linear_paths else None
        self.norm = _group_norm(first)
        self.head = zero_init(pointwise(first, 3 * math.prod(strides[0]), config.n_axes))

    def forward(self, x_t: Tensor, log_snr: Tensor, z_0: Tensor, quality: Tensor) -> Tensor:
        """x_t [B, 3, X], log_snr [B], z_0 [B, C, x] -> x_hat [B, 3, X].

        Clean samples are in [-1, 1]; x_hat is not clamped. Raises ValueError if X is not a multiple of the extent of a
        latent position.
        """
        _check_extents(x_t, self.patch)
        level = self.level(log_snr)
        hidden, skips = x_t, []
        for stage in self.down:
            hidden = stage(hidden, z_0, level)
            skips.append(hidden)
        hidden = self.middle(self.middle_down(hidden) + self.middle_latent(z_0), level)
        for stage in self.up:
            hidden = stage(hidden, skips.pop(), level)
        output = from_patches(self.head(F.silu(self.norm(hidden))), self.patch_stride)
        if self.linear_path is not None:
            x_hat: Tensor = self.linear_path(x_t, output, log_snr, z_0)
            return x_hat
        return clean_from_v(x_t, output, log_snr)


class PaperModel(nn.Module):
    """Encoder, prior and decoder, with initial weights.

    With `PAPER` they have 28 M, 154 M and 192 M parameters, and cost 519, 459 and 1394 kMAC a pixel at 512x512. With
    `PAPER_VIDEO` they have 81 M, 154 M and 240 M, and cost 954, 459 and 2037 kMAC a pixel of 16 frames of 128x128.
    """

    def __init__(self, config: PaperConfig):
        super().__init__()
        self.config = config
        self.encoder = PaperEncoder(config)
        self.prior = PaperPrior(config)
        self.decoder = PaperDecoder(config)

    def encode_clean(self, x: Tensor, quality: Tensor) -> Tensor:
        """x [B, 3, X] in [0, 1] -> clean latent z [B, C, x]."""
        z: Tensor = self.encoder(x, quality)
        return z

    def denoise_latent(self, z_t: Tensor, log_snr: Tensor, quality: Tensor) -> Tensor:
        """z_t [B, C, x], log_snr [B] -> z_hat."""
        z_hat: Tensor = self.prior(z_t, log_snr, quality)
        return z_hat

    def denoise_picture(self, x_t: Tensor, log_snr: Tensor, z_0: Tensor, quality: Tensor) -> Tensor:
        """x_t [B, 3, X] scaled to [-1, 1], log_snr [B], z_0 [B, C, x] -> x_hat scaled to [-1, 1]."""
        x_hat: Tensor = self.decoder(x_t, log_snr, z_0, quality)
        return x_hat
