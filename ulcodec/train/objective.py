"""Training objectives of stage 1: `codec` (rate and distortion of a file) and `ul` (the losses of the paper).

`ul` takes pictures or clips.

Rates are bounds on the latent's description length; both objectives bound the same quantity. Sums run over all
dimensions of one picture; a batch is averaged last. B batch, C latent channels, H W pixels, h w latent grid, S reveal
passes.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ulcodec.diffusion.batch_noise import normal_noise, uniform_noise
from ulcodec.diffusion.bound import latent_bound_nats, stratified_times
from ulcodec.diffusion.per_picture import per_picture, sum_per_picture
from ulcodec.diffusion.schedule import (
    ALPHA_0,
    BIN_WIDTH,
    NATS_TO_BITS,
    SIGMA_0,
    alpha,
    decoder_weight,
    pixel_log_snr,
    sigma,
)
from ulcodec.model.blocks import QualityTable
from ulcodec.model.config import PATCH_PX, ModelConfig
from ulcodec.model.distortion import lagrangians
from ulcodec.model.latent_diffusion import LatentDiffusion
from ulcodec.model.likelihood import expected_bits, predict_all_passes, simulate_coding, unit_bin_bits
from ulcodec.model.prior import Prediction
from ulcodec.model.unified import EntropyModel, UnifiedLatentModel
from ulcodec.train.log import Metrics
from ulcodec.train.settings import ObjectiveSettings

YCBCR_OF_RGB = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
"""Rows: luma, Cb and Cr of ITU-R BT.601."""


def round_around(y: Tensor, mean: Tensor) -> Tensor:
    """Round to `round(y - mean) + mean`, with the gradient of y."""
    return y + (torch.round(y - mean) + mean - y).detach()


PictureDenoiser = Callable[[Tensor, Tensor], Tensor]
"""(x_t [B, 3, H, W] scaled to [-1, 1], log_snr [B]) -> x_hat."""


def picture_loss_nats(
    denoise: PictureDenoiser, x: Tensor, settings: ObjectiveSettings, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Sample the paper's decoder loss L_x for pictures [B, 3, H, W] or clips [B, 3, T, H, W], x in [0, 1].

    `L_x = E_t[-lambda' / 2 c_lf exp(b) sigmoid(lambda - b) |x - x_hat(x_t, z_0)|^2]`, x scaled to [-1, 1].
    Returns an unbiased sample, [B] nats, and x_hat.
    """
    scaled = 2 * x - 1
    t = stratified_times(len(x), generator)
    log_snr, slope = pixel_log_snr(t, resolution_px=min(x.shape[-2:]))
    level = per_picture(log_snr, scaled)
    x_t = alpha(level) * scaled + sigma(level) * normal_noise(scaled, generator)
    x_hat = denoise(x_t, log_snr)
    weight = decoder_weight(log_snr, bias=settings.bias, loss_factor=settings.loss_factor)
    return slope / 2 * weight * sum_per_picture((scaled - x_hat) ** 2), x_hat


def codec_loss(
    model: UnifiedLatentModel, x: Tensor, quality: Tensor, settings: ObjectiveSettings, generator: torch.Generator
) -> tuple[Tensor, Metrics]:
    """Compute rate plus distortion of a file, with a share of the continuous-time bound on the rate.

    Prior and decoder see the latent that a file restores. The prior learns from the symbols of the file. The encoder
    learns from a rate with uniform noise in place of rounding, which has a gradient everywhere. The denoiser is trained
    afterwards, on frozen networks (`ulcodec.train.denoiser`), so that it cannot reduce PSNR.

    x [B, 3, H, W] float32 in [0, 1], quality [B] in [0, 1]. Returns the scalar loss and detached metrics.
    """
    y, unit_latent = model.encoder(x, quality)
    coded = coded_latents(model, y, model.hyper_encoder(unit_latent, quality), quality, generator)
    slope = sum_per_picture(noisy_bits(y, coded.prediction, generator))
    _, mean = model.decoder.trunk(coded.restored, quality)
    error = x - mean
    mse = mean_square(error)
    distortion = mse if settings.ycbcr_weights is None else ycbcr_distortion(error, settings.ycbcr_weights)
    distortion_bits = lagrangians(model.config, quality) * 255**2 * distortion * x.shape[-2] * x.shape[-1]
    cost = coded.bits + slope - slope.detach() + distortion_bits
    loss, metrics = weighted_loss(model, y, coded, cost, quality, settings, generator)
    return loss, {**metrics, "psnr_db": (-10 * torch.log10(mse)).mean().detach()}


def prior_loss(
    model: UnifiedLatentModel, y: Tensor, quality: Tensor, settings: ObjectiveSettings, generator: torch.Generator
) -> tuple[Tensor, Metrics]:
    """Compute the rate of `codec_loss` from latents y [B, C, h, w] float32 in bins, for the prior to learn from."""
    with torch.no_grad():
        hyper = model.hyper_encoder(y / model.encoder.log_gain.gain(quality), quality)
    coded = coded_latents(model, y, hyper, quality, generator)
    return weighted_loss(model, y, coded, coded.bits, quality, settings, generator)


def taught_loss(
    model: UnifiedLatentModel,
    teacher: EntropyModel,
    teacher_share: float,
    y: Tensor,
    quality: Tensor,
    settings: ObjectiveSettings,
    generator: torch.Generator,
) -> tuple[Tensor, Metrics]:
    """Compute `prior_loss` with a share of the bits as another prior, the teacher, expects them.

    What a prior learns from its teacher's predictions (distillation, Hinton et al. 2015, arXiv 1503.02531) lacks the
    noise of single symbols. Latents y [B, C, h, w] float32 in bins are coded under the teacher. The metrics' rates are
    such mixtures, too.
    """
    with torch.no_grad():
        hyper = model.hyper_encoder(y / model.encoder.log_gain.gain(quality), quality)
        restored, target = simulate_coding(teacher, y, quality, hyper_features_of(teacher, hyper, quality, y))
    prediction = predict_all_passes(model, restored, quality, hyper_features_of(model, hyper, quality, y))
    bits = torch.lerp(symbol_bits(restored, prediction), expected_bits(target, prediction), teacher_share)
    hyper_bits = noisy_hyper_bits(model, hyper, quality, generator)
    coded = CodedLatents(restored, prediction, hyper_bits, hyper_bits + sum_per_picture(bits))
    return weighted_loss(model, y, coded, coded.bits, quality, settings, generator)


def residual_loss(
    model: EntropyModel,
    encoder_log_gain: QualityTable,
    y: Tensor,
    quality: Tensor,
    settings: ObjectiveSettings,
    generator: torch.Generator,
) -> tuple[Tensor, Metrics]:
    """Compute the rate of latents y [B, C, h, w] of predicted frames, for a whole entropy model to learn from.

    y float32 in bins; `encoder_log_gain`: that of the codec's encoder.
    """
    hyper = model.hyper_encoder(y / encoder_log_gain.gain(quality), quality)
    coded = coded_latents(model, y, hyper, quality, generator)
    loss = (quality_weights(model.config, quality, settings) * coded.bits).mean() / pixels_of(y)
    return loss, rates_of(coded, y)


class CodedLatents(NamedTuple):
    """Latents as files hold them: `restored` and `prediction` of `simulate_coding`, and bits per picture, [B].

    `hyper_bits` are part of `bits`.
    """

    restored: Tensor
    prediction: Prediction
    hyper_bits: Tensor
    bits: Tensor


def coded_latents(
    model: EntropyModel, y: Tensor, hyper: Tensor, quality: Tensor, generator: torch.Generator
) -> CodedLatents:
    """Simulate coding of latents y [B, C, h, w] and hyper-latents, in bins. The hyper-latent's bits have noise."""
    hyper_bits = noisy_hyper_bits(model, hyper, quality, generator)
    restored, prediction = simulate_coding(model, y, quality, hyper_features_of(model, hyper, quality, y))
    bits = hyper_bits + sum_per_picture(symbol_bits(restored.detach(), prediction))
    return CodedLatents(restored, prediction, hyper_bits, bits)


def noisy_hyper_bits(model: EntropyModel, hyper: Tensor, quality: Tensor, generator: torch.Generator) -> Tensor:
    """Bits [B] of hyper-latents in bins, with uniform noise in place of rounding."""
    prediction = model.hyper_decoder.predict(quality)
    residual = hyper + uniform_noise(hyper, generator) - prediction.mean
    return sum_per_picture(unit_bin_bits(residual, prediction.log_scale))


def hyper_features_of(model: EntropyModel, hyper: Tensor, quality: Tensor, y: Tensor) -> Tensor:
    """Features of rounded hyper-latents, for latents y [B, C, h, w]: [B, hyper_width, h, w]."""
    rounded = round_around(hyper, model.hyper_decoder.predict(quality).mean)
    features: Tensor = model.hyper_decoder(rounded, quality, (y.shape[2], y.shape[3]))
    return features


def weighted_loss(
    model: UnifiedLatentModel,
    y: Tensor,
    coded: CodedLatents,
    cost: Tensor,
    quality: Tensor,
    settings: ObjectiveSettings,
    generator: torch.Generator,
) -> tuple[Tensor, Metrics]:
    """Average costs [B] in bits, and a share of the continuous-time bound, per pixel and weighted by quality.

    Returns the scalar loss and detached metrics of the rate.
    """
    n_pixels, quality_weight = pixels_of(y), quality_weights(model.config, quality, settings)
    subset = slice(None, None, settings.subset)
    continuous = latent_bound_nats(
        lambda z_t, log_snr: model.denoise_latent(z_t, log_snr, quality[subset]), BIN_WIDTH * y[subset], generator
    )
    continuous_bits = continuous * NATS_TO_BITS
    loss = (quality_weight * cost / n_pixels).mean()
    loss = loss + settings.continuous_share * (quality_weight[subset] * continuous_bits / n_pixels).mean()
    return loss, {**rates_of(coded, y), "continuous_bpp": (continuous_bits / n_pixels).mean().detach()}


def quality_weights(config: ModelConfig, quality: Tensor, settings: ObjectiveSettings) -> Tensor:
    """Weights of the costs of pictures by their qualities [B]."""
    return lagrangians(config, quality) ** -settings.quality_power


def pixels_of(y: Tensor) -> int:
    """Number of pixels of the picture of a latent [..., h, w]."""
    return y.shape[-2] * y.shape[-1] * PATCH_PX**2


def rates_of(coded: CodedLatents, y: Tensor) -> Metrics:
    """Detached metrics of the rate of latents y [B, C, h, w]."""
    rates = {"chain_bpp": coded.bits, "hyper_bpp": coded.hyper_bits}
    return {name: (bits / pixels_of(y)).mean().detach() for name, bits in rates.items()}


def encode_pictures(model: UnifiedLatentModel, x: Tensor, quality: Tensor) -> tuple[Tensor, Tensor, Prediction]:
    """Encode pictures x [B, 3, H, W] in [0, 1] as files would: the latent y, what a file restores, its prediction.

    All are [B, C, h, w], see `simulate_coding`. Gradients end at y, which is a leaf.
    """
    with torch.no_grad():
        y, unit_latent = model.encoder(x, quality)
        hyper_features = hyper_features_of(model, model.hyper_encoder(unit_latent, quality), quality, y)
    y.requires_grad_(torch.is_grad_enabled())
    return y, *simulate_coding(model, y, quality, hyper_features)


@torch.no_grad()
def decode_pictures(model: UnifiedLatentModel, x: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
    """Encode and decode pictures x [B, 3, H, W] in [0, 1] as files would: features and posterior mean, see `Trunk`."""
    decoded: tuple[Tensor, Tensor] = model.decoder.trunk(encode_pictures(model, x, quality)[1], quality)
    return decoded


def mean_square(error: Tensor) -> Tensor:
    """Mean square per picture: [B, ...] -> [B]."""
    return error.square().flatten(1).mean(1)


def ycbcr_distortion(error: Tensor, weights: tuple[float, float, float]) -> Tensor:
    """Weighted sum of the mean squared errors in luma, Cb and Cr, of an RGB error [B, 3, H, W]: [B]."""
    matrix = torch.tensor(YCBCR_OF_RGB, device=error.device)
    rows = matrix * torch.tensor(weights, device=error.device).sqrt()[:, None]
    return 3 * mean_square(torch.einsum("ij,bjhw->bihw", rows, error))


def symbol_bits(restored: Tensor, prediction: Prediction) -> Tensor:
    """Bits of a file's symbols `restored - mean`, with the gradient of the prediction only. Any shape."""
    return unit_bin_bits(restored - prediction.mean, prediction.log_scale)


def noisy_bits(y: Tensor, prediction: Prediction, generator: torch.Generator) -> Tensor:
    """Bits of y with uniform noise in place of rounding (Balle et al. 2017), with the gradient of y only."""
    return unit_bin_bits(y + uniform_noise(y, generator) - prediction.mean.detach(), prediction.log_scale.detach())


def ul_loss(
    model: LatentDiffusion,
    x: Tensor,
    quality: Tensor,
    settings: ObjectiveSettings,
    generator: torch.Generator,
    encoder_share: Tensor | float = 1.0,
) -> tuple[Tensor, Metrics]:
    """Compute the paper's loss `L_z + L_x` in nats per pixel: Gaussian channel, weight 1 on the prior.

    x: pictures [B, 3, H, W] or clips [B, 3, T, H, W]. The pixels of a clip are those of all frames. `encoder_share`:
    share of the gradient of L_z that reaches the encoder, from 0 to 1; see `encoder_share_at`.
    `psnr_db`: PSNR of the prediction in one evaluation at a random noise level, averaged over levels.
    """
    n_pixels = x[0, 0].numel()
    z = model.encode_clean(x, quality)
    coded = z.detach() + encoder_share * (z - z.detach())
    bound = latent_bound_nats(lambda z_t, log_snr: model.denoise_latent(z_t, log_snr, quality), coded, generator)
    z_0 = ALPHA_0 * z + SIGMA_0 * normal_noise(z, generator)
    decoder, x_hat = picture_loss_nats(
        lambda x_t, log_snr: model.denoise_picture(x_t, log_snr, z_0, quality), x, settings, generator
    )
    mse = mean_square(x - (x_hat + 1) / 2)
    return (bound + decoder).mean() / n_pixels, {
        "continuous_bpp": (bound / n_pixels).mean().detach() * NATS_TO_BITS,
        "decoder_nats_per_px": (decoder / n_pixels).mean().detach(),
        "psnr_db": (-10 * torch.log10(mse)).mean().detach(),
    }


def encoder_share_at(n_images: int, warmup_images: int) -> float:
    """Share of the gradient of L_z that reaches the encoder after a number of images.

    It is 0 in the first half of the warm-up and rises to 1 in the second. A fresh decoder does not use the latent yet.
    If the encoder has to pay for the latent's bits from the start, it empties the latent before the decoder has learnt
    to (posterior collapse).
    """
    return 1.0 if warmup_images == 0 else min(1.0, max(0.0, 2 * n_images / warmup_images - 1))


Objective = Callable[..., tuple[Tensor, Metrics]]
"""A function of (model, x, quality, settings, generator); `ul_loss` also takes the encoder's share."""

OBJECTIVES: dict[str, Objective] = {"codec": codec_loss, "ul": ul_loss}
