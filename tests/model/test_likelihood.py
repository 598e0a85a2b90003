"""The reveal schedule, and the bits of elements under the float prior."""

from itertools import product

import pytest
import torch
from torch import Tensor

from ulcodec.codec.image import Codec
from ulcodec.codec.tensors import channels_last, latent_tensor
from ulcodec.coding.latents import encode_latent
from ulcodec.errors import ModelError
from ulcodec.model.config import BASE, N_CHANNEL_GROUPS, N_PHASES, SMALL, TINY, ModelConfig, spread_reveal
from ulcodec.model.likelihood import (
    chain_bits,
    expected_bits,
    lower_bound,
    predict_all_passes,
    simulate_coding,
    unit_bin_bits,
)
from ulcodec.model.prior import Prediction
from ulcodec.model.reveal import pass_map
from ulcodec.model.unified import UnifiedLatentModel

GRID = (6, 9)
QUALITY = torch.tensor([0.6])


@pytest.fixture
def latents() -> tuple[Tensor, Tensor]:
    """y [1, C, 6, 9] and hyper [1, C_hyper, 2, 3], integers."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(1, TINY.latent_channels, *GRID, generator=generator) * 5
    return y.round(), (torch.randn(1, TINY.hyper_channels, 2, 3, generator=generator) * 3).round()


@pytest.mark.parametrize("scale", [0.11, 0.3, 1.0, 7.0, 64.0])
@pytest.mark.parametrize("mean", [0.0, 0.3, -0.5])
def test_probabilities_of_all_integers_sum_to_one(scale: float, mean: float) -> None:
    integers = torch.arange(-400.0, 401.0)
    bits = unit_bin_bits(integers - mean, torch.tensor(scale).log())
    assert (2**-bits).sum().item() == pytest.approx(1, abs=2e-4)


def test_scales_are_clamped_to_the_table_range() -> None:
    residual = torch.tensor([0.4, 3.0])
    for limit, beyond in ((0.11, 0.01), (64.0, 1000.0)):
        bits = [unit_bin_bits(residual, torch.tensor(scale).log()) for scale in (limit, beyond)]
        torch.testing.assert_close(*bits)


@pytest.mark.parametrize("scale", [0.11, 0.3, 0.5, 0.6, 1.0, 7.0, 40.0])
@pytest.mark.parametrize(("shift", "ratio"), [(0.0, 1.0), (0.2, 1.0), (0.0, 1.3), (0.1, 0.8)])
def test_expected_bits_are_the_cross_entropy(scale: float, shift: float, ratio: float) -> None:
    target = Prediction(torch.tensor(1.5), torch.tensor(scale).log())
    prediction = Prediction(target.mean - shift * scale, target.log_scale + torch.tensor(ratio).log())
    symbols = torch.arange(-400.0, 401.0)
    probabilities = 2 ** -unit_bin_bits(symbols, target.log_scale)
    bits = unit_bin_bits(symbols + target.mean - prediction.mean, prediction.log_scale)
    expected = (probabilities * bits).sum().item()
    assert expected_bits(target, prediction).item() == pytest.approx(expected, rel=0.03, abs=1e-3)


@pytest.mark.parametrize("scale", [0.15, 0.5, 0.6, 3.0, 30.0])
def test_expected_bits_are_least_at_their_target(scale: float) -> None:
    target = Prediction(torch.tensor(-0.7), torch.tensor(scale).log())
    means, log_scales = (torch.linspace(-0.3, 0.3, 31) for _ in range(2))
    bits = expected_bits(target, Prediction(target.mean + means * scale, target.log_scale.expand(31)))
    assert means[bits.argmin()].abs() < 0.03
    bits = expected_bits(target, Prediction(target.mean, target.log_scale + log_scales))
    assert log_scales[bits.argmin()].abs() < 0.03


def test_lower_bound_lets_only_raising_gradients_pass() -> None:
    for gradient, expected in ((1.0, [0.0, 1.0, 1.0]), (-1.0, [-1.0, -1.0, -1.0])):
        x = torch.tensor([-1.0, 0.5, 2.0], requires_grad=True)
        bounded = lower_bound(x, 0.5)
        bounded.backward(torch.full((3,), gradient))
        assert bounded.tolist() == [0.5, 0.5, 2.0]
        assert x.grad is not None
        assert x.grad.tolist() == expected


@pytest.mark.parametrize("config", [TINY, SMALL, BASE], ids=lambda config: config.name)
def test_every_element_is_revealed_once_in_doubling_shares(config: ModelConfig) -> None:
    passes = pass_map(config, (4, 8))
    assert passes.shape == (config.latent_channels, 4, 8)
    shares = [(passes == reveal_pass).float().mean().item() for reveal_pass in config.reveal_passes]
    assert shares == [1 / 8, 1 / 8, 1 / 4, 1 / 2]


def test_revealed_elements_are_near_in_space_and_channels() -> None:
    passes = pass_map(TINY, (6, 12))
    first = passes == 1
    assert first[:, :2, :4].any(dim=(1, 2)).all(), "every channel has an element of pass 1 in every 2x4 cell"
    assert first.any(dim=0).all(), "every position has an element of pass 1 in some channel"
    inner = passes[:, 1:-1, 1:-1]
    directions = ((0, 1), (2, 1), (1, 0), (1, 2))
    neighbours = torch.stack([passes[:, row : row + 4, column : column + 10] for row, column in directions])
    has_revealed_neighbour = (neighbours < inner).any(0)
    assert has_revealed_neighbour[inner >= 3].all(), "from pass 3 on, a neighbour in the same channel is revealed"


def test_channel_groups_begin_at_different_phases() -> None:
    starts = [row.index("1") for row in TINY.reveal]
    assert len(starts) == N_CHANNEL_GROUPS
    assert [starts.count(phase) for phase in range(N_PHASES)] == [N_CHANNEL_GROUPS // N_PHASES] * N_PHASES


def test_predictions_depend_on_earlier_elements_only(
    tiny_model: UnifiedLatentModel, latents: tuple[Tensor, Tensor]
) -> None:
    y, hyper = latents
    passes = pass_map(TINY, GRID)
    features = tiny_model.hyper_decoder(hyper, QUALITY, GRID)
    elements = [
        (passes == reveal_pass).nonzero()[number] for reveal_pass, number in product(TINY.reveal_passes, (0, 17, -1))
    ]
    changed = y.repeat(len(elements), 1, 1, 1)
    for index, element in enumerate(elements):
        changed[(index, *element.tolist())] += 20
    batch = 1 + len(elements)
    predictions = predict_all_passes(
        tiny_model, torch.cat((y, changed)), QUALITY.repeat(batch), features.repeat(batch, 1, 1, 1)
    )
    differs = (predictions.mean[1:] != predictions.mean[:1]) | (predictions.log_scale[1:] != predictions.log_scale[:1])
    for element, difference in zip(elements, differs, strict=True):
        reveal_pass = int(passes[tuple(element.tolist())])
        assert not difference[passes <= reveal_pass].any()
        assert difference[passes > reveal_pass].any() == (reveal_pass < max(TINY.reveal_passes))
        if reveal_pass < max(TINY.reveal_passes):
            affected_channels = difference.any(dim=(1, 2))
            assert affected_channels.sum() > 1, "the change must affect other channels"


def test_predictions_depend_on_the_hyper_latent(tiny_model: UnifiedLatentModel, latents: tuple[Tensor, Tensor]) -> None:
    y, hyper = latents
    first = pass_map(TINY, GRID)[None] == 1
    one, other = (
        predict_all_passes(tiny_model, y, QUALITY, tiny_model.hyper_decoder(h, QUALITY, GRID)) for h in (hyper, -hyper)
    )
    assert (one.mean != other.mean)[first].float().mean() > 0.9


def test_simulated_coding_restores_the_latents_of_files(tiny_codec: Codec, tiny_model: UnifiedLatentModel) -> None:
    """Float and integer prior give nearly the same symbols. The integer means are rounded to 1/16 of a bin."""
    y = 2 * torch.randn(1, TINY.latent_channels, *GRID, generator=torch.Generator().manual_seed(2))
    hyper = torch.zeros(1, TINY.hyper_channels, -(-GRID[0] // 4), -(-GRID[1] // 4))
    arrays = (channels_last(latent)[0] for latent in (y, hyper))
    coded = encode_latent(tiny_codec.coder, *arrays, round(100 * float(QUALITY)))
    expected, decoded_hyper = (
        latent_tensor(part, (latent.shape[2], latent.shape[3]))
        for part, latent in zip(coded.latent, (y, hyper), strict=True)
    )
    features = tiny_model.hyper_decoder(decoded_hyper, QUALITY, GRID)
    restored, _ = simulate_coding(tiny_model, y, QUALITY, features)
    assert ((restored - expected).abs() < 0.3).float().mean() > 0.95


def test_simulated_coding_predicts_from_restored_elements(
    tiny_model: UnifiedLatentModel, latents: tuple[Tensor, Tensor]
) -> None:
    y, hyper = latents[0].requires_grad_(True), latents[1]
    features = tiny_model.hyper_decoder(hyper, QUALITY, GRID)
    restored, prediction = simulate_coding(tiny_model, y, QUALITY, features)
    expected = predict_all_passes(tiny_model, restored, QUALITY, features)
    for simulated, batched in zip(prediction, expected, strict=True):
        torch.testing.assert_close(simulated, batched, rtol=1e-4, atol=1e-4)
    weights = torch.arange(y.numel()).view_as(y).sin()
    gradients = []
    for mean, log_scale in (prediction, expected):
        gradients.append(torch.autograd.grad((weights * (mean + log_scale)).sum(), y, retain_graph=True)[0])
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3)
    assert gradients[0].abs().max() > 0.1
    [restored_gradient] = torch.autograd.grad(restored.sum(), y)
    torch.testing.assert_close(restored_gradient, torch.ones_like(restored_gradient))


def test_chain_bits_are_the_sum_over_all_elements(
    tiny_model: UnifiedLatentModel, latents: tuple[Tensor, Tensor]
) -> None:
    y, hyper = latents
    expected = predict_all_passes(tiny_model, y, QUALITY, tiny_model.hyper_decoder(hyper, QUALITY, GRID))
    prior = tiny_model.hyper_decoder.predict(QUALITY)
    bits = unit_bin_bits(y - expected.mean, expected.log_scale).sum()
    hyper_bits = unit_bin_bits(hyper - prior.mean, prior.log_scale).sum()
    assert chain_bits(tiny_model, y, hyper, QUALITY).item() == pytest.approx((bits + hyper_bits).item(), rel=1e-4)
    assert hyper_bits > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prior_blocks": [1, 1]}, "prior_blocks must hold 4 numbers from 0"),
        ({"prior_blocks": [1, 1, 1, 1], "shared_prior": True}, "prior_blocks must hold 1 numbers from 0"),
        ({"reveal": ["12345678"] * 15 + ["21345678"], "prior_blocks": [1] * 8}, "equally many channels at every phase"),
        ({"reveal": spread_reveal("11113333"), "prior_blocks": [1, 1, 1]}, "equally many channels at every phase"),
    ],
)
def test_configurations_that_cannot_code_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        ModelConfig.from_json(TINY.to_json() | changes)
