"""Likelihood of latents under the float prior, pass by pass along the reveal schedule.

B batch, C latent channels, h w latent grid, P reveal passes.
"""

import math

import torch
from torch import Tensor

from ulcodec.diffusion.per_picture import sum_per_picture
from ulcodec.diffusion.schedule import LATENT_LOG_SNR_0
from ulcodec.model.fusion import fused
from ulcodec.model.prior import SCALE_MAX, SCALE_MIN, Prediction, to_bins, wiener_estimate
from ulcodec.model.reveal import pass_elements, pass_map
from ulcodec.model.unified import UnifiedLatentModel

MIN_PROBABILITY = 1e-9

SQUARED_BIN_BITS = 14.0
"""Bits that a squared error of one bin is worth in the choice of symbols.

At high rate it is `6 / ln 2 = 8.7`, the derivative of `-log2 width` over that of `width^2 / 12`. The larger value
accounts for the elements that are predicted from the erroneous one. Of 8.7, 11, 14, 18 and 24 it gave the smallest
files at equal quality (docs/lab-notes/rate-distortion-optimisation.md)."""


@fused
def unit_bin_bits(residual: Tensor, log_scale: Tensor) -> Tensor:
    """Bits of the unit bin around `residual` under a zero-mean Gaussian. Any shape, float32."""
    scale = lower_bound(log_scale, math.log(SCALE_MIN)).clamp(max=math.log(SCALE_MAX)).exp()
    distance = residual.abs()
    upper = torch.erfc((distance - 0.5) / (scale * math.sqrt(2)))
    lower = torch.erfc((distance + 0.5) / (scale * math.sqrt(2)))
    return -torch.log2(lower_bound((upper - lower) / 2, MIN_PROBABILITY))


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


def zeroward(symbols: Tensor, residual: Tensor, saved_bits: Tensor) -> Tensor:
    """Move symbols by one towards zero where the saved bits outweigh the added squared error.

    `symbols`: `residual` rounded to integers; `saved_bits`: bits that the symbol nearer to zero saves. All are float
    and of one shape.
    """
    added_error = 1 + 2 * (residual * symbols.sign() - symbols.abs())
    return torch.where(saved_bits > SQUARED_BIN_BITS * added_error, symbols - symbols.sign(), symbols)


def _quantise_and_restore(y: Tensor, prediction: Prediction) -> Tensor:
    """Choose symbols for y as the encoder does, and return the latent that they restore. Any shape, float32."""
    residual = y - prediction.mean
    symbols = torch.round(residual)
    nearer = symbols - symbols.sign()
    saved_bits = unit_bin_bits(symbols, prediction.log_scale) - unit_bin_bits(nearer, prediction.log_scale)
    return zeroward(symbols, residual, saved_bits) + prediction.mean


@torch.no_grad()
@fused
def _write_errors(y: Tensor, corrections: Prediction, gain: Tensor, elements: Tensor, errors: Tensor) -> None:
    """Write the quantisation errors of the elements [M] of a pass. All others are [B, h w C], gain is [B, C]."""
    element_corrections = Prediction(*(values[:, elements] for values in corrections))
    prediction = to_bins(element_corrections, gain[:, elements % gain.shape[1]])
    errors[:, elements] = _quantise_and_restore(y[:, elements], prediction) - y[:, elements]


def _estimate_revealed(y_revealed: Tensor, gain: Tensor) -> Tensor:
    """The Wiener estimate of `Prior` for revealed elements, and zero for the others, which are zero in `y_revealed`."""
    log_snr = torch.full((), LATENT_LOG_SNR_0, dtype=torch.float32, device=y_revealed.device)
    return wiener_estimate(y_revealed, log_snr, gain)


@fused
def _add_errors(y: Tensor, errors: Tensor, revealed: Tensor) -> Tensor:
    return (y + errors) * revealed


def _flatten_positions(x: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, h w C], a view of channels-last memory."""
    return x.permute(0, 2, 3, 1).flatten(1)


def simulate_coding(
    model: UnifiedLatentModel, y: Tensor, quality: Tensor, hyper_features: Tensor
) -> tuple[Tensor, Prediction]:
    """Quantise y [B, C, h, w] pass by pass, each pass predicted from the restored elements of the earlier ones.

    Returns the latent that a file restores, with the gradient of y, and the prediction that each element is coded
    under, all [B, C, h, w].
    """
    prior, grid = model.prior, (y.shape[2], y.shape[3])
    passes = pass_map(model.config, grid, y.device)
    elements_by_pass = pass_elements(model.config, grid, y.device)
    gain, context = prior.log_gain.gain(quality), prior.context(quality, hyper_features)
    flat_y = _flatten_positions(y)
    flat_errors = torch.zeros_like(flat_y)
    errors = flat_errors.view(len(y), *grid, -1).permute(0, 3, 1, 2)
    restored, revealed, corrections = torch.zeros_like(y), torch.zeros_like(y[:1]), None
    for reveal_pass, elements in zip(model.config.reveal_passes, elements_by_pass, strict=True):
        update = prior.predict_corrections(_estimate_revealed(restored, gain), revealed, context, quality)
        _write_errors(flat_y, Prediction(*map(_flatten_positions, update)), gain[:, :, 0, 0], elements, flat_errors)
        revealed = (passes <= reveal_pass).to(y.dtype)[None]
        restored = _add_errors(y, errors, revealed)
        if corrections is not None:
            pairs = zip(update, corrections, strict=True)
            update = Prediction(*(torch.where(passes == reveal_pass, new, old) for new, old in pairs))
        corrections = update
    assert corrections is not None
    return restored, to_bins(corrections, gain)


def predict_all_passes(model: UnifiedLatentModel, y: Tensor, quality: Tensor, hyper_features: Tensor) -> Prediction:
    """Predict each element of a restored latent y [B, C, h, w] from earlier passes: [B, C, h, w] each.

    All passes are one batch of P B pictures.
    """
    batch, prior = len(y), model.prior
    passes = pass_map(model.config, (y.shape[2], y.shape[3]), y.device)
    reveal_passes = model.config.reveal_passes
    n_passes = len(reveal_passes)
    revealed = torch.stack([passes < reveal_pass for reveal_pass in reveal_passes]).to(y.dtype)[:, None]
    gain, qualities = prior.log_gain.gain(quality), quality.repeat(n_passes)
    corrections = prior.predict_corrections(
        _estimate_revealed(y * revealed, gain).flatten(0, 1),
        revealed.expand(-1, batch, -1, -1, -1).flatten(0, 1),
        prior.context(qualities, hyper_features.repeat(n_passes, 1, 1, 1)),
        qualities,
    )
    coded = torch.stack([passes == reveal_pass for reveal_pass in reveal_passes])[:, None]
    selected = ((values.view(n_passes, *y.shape) * coded).sum(0) for values in corrections)
    return to_bins(Prediction(*selected), gain)


def chain_bits(model: UnifiedLatentModel, y: Tensor, hyper: Tensor, quality: Tensor) -> Tensor:
    """Description length of decoded latents along the reveal schedule, [B] bits: the bound that files are compared to.

    y [B, C, h, w] and hyper [B, C_hyper, ceil(h/4), ceil(w/4)] are float32, in bins, as a decoder restores them.
    """
    hyper_prediction = model.hyper_decoder.predict(quality)
    features = model.hyper_decoder(hyper, quality, (y.shape[2], y.shape[3]))
    prediction = predict_all_passes(model, y, quality, features)
    bits = unit_bin_bits(y - prediction.mean, prediction.log_scale)
    hyper_bits = unit_bin_bits(hyper - hyper_prediction.mean, hyper_prediction.log_scale)
    return sum_per_picture(bits) + sum_per_picture(hyper_bits)
