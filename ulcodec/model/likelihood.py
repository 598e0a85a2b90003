"""Likelihood of latents under the float prior, along the reveal chain.

B batch, C latent channels, h w latent grid, S reveal steps.
"""

import math

import torch
from torch import Tensor

from ulcodec.model.fusion import fused
from ulcodec.model.prior import SCALE_MAX, SCALE_MIN, Prediction
from ulcodec.model.reveal import known_log_snr, step_map
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.schedule import LATENT_LOG_SNR_0

MIN_PROBABILITY = 1e-9

SQUARED_STEP_BITS = 14.0
"""Bits that one squared quantisation step of error is worth when symbols are chosen.

At high rate it is `6 / ln 2 = 8.7`, the derivative of `-log2 step` over that of `step^2 / 12`. The larger value also
pays for what an error costs the elements that are predicted from it; it gave the best files of 8.7, 11, 14, 18 and 24
(docs/lab-notes.md)."""


@fused
def unit_bin_bits(residual: Tensor, log_scale: Tensor) -> Tensor:
    """Bits of `residual` under a zero-mean Gaussian integrated over the unit bin around it. Any shape, float32."""
    scale = lower_bound(log_scale, math.log(SCALE_MIN)).clamp(max=math.log(SCALE_MAX)).exp()
    distance = residual.abs()
    upper = torch.erfc((distance - 0.5) / (scale * math.sqrt(2)))
    lower = torch.erfc((distance + 0.5) / (scale * math.sqrt(2)))
    return -torch.log2(lower_bound((upper - lower) / 2, MIN_PROBABILITY))


def lower_bound(x: Tensor, bound: float) -> Tensor:
    """`max(x, bound)` whose gradient still passes where it would raise x (Balle et al. 2018, their `lower_bound`)."""
    return LowerBound.apply(x, bound)  # type: ignore[no-any-return, no-untyped-call]


class LowerBound(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bound = bound  # type: ignore[attr-defined]
        return x.clamp(min=bound)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors  # type: ignore[attr-defined]
        (grad,) = grads
        return grad * ((x >= ctx.bound) | (grad < 0)), None  # type: ignore[attr-defined]


def zeroward(symbols: Tensor, residual: Tensor, saved_bits: Tensor) -> Tensor:
    """Move symbols one step towards zero where the bits saved outweigh the squared error added.

    `symbols`: `residual` rounded to integers; `saved_bits`: what the nearer symbol saves. All float, one shape.
    """
    added = 1 + 2 * (residual * symbols.sign() - symbols.abs())
    return torch.where(saved_bits > SQUARED_STEP_BITS * added, symbols - symbols.sign(), symbols)


@torch.no_grad()
@fused
def quantised(y: Tensor, prediction: Prediction) -> Tensor:
    """What a decoder will restore of y [B, C, h, w], float32, no gradient: the symbols that the encoder chooses."""
    residual = y - prediction.mean
    symbols = torch.round(residual)
    nearer = symbols - symbols.sign()
    saved = unit_bin_bits(symbols, prediction.log_scale) - unit_bin_bits(nearer, prediction.log_scale)
    return zeroward(symbols, residual, saved) + prediction.mean


def straight_through(value: Tensor, y: Tensor) -> Tensor:
    """`value` with the gradient of y."""
    return y + (value - y).detach()


def coding_walk(
    model: UnifiedLatentModel, y: Tensor, quality: Tensor, hyper_features: Tensor
) -> tuple[Tensor, Prediction]:
    """What a file restores of y [B, C, h, w], and what each element is coded under, [B, C, h, w] each.

    Step after step: `quantised`, predicted from the steps before. What is restored has the gradient of y.
    """
    steps = step_map(model.config, (y.shape[2], y.shape[3]), y.device)
    restored = mean = log_scale = torch.zeros_like(y)
    for step in model.config.reveal_steps:
        known = known_log_snr(steps, step, LATENT_LOG_SNR_0)
        prediction = model.prior(restored, known[None], quality, hyper_features)
        now = steps == step
        restored = torch.where(now, straight_through(quantised(y, prediction), y), restored)
        mean = torch.where(now, prediction.mean, mean)
        log_scale = torch.where(now, prediction.log_scale, log_scale)
    return restored, Prediction(mean, log_scale)


def reveal_predictions(
    model: UnifiedLatentModel, y_known: Tensor, quality: Tensor, hyper_features: Tensor
) -> Prediction:
    """What each element is coded under, all reveal steps in one batch of S B pictures: [B, C, h, w] each."""
    batch = len(y_known)
    steps = step_map(model.config, (y_known.shape[2], y_known.shape[3]), y_known.device)
    log_snr = torch.stack([known_log_snr(steps, step, LATENT_LOG_SNR_0) for step in model.config.reveal_steps])
    n_steps = len(log_snr)
    prediction = model.prior(
        torch.where(log_snr.isfinite()[:, None], y_known[None], 0).flatten(0, 1),
        log_snr[:, None].expand(-1, batch, -1, -1, -1).flatten(0, 1),
        quality.repeat(n_steps),
        hyper_features.repeat(n_steps, 1, 1, 1),
    )
    own = torch.stack([steps == step for step in model.config.reveal_steps])[:, None]
    mean, log_scale = ((part.unflatten(0, (n_steps, batch)) * own).sum(0) for part in prediction)
    return Prediction(mean, log_scale)


def sum_per_picture(x: Tensor) -> Tensor:
    return x.flatten(1).sum(1)


def chain_bits(model: UnifiedLatentModel, y: Tensor, hyper: Tensor, quality: Tensor) -> Tensor:
    """Description length of decoded latents along the reveal chain, [B] bits: the bound that a file is compared with.

    y [B, C, h, w] and hyper [B, C_hyper, ceil(h/4), ceil(w/4)] float32 in quantisation steps, as a decoder restores
    them.
    """
    hyper_prediction = model.hyper_decoder.predict(quality)
    features = model.hyper_decoder(hyper, quality, (y.shape[2], y.shape[3]))
    prediction = reveal_predictions(model, y, quality, features)
    bits = unit_bin_bits(y - prediction.mean, prediction.log_scale)
    hyper_bits = unit_bin_bits(hyper - hyper_prediction.mean, hyper_prediction.log_scale)
    return sum_per_picture(bits) + sum_per_picture(hyper_bits)
