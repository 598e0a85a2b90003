"""Likelihood of latents under the float prior, pass by pass along the reveal schedule.

B batch, C latent channels, h w latent grid, P reveal passes.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ulcodec.diffusion.per_picture import sum_per_picture
from ulcodec.diffusion.schedule import LATENT_LOG_SNR_0
from ulcodec.model.fusion import fused
from ulcodec.model.prior import SCALE_MAX, SCALE_MIN, Prediction, to_bins, wiener_estimate
from ulcodec.model.reveal import coding_order, join_phases, split_phases
from ulcodec.model.symbol_choice import is_worth_a_step
from ulcodec.model.unified import EntropyModel

MIN_PROBABILITY = 1e-9

HERMITE_WEIGHT = 2 / 3
"""Weight of the middle point of Gauss-Hermite quadrature with three points."""


@fused
def unit_bin_bits(residual: Tensor, log_scale: Tensor) -> Tensor:
    """Bits of the unit bin around `residual` under a zero-mean Gaussian. Any shape, float32."""
    scale = lower_bound(log_scale, math.log(SCALE_MIN)).clamp(max=math.log(SCALE_MAX)).exp()
    distance = residual.abs()
    upper = torch.erfc((distance - 0.5) / (scale * math.sqrt(2)))
    lower = torch.erfc((distance + 0.5) / (scale * math.sqrt(2)))
    return -torch.log2(lower_bound((upper - lower) / 2, MIN_PROBABILITY))


@fused
def expected_bits(target: Prediction, prediction: Prediction) -> Tensor:
    """Mean bits of symbols that `target` predicts when they are coded under `prediction`: their cross-entropy.

    The mean is that of three points with the variance of the symbols: of Gauss-Hermite quadrature, and at small scales
    the symbols -1, 0 and 1. Any shape, float32; without the gradient of `target`.
    """
    scale = target.log_scale.detach().clamp(math.log(SCALE_MIN), math.log(SCALE_MAX)).exp()
    zero_probability = torch.erf(0.5 / (scale * math.sqrt(2)))
    distance = torch.where(zero_probability > HERMITE_WEIGHT, 1.0, (3 * (scale**2 + 1 / 12)).sqrt())
    weight, shift = zero_probability.clamp(min=HERMITE_WEIGHT), target.mean.detach() - prediction.mean
    middle, lower, upper = (
        unit_bin_bits(point, prediction.log_scale) for point in (shift, shift - distance, shift + distance)
    )
    return weight * middle + (1 - weight) / 2 * (lower + upper)


def lower_bound(x: Tensor, bound: float) -> Tensor:
    """`max(x, bound)`. Below the bound, a gradient that raises x passes (Balle et al. 2018, their `lower_bound`)."""
    return _LowerBound.apply(x, bound)  # type: ignore[no-any-return, no-untyped-call]


class _LowerBound(torch.autograd.Function):
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


def _quantise_and_restore(y: Tensor, prediction: Prediction) -> Tensor:
    """Choose symbols for y as the encoder does, and return the latent that they restore. Any shape, float32."""
    residual = y - prediction.mean
    symbols = torch.round(residual)
    nearer = symbols - symbols.sign()
    saved_bits = unit_bin_bits(symbols, prediction.log_scale) - unit_bin_bits(nearer, prediction.log_scale)
    chosen = torch.where(is_worth_a_step(symbols, symbols.sign(), residual, saved_bits), nearer, symbols)
    return chosen + prediction.mean


def estimate_restored(restored: Tensor, gain: Tensor) -> Tensor:
    """The Wiener estimate of `Prior` for restored elements."""
    log_snr = torch.full((), LATENT_LOG_SNR_0, dtype=torch.float32, device=restored.device)
    return wiener_estimate(restored, log_snr, gain)


@torch.no_grad()
@fused
def _coding_error(y: Tensor, prediction: Prediction) -> Tensor:
    """Error of the latent that is restored from the symbols of y. Any shape."""
    return _quantise_and_restore(y, prediction) - y


def simulate_coding(
    model: EntropyModel, y: Tensor, quality: Tensor, hyper_features: Tensor
) -> tuple[Tensor, Prediction]:
    """Quantise y [B, C, h, w] pass by pass, each pass predicted from the restored elements of the earlier ones.

    Returns the latent that a file restores, with the gradient of y, and the prediction that each element is coded
    under, all [B, C, h, w].
    """

    def restore(elements: Tensor, prediction: Prediction) -> Tensor:
        return elements + _coding_error(elements, prediction)

    return _walk_passes(model, y, quality, hyper_features, restore)


def predict_all_passes(model: EntropyModel, y: Tensor, quality: Tensor, hyper_features: Tensor) -> Prediction:
    """Predict each element of a restored latent y [B, C, h, w] from earlier passes: [B, C, h, w] each."""
    return _walk_passes(model, y, quality, hyper_features, lambda elements, prediction: elements)[1]


def _walk_passes(
    model: EntropyModel,
    y: Tensor,
    quality: Tensor,
    hyper_features: Tensor,
    restore: Callable[[Tensor, Prediction], Tensor],
) -> tuple[Tensor, Prediction]:
    """Predict pass by pass. `restore` gives what later passes know of a pass's elements, from them and its prediction.

    Returns the restored latent and the predictions in bins, [B, C, h, w] each.
    """
    order, grid = coding_order(model.config, y.device), (y.shape[2], y.shape[3])
    gain = model.prior.log_gain.gain(quality)[:, :, 0, 0].T[order.channels].transpose(1, 2)[:, :, None]
    elements = order.sort(split_phases(y))
    restored: list[Tensor] = []
    estimates: list[Tensor] = []
    means: list[Tensor] = []
    log_scales: list[Tensor] = []
    carried: Tensor | None = None
    for reveal_pass, network in zip(model.config.reveal_passes, model.prior.networks, strict=True):
        coded = order.of_pass(reveal_pass)
        stem = network.context(quality, hyper_features, carried) + network.stem_of_unknown()
        if estimates:
            known = network.stem_of_known(torch.cat(estimates, dim=3), order.channels[:, : coded.start])
            stem = join_phases(known, grid) + stem
        carried, hidden = network.run_blocks(stem, quality)
        corrections = network.heads_of_coded(split_phases(hidden), order.channels[:, coded])
        prediction = to_bins(corrections, gain[..., coded])
        restored.append(restore(elements[..., coded], prediction))
        estimates.append(estimate_restored(restored[-1], gain[..., coded]))
        means.append(prediction.mean)
        log_scales.append(prediction.log_scale)
    whole = [join_phases(order.unsort(torch.cat(parts, dim=3)), grid) for parts in (restored, means, log_scales)]
    return whole[0], Prediction(*whole[1:])


def chain_bits(model: EntropyModel, y: Tensor, hyper: Tensor, quality: Tensor) -> Tensor:
    """Description length of decoded latents along the reveal schedule, [B] bits: the bound that files are compared to.

    y [B, C, h, w] and hyper [B, C_hyper, ceil(h/4), ceil(w/4)] are float32, in bins, as a decoder restores them.
    """
    hyper_prediction = model.hyper_decoder.predict(quality)
    features = model.hyper_decoder(hyper, quality, (y.shape[2], y.shape[3]))
    prediction = predict_all_passes(model, y, quality, features)
    bits = unit_bin_bits(y - prediction.mean, prediction.log_scale)
    hyper_bits = unit_bin_bits(hyper - hyper_prediction.mean, hyper_prediction.log_scale)
    return sum_per_picture(bits) + sum_per_picture(hyper_bits)
