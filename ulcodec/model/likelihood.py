"""Likelihood of latents under the float prior, along the reveal chain.

B batch, C latent channels, h w latent grid, S reveal steps.
"""

import math

import torch
from torch import Tensor

from ulcodec.diffusion.schedule import LATENT_LOG_SNR_0, sum_per_picture
from ulcodec.model.fusion import fused
from ulcodec.model.prior import SCALE_MAX, SCALE_MIN, Prediction, to_bins, wiener_estimate
from ulcodec.model.reveal import pass_elements, pass_map
from ulcodec.model.unified import UnifiedLatentModel

MIN_PROBABILITY = 1e-9

SQUARED_BIN_BITS = 14.0
"""Bits that one squared quantisation step of error is worth when symbols are chosen.

At high rate it is `6 / ln 2 = 8.7`, the derivative of `-log2 width` over that of `width^2 / 12`. The larger value also
pays for what an error costs the elements that are predicted from it; it gave the best files of 8.7, 11, 14, 18 and 24
(docs/lab-notes/rate-distortion-optimisation.md)."""


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
    return torch.where(saved_bits > SQUARED_BIN_BITS * added, symbols - symbols.sign(), symbols)


def quantised(y: Tensor, prediction: Prediction) -> Tensor:
    """What a decoder will restore of y, any shape, float32: the symbols that the encoder chooses."""
    residual = y - prediction.mean
    symbols = torch.round(residual)
    nearer = symbols - symbols.sign()
    saved = unit_bin_bits(symbols, prediction.log_scale) - unit_bin_bits(nearer, prediction.log_scale)
    return zeroward(symbols, residual, saved) + prediction.mean


@torch.no_grad()
@fused
def write_errors(y: Tensor, corrections: Prediction, gain: Tensor, elements: Tensor, errors: Tensor) -> None:
    """Write by how much a file's symbols miss y, for the elements [M] of a step. All [B, h w C], gain [B, C]."""
    own = Prediction(*(part[:, elements] for part in corrections))
    prediction = to_bins(own, gain[:, elements % gain.shape[1]])
    errors[:, elements] = quantised(y[:, elements], prediction) - y[:, elements]


def known_estimate(y_known: Tensor, gain: Tensor) -> Tensor:
    """What `Prior` makes of elements known to the fixed noise and of zeros elsewhere, in the channels' own spread."""
    return wiener_estimate(y_known, torch.full((), LATENT_LOG_SNR_0, dtype=torch.float32, device=y_known.device), gain)


@fused
def where_known(y: Tensor, errors: Tensor, known: Tensor) -> Tensor:
    return (y + errors) * known


def by_place(x: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, h w C]: the same memory, where channels come last in it."""
    return x.permute(0, 2, 3, 1).flatten(1)


def simulate_coding(
    model: UnifiedLatentModel, y: Tensor, quality: Tensor, hyper_features: Tensor
) -> tuple[Tensor, Prediction]:
    """What a file restores of y [B, C, h, w], and what each element is coded under, [B, C, h, w] each.

    Step after step: `quantised`, predicted from the steps before. What is restored has the gradient of y.
    """
    prior, grid = model.prior, (y.shape[2], y.shape[3])
    pass_of_element = pass_map(model.config, grid, y.device)
    elements = pass_elements(model.config, grid, y.device)
    gain, context = prior.log_gain.gain(quality), prior.context(quality, hyper_features)
    y_by_place = by_place(y)
    errors_by_place = torch.zeros_like(y_by_place)
    errors = errors_by_place.view(len(y), *grid, -1).permute(0, 3, 1, 2)
    restored, known, corrections = torch.zeros_like(y), torch.zeros_like(y[:1]), None
    for reveal_pass, own_elements in zip(model.config.reveal_passes, elements, strict=True):
        own = prior.corrections(known_estimate(restored, gain), known, context, quality)
        write_errors(y_by_place, Prediction(*map(by_place, own)), gain[:, :, 0, 0], own_elements, errors_by_place)
        known = (pass_of_element <= reveal_pass).to(y.dtype)[None]
        restored = where_known(y, errors, known)
        if corrections is not None:
            own = Prediction(
                *(torch.where(pass_of_element == reveal_pass, *pair) for pair in zip(own, corrections, strict=True))
            )
        corrections = own
    assert corrections is not None
    return restored, to_bins(corrections, gain)


def predict_all_passes(
    model: UnifiedLatentModel, y_known: Tensor, quality: Tensor, hyper_features: Tensor
) -> Prediction:
    """What each element is coded under, all reveal steps in one batch of S B pictures: [B, C, h, w] each."""
    batch, prior = len(y_known), model.prior
    pass_of_element = pass_map(model.config, (y_known.shape[2], y_known.shape[3]), y_known.device)
    known = torch.stack([pass_of_element < reveal_pass for reveal_pass in model.config.reveal_passes]).to(
        y_known.dtype
    )[:, None]
    n_passes = len(known)
    gain, qualities = prior.log_gain.gain(quality), quality.repeat(n_passes)
    corrections = prior.corrections(
        known_estimate(y_known * known, gain).flatten(0, 1),
        known.expand(-1, batch, -1, -1, -1).flatten(0, 1),
        prior.context(qualities, hyper_features.repeat(n_passes, 1, 1, 1)),
        qualities,
    )
    own = torch.stack([pass_of_element == reveal_pass for reveal_pass in model.config.reveal_passes])[:, None]
    chosen = ((part.view(n_passes, *y_known.shape) * own).sum(0) for part in corrections)
    return to_bins(Prediction(*chosen), gain)


def chain_bits(model: UnifiedLatentModel, y: Tensor, hyper: Tensor, quality: Tensor) -> Tensor:
    """Description length of decoded latents along the reveal chain, [B] bits: the bound that a file is compared with.

    y [B, C, h, w] and hyper [B, C_hyper, ceil(h/4), ceil(w/4)] float32 in quantisation steps, as a decoder restores
    them.
    """
    hyper_prediction = model.hyper_decoder.predict(quality)
    features = model.hyper_decoder(hyper, quality, (y.shape[2], y.shape[3]))
    prediction = predict_all_passes(model, y, quality, features)
    bits = unit_bin_bits(y - prediction.mean, prediction.log_scale)
    hyper_bits = unit_bin_bits(hyper - hyper_prediction.mean, hyper_prediction.log_scale)
    return sum_per_picture(bits) + sum_per_picture(hyper_bits)
