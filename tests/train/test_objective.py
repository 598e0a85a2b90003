"""Training objectives against closed forms."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ulcodec.diffusion.bound import latent_bound_nats, stratified_times, terminal_kl_nats
from ulcodec.diffusion.schedule import BIN_WIDTH, LATENT_LOG_SNR_0, LATENT_LOG_SNR_1, alpha, sigma
from ulcodec.model.config import CLIP_STRIDES, PAPER_TINY, TINY
from ulcodec.model.distortion import lagrangians
from ulcodec.model.paper import PaperModel
from ulcodec.model.prior import Prediction
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.train.objective import (
    OBJECTIVES,
    encoder_share_at,
    noisy_bits,
    picture_loss_nats,
    round_around,
    symbol_bits,
    ul_loss,
    ycbcr_distortion,
)
from ulcodec.train.settings import ObjectiveSettings
from ulcodec.train.workers import Workers


def mutual_information_nats(std: Tensor) -> Tensor:
    """Mutual information of z_0 and `z ~ N(0, std^2)` at the fixed noise, per element."""
    return torch.log1p(std**2 * math.exp(LATENT_LOG_SNR_0)) / 2


def bound_nats(std: Tensor) -> Tensor:
    """Closed form of `latent_bound_nats` per element, with the exact denoiser of `z ~ N(0, std^2)`.

    The denoiser's mean squared error is `std^2 / (1 + std^2 exp(lambda))`, which integrates to logarithms. The terminal
    KL follows from `E z^2 = std^2`.
    """
    start = torch.log1p(std**2 * math.exp(LATENT_LOG_SNR_1)) / 2
    last = torch.tensor(LATENT_LOG_SNR_1)
    terminal = (alpha(last) ** 2 * std**2 + sigma(last) ** 2 - 1 - 2 * sigma(last).log()) / 2
    return mutual_information_nats(std) - start + terminal


@pytest.mark.parametrize("std", [0.1, 1.0, 10.0])
def test_bound_of_a_gaussian_is_its_closed_form(std: float) -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(4000, 8, 4, 4, generator=generator) * std

    def exact_denoiser(z_t: Tensor, log_snr: Tensor) -> Tensor:
        a, s = alpha(log_snr), sigma(log_snr)
        weight = a * std**2 / (a**2 * std**2 + s**2)
        return z_t * weight[:, None, None, None]

    sampled = latent_bound_nats(exact_denoiser, z, generator)
    assert sampled.shape == (4000,)
    expected = bound_nats(torch.tensor(std)).item()
    assert sampled.mean().item() / z[0].numel() == pytest.approx(expected, rel=0.01)
    if std == 1:
        information = mutual_information_nats(torch.tensor(std)).item()
        assert expected == pytest.approx(information, rel=1e-5), "the bound is tight if z_1 is N(0, I)"


def test_worse_denoisers_raise_the_bound() -> None:
    z = torch.randn(1000, 8, 2, 2, generator=torch.Generator().manual_seed(0))
    bounds = [
        latent_bound_nats(
            lambda z_t, log_snr, share=share: share * z_t * alpha(log_snr)[:, None, None, None],
            z,
            torch.Generator().manual_seed(1),
        ).mean()
        for share in (1.0, 0.9, 0.0)
    ]
    assert bounds[0] < bounds[1] < bounds[2]


def test_untrained_prior_is_the_gaussian_of_each_channel() -> None:
    """The network corrects a Wiener estimate, so fresh weights meet the closed form for their spread."""
    torch.manual_seed(0)
    model = UnifiedLatentModel(TINY).requires_grad_(False)
    quality = torch.full((512,), 0.3)
    std = model.prior.log_gain.gain(quality[:1])[0, :, 0, 0] * BIN_WIDTH
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(512, TINY.latent_channels, 2, 2, generator=generator) * std[None, :, None, None]
    sampled = latent_bound_nats(lambda z_t, log_snr: model.denoise_latent(z_t, log_snr, quality), z, generator).mean()
    assert sampled.item() == pytest.approx(4 * bound_nats(std).sum().item(), rel=0.02)


def test_terminal_kl_of_a_constant_is_its_closed_form() -> None:
    assert terminal_kl_nats(torch.zeros(1, 10)).item() == pytest.approx(0, abs=1e-6)
    assert terminal_kl_nats(torch.full((1, 10), 100.0)).item() == pytest.approx(10 * 1e4 * math.exp(-10) / 2, rel=1e-3)


def test_times_are_stratified() -> None:
    times = stratified_times(64, torch.Generator().manual_seed(0))
    assert sorted((times * 64).long().tolist()) == list(range(64))


@pytest.mark.parametrize(("bias", "loss_factor"), [(0.0, 1.5), (-2.0, 1.3)])
def test_picture_loss_of_a_constant_error_is_its_closed_form(bias: float, loss_factor: float) -> None:
    """The weight integrates to `c_lf exp(b) / 2 (softplus(10 - b) - softplus(-10 - b))` over the levels."""
    settings = ObjectiveSettings(loss_factor=loss_factor, bias=bias)
    x = torch.rand(4000, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    error = 0.25
    losses, x_hat = picture_loss_nats(
        lambda x_t, log_snr: 2 * x - 1 + error, x, settings, torch.Generator().manual_seed(1)
    )
    torch.testing.assert_close(x_hat, 2 * x - 1 + error)
    area = math.log1p(math.exp(10 - bias)) - math.log1p(math.exp(-10 - bias))
    expected = loss_factor * math.exp(bias) / 2 * area * error**2 * 48
    assert losses.mean().item() == pytest.approx(expected, rel=0.005)


def test_noisy_pictures_follow_the_schedule() -> None:
    """x_t is `alpha x + sigma eps`, with x in [-1, 1]."""
    x = torch.full((500, 3, 16, 16), 0.9)
    inputs: list[tuple[Tensor, Tensor]] = []

    def denoise(x_t: Tensor, log_snr: Tensor) -> Tensor:
        inputs.append((x_t, log_snr))
        return x_t

    picture_loss_nats(denoise, x, ObjectiveSettings(), torch.Generator().manual_seed(0))
    [(x_t, log_snr)] = inputs
    residual = (x_t - 0.8 * alpha(log_snr)[:, None, None, None]) / sigma(log_snr)[:, None, None, None]
    assert residual.mean().item() == pytest.approx(0, abs=0.01)
    assert residual.std().item() == pytest.approx(1, abs=0.01)


def test_round_around_rounds_forward_and_passes_the_gradient() -> None:
    y = torch.tensor([0.2, 0.9, -3.6], requires_grad=True)
    mean = torch.tensor([0.1, 0.25, 0.25], requires_grad=True)
    rounded = round_around(y, mean)
    torch.testing.assert_close(rounded, torch.tensor([0.1, 1.25, -3.75]))
    rounded.sum().backward()
    assert y.grad is not None
    assert y.grad.tolist() == [1, 1, 1]
    assert mean.grad is None


def test_gradients_of_the_rate_terms() -> None:
    y = torch.tensor([0.2, 0.9, -3.6], requires_grad=True)
    mean = torch.tensor([0.1, 0.25, 0.25], requires_grad=True)
    log_scale = torch.zeros(3, requires_grad=True)
    restored, prediction = torch.tensor([0.1, 1.25, -3.75]), Prediction(mean, log_scale)
    weights = (y, mean, log_scale)

    def gradients(bits: Tensor) -> list[Tensor | None]:
        return list(torch.autograd.grad(bits.sum(), weights, allow_unused=True))

    dy, dmean, dscale = gradients(symbol_bits(restored, prediction))
    assert dy is None
    assert dmean is not None
    assert dscale is not None
    assert (dmean.sign().tolist(), dscale.sign().tolist()) == ([0, -1, 1], [1, 1, -1])
    dy, dmean, dscale = gradients(noisy_bits(y, prediction, torch.Generator().manual_seed(0)))
    assert (dy is not None, dmean, dscale) == (True, None, None)


def test_lagrangians_are_log_linear() -> None:
    quality = torch.tensor([0.0, 0.5, 1.0])
    expected = [TINY.lagrangian(q) for q in quality.tolist()]
    assert lagrangians(TINY, quality).tolist() == pytest.approx(expected, rel=1e-5)
    assert expected == pytest.approx([0.001, math.sqrt(0.001 * 0.12), 0.12])


def test_colour_errors_are_weighted() -> None:
    grey = torch.full((1, 3, 4, 4), 0.5)
    orange_against_blue = torch.tensor([1.0, 0.0, -0.299 / 0.114])[None, :, None, None].expand(1, 3, 4, 4)
    assert ycbcr_distortion(grey, (1.0, 0.0, 0.0)).item() == pytest.approx(0.25)
    assert ycbcr_distortion(grey, (0.0, 1.0, 1.0)).item() == pytest.approx(0, abs=1e-6)
    assert ycbcr_distortion(orange_against_blue, (1.0, 0.0, 0.0)).item() == pytest.approx(0, abs=1e-6)
    noise = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    parts = [ycbcr_distortion(noise, weights) for weights in ((2.0, 0.0, 0.0), (0.0, 3.0, 0.0), (0.0, 0.0, 0.5))]
    torch.testing.assert_close(ycbcr_distortion(noise, (2.0, 3.0, 0.5)), sum(parts))


def test_losses_are_divided_by_a_power_of_the_lagrangian(tiny_model: UnifiedLatentModel) -> None:
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def loss(quality: float, power: float) -> float:
        settings = ObjectiveSettings(quality_power=power)
        generator = torch.Generator().manual_seed(0)
        return OBJECTIVES["codec"](tiny_model, x, torch.tensor([quality]), settings, generator)[0].item()

    for quality in (0.0, 0.7):
        plain, lagrangian = loss(quality, 0.0), TINY.lagrangian(quality)
        assert loss(quality, 0.5) == pytest.approx(plain / math.sqrt(lagrangian), rel=1e-4)
        assert loss(quality, 1.0) == pytest.approx(plain / lagrangian, rel=1e-4)


@pytest.mark.parametrize("objective", ["codec", "ul"])
def test_gradients_reach_every_trained_network(objective: str, tiny_model: UnifiedLatentModel) -> None:
    """Every parameter that an objective trains gets a finite gradient. The codec objective leaves out the denoiser."""
    model = UnifiedLatentModel(TINY)
    model.load_state_dict(tiny_model.state_dict())
    x = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    quality = torch.tensor([0.1, 0.4, 0.6, 0.9])
    generator = torch.Generator().manual_seed(0)
    loss, metrics = OBJECTIVES[objective](model, x, quality, ObjectiveSettings(), generator)
    assert loss.shape == ()
    assert all(math.isfinite(float(value)) and not value.requires_grad for value in metrics.values())
    loss.backward()
    untrained = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())
    if objective == "codec":
        assert set(untrained) == {f"decoder.denoiser.{name}" for name, _ in model.decoder.denoiser.named_parameters()}
    else:
        assert {name.split(".")[0] for name in untrained} == {"hyper_encoder", "hyper_decoder", "prior"}
        of_passes = {name for name in untrained if name.startswith("prior")}
        assert {name.split(".")[3] for name in of_passes} == {"hyper", "mean_head", "scale_head"}
        assert not any("passes.3.mean_head" in name for name in of_passes), "the last pass predicts"


@pytest.mark.parametrize("objective", ["codec", "ul"])
def test_loss_depends_only_on_the_generator(objective: str, tiny_model: UnifiedLatentModel) -> None:
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    first, again, other = (
        OBJECTIVES[objective](
            tiny_model, x, torch.tensor([0.2, 0.8]), ObjectiveSettings(), torch.Generator().manual_seed(seed)
        )[0].item()
        for seed in (1, 1, 2)
    )
    assert first == again != other


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # from Dynamo
def test_compiled_objective_gives_the_same_loss(tiny_model: UnifiedLatentModel) -> None:
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    generator = Workers(1, 2).generator(torch.device("cpu"))
    plain, compiled = (
        loss(tiny_model, x, torch.tensor([0.2, 0.8]), ObjectiveSettings(), generator.manual_seed(3))[0]
        for loss in (OBJECTIVES["ul"], torch.compile(OBJECTIVES["ul"], backend="aot_eager"))
    )
    torch.testing.assert_close(compiled, plain)


def test_share_of_the_encoder_rises_in_the_second_half_of_the_warm_up() -> None:
    assert [encoder_share_at(n_images, 100) for n_images in (0, 50, 75, 100, 900)] == [0.0, 0.0, 0.5, 1.0, 1.0]
    assert encoder_share_at(0, 0) == 1.0


@pytest.mark.parametrize("axes", [(32, 48), (8, 16, 24)])
def test_share_scales_the_gradient_of_the_bits_in_the_encoder(axes: tuple[int, ...]) -> None:
    """It changes neither the loss nor the gradients of prior and decoder. L_z is the rest of the encoder's gradient."""
    torch.manual_seed(0)
    model = PaperModel(PAPER_TINY if len(axes) == 2 else replace(PAPER_TINY, strides=CLIP_STRIDES)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
    x = torch.rand(2, 3, *axes)

    def gradients(share: float) -> tuple[float, dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(3)
        loss, _ = ul_loss(model, x, torch.zeros(2), ObjectiveSettings(), generator, encoder_share=share)
        names, weights = zip(*model.named_parameters(), strict=True)
        return loss.item(), dict(zip(names, torch.autograd.grad(loss, weights), strict=True))

    (loss, whole), (loss_half, half), (loss_none, none) = map(gradients, (1.0, 0.5, 0.0))
    assert loss == loss_half == loss_none
    for name in whole:
        if name.startswith("encoder."):
            torch.testing.assert_close(half[name], (whole[name] + none[name]) / 2, rtol=1e-3, atol=1e-5)
        else:
            assert torch.equal(whole[name], none[name])
    assert not torch.allclose(whole["encoder.head.2.weight"], none["encoder.head.2.weight"], rtol=0.1)
