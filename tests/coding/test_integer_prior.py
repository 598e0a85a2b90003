"""The integer prior: close to the float one, the same on every thread count, and provably exact."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ulcodec.coding import integer_prior as integer
from ulcodec.coding.integer_prior import (
    MEAN_GRID,
    CodingParameters,
    IntegerPrior,
    fingerprint,
    pixel_shuffle,
    stored_layer,
)
from ulcodec.coding.latents import pass_parameters
from ulcodec.coding.products import LARGEST_ACTIVATION, PRODUCTS, is_exact, neighbourhoods
from ulcodec.coding.quantise_prior import FloatLayer, integer_tensors, quantise_layer
from ulcodec.diffusion.schedule import LATENT_LOG_SNR_0
from ulcodec.errors import ModelError
from ulcodec.model.config import N_CHANNEL_GROUPS, N_PHASES, TINY, ModelConfig
from ulcodec.model.prior import LOG_SCALE_STEP, N_SCALES, SCALE_MIN
from ulcodec.model.reveal import PassElements, pass_map
from ulcodec.model.unified import UnifiedLatentModel

GRID = (7, 10)
COARSE = (2, 3)
QUALITIES = (0, 37, 100)
CPU = torch.device("cpu")


class Latents(NamedTuple):
    """y_16 [N, C] and hyper_16 [N / 16, C_hyper] in 1/16 steps."""

    y_16: Tensor
    hyper_16: Tensor


@pytest.fixture(scope="module")
def latents() -> Latents:
    generator = torch.Generator().manual_seed(0)
    y_16 = torch.randn(math.prod(GRID), TINY.latent_channels, generator=generator) * 60
    hyper_16 = torch.randn(math.prod(COARSE), TINY.hyper_channels, generator=generator) * 40
    return Latents(y_16.round().int(), hyper_16.round().int())


@pytest.fixture(scope="module")
def tensors(tiny_model: UnifiedLatentModel) -> dict[str, Tensor]:
    return integer_tensors(tiny_model)


@pytest.fixture(scope="module")
def prior(tensors: dict[str, Tensor]) -> IntegerPrior:
    return IntegerPrior(TINY, tensors, CPU)


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def picture_of(latent_16: Tensor, grid: tuple[int, int]) -> Tensor:
    """[N, C] in 1/16 steps -> [1, C, h, w] in steps."""
    return (latent_16 / MEAN_GRID).float().T.reshape(1, -1, *grid)


def positions_of(x: Tensor) -> Tensor:
    """[1, C, h, w] -> [N, C]"""
    return x[0].flatten(1).T


def walk(prior: IntegerPrior, latents: Latents, quality: int) -> list[CodingParameters]:
    """Parameters of the elements of every reveal step."""
    features = prior.hyper_features(latents.hyper_16, quality, GRID)
    y_16 = latents.y_16.view(-1, *GRID, TINY.latent_channels)
    return [pass_parameters(prior, y_16, step, quality, features) for step in TINY.reveal_passes]


def float_walk(model: UnifiedLatentModel, latents: Latents, quality: int) -> list[tuple[Tensor, Tensor]]:
    """Mean in steps and fractional table index, [N, C], of every reveal step by the float networks."""
    q = torch.tensor([quality / 100])
    steps = pass_map(TINY, GRID)
    features = model.hyper_decoder(picture_of(latents.hyper_16, COARSE), q, GRID)
    y = picture_of(latents.y_16, GRID)
    predictions = []
    for step in TINY.reveal_passes:
        y_known = torch.where(steps < step, y, 0.0)
        log_snr = torch.where(steps < step, LATENT_LOG_SNR_0, -torch.inf)
        mean, log_scale = model.prior(y_known, log_snr[None], q, features)
        index = (log_scale - math.log(SCALE_MIN)) / LOG_SCALE_STEP
        predictions.append((positions_of(mean), positions_of(index).clamp(0, N_SCALES - 1)))
    return predictions


@pytest.mark.parametrize("quality", QUALITIES)
def test_integer_prior_follows_the_float_prior(
    tiny_model: UnifiedLatentModel, prior: IntegerPrior, latents: Latents, quality: int
) -> None:
    steps = positions_of(pass_map(TINY, GRID)[None])
    predictions = zip(
        TINY.reveal_passes, walk(prior, latents, quality), float_walk(tiny_model, latents, quality), strict=True
    )
    for step, parameters, (mean, index) in predictions:
        coded = steps == step
        mean_error = (parameters.mean_16 / MEAN_GRID - mean[coded]).abs()
        assert mean_error.max() < 3 / 4
        assert (mean_error < 1 / 8).float().mean() > 0.95
        assert mean_error.mean() < 1 / 25, "rounding to the grid alone gives 1 / 64"
        assert mean[coded].std() > 0.1, "the prediction must depend on the context for this test to mean anything"
        index_error = (parameters.table_index.float() - index[coded]).abs()
        assert (index_error <= 0.6).float().mean() > 0.95
        assert index_error.max() <= 1


@pytest.mark.parametrize("quality", QUALITIES)
def test_hyper_latent_is_predicted_as_in_float(
    tiny_model: UnifiedLatentModel, prior: IntegerPrior, latents: Latents, quality: int
) -> None:
    q = torch.tensor([quality / 100])
    parameters = prior.hyper_parameters(quality, 6)
    mean, log_scale = (part[0, :, 0, 0].expand(6, -1) for part in tiny_model.hyper_decoder.predict(q))
    assert parameters.mean_16.shape == parameters.table_index.shape == (6, TINY.hyper_channels)
    torch.testing.assert_close(parameters.mean_16.float() / MEAN_GRID, mean, rtol=0, atol=0.51 / MEAN_GRID)
    index = (log_scale - math.log(SCALE_MIN)) / LOG_SCALE_STEP
    torch.testing.assert_close(parameters.table_index.float(), index, rtol=0, atol=0.51)
    features = tiny_model.hyper_decoder(picture_of(latents.hyper_16, COARSE), q, GRID)
    exact = prior.hyper_features(latents.hyper_16, quality, GRID).float() / 2**integer.ACTIVATION_BITS
    torch.testing.assert_close(exact.flatten(0, 2), positions_of(features), rtol=0, atol=0.05)


def test_results_are_integers_and_repeat_on_every_thread_count(
    prior: IntegerPrior, latents: Latents, set_threads: Callable[[int], None]
) -> None:
    results = []
    for n_threads in (1, 2, 2, 1):
        set_threads(n_threads)
        results.append(walk(prior, latents, 37))
    for parameters in zip(*results, strict=True):
        first = parameters[0]
        assert first.mean_16.dtype == torch.int32
        assert first.table_index.dtype == torch.uint8
        assert first.table_index.max() < N_SCALES
        for other in parameters[1:]:
            assert torch.equal(first.mean_16, other.mean_16)
            assert torch.equal(first.table_index, other.table_index)


def test_every_way_of_multiplying_gives_the_same(tensors: dict[str, Tensor], latents: Latents) -> None:
    priors = [IntegerPrior(TINY, tensors, CPU, name) for name in PRODUCTS if is_exact(name, CPU)]
    assert len(priors) >= 3
    for quality in QUALITIES:
        expected, *others = (walk(prior, latents, quality) for prior in priors)
        for parameters in others:
            for ours, theirs in zip(parameters, expected, strict=True):
                assert torch.equal(ours.mean_16, theirs.mean_16)
                assert torch.equal(ours.table_index, theirs.table_index)


def test_batches_and_tiles_change_nothing(tensors: dict[str, Tensor], prior: IntegerPrior, latents: Latents) -> None:
    other = Latents(latents.y_16.flip(0), latents.hyper_16.flip(0))
    batch = Latents(*(torch.cat(parts) for parts in zip(latents, other, strict=True)))
    alone = list(zip(walk(prior, latents, 37), walk(prior, other, 37), strict=True))
    for tile in (2, 3, 4, 128):
        for found, expected in zip(walk(IntegerPrior(TINY, tensors, CPU, tile=tile), batch, 37), alone, strict=True):
            for ours, theirs in zip(found, zip(*expected, strict=True), strict=True):
                assert torch.equal(ours, torch.cat(theirs))


def test_few_positions_go_at_once_and_many_by_phase(
    prior: IntegerPrior, tensors: dict[str, Tensor], latents: Latents, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = walk(prior, latents, 37)
    monkeypatch.setattr(integer, "LEAST_BY_PHASE", 0)
    for tile in (2, 3, 128):
        for found, expected in zip(
            walk(IntegerPrior(TINY, tensors, CPU, tile=tile), latents, 37), at_once, strict=True
        ):
            assert torch.equal(found.mean_16, expected.mean_16)
            assert torch.equal(found.table_index, expected.table_index)


def test_tiles_of_the_hyper_decoder_change_nothing(
    prior: IntegerPrior, latents: Latents, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, hyper_16 = (22, 41), latents.hyper_16.repeat(11, 1)
    whole = prior.hyper_features(hyper_16, 37, grid)
    for tile in (1, 2, 3):
        monkeypatch.setattr(integer, "HYPER_TILE", tile)
        assert torch.equal(prior.hyper_features(hyper_16, 37, grid), whole)


UNEVEN = tuple("12" * 4 if group % 2 else "21121222" for group in range(N_CHANNEL_GROUPS))
"""A reveal in which the positions of a step have different numbers of channels."""


@pytest.mark.parametrize("least_by_phase", [0, 1536])
def test_a_reveal_with_uneven_steps(
    tensors: dict[str, Tensor], tiny_model: UnifiedLatentModel, latents: Latents, least_by_phase: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(integer, "LEAST_BY_PHASE", least_by_phase)
    config = replace(TINY, reveal=UNEVEN)
    prior, steps = IntegerPrior(config, tensors, CPU), pass_map(config, GRID)
    features = prior.hyper_features(latents.hyper_16, 37, GRID)
    y_16, q = latents.y_16.view(1, *GRID, -1), torch.tensor([0.37])
    float_features = tiny_model.hyper_decoder(picture_of(latents.hyper_16, COARSE), q, GRID)
    for step in config.reveal_passes:
        elements = PassElements(config, step, CPU)
        now = positions_of(steps[None]) == step
        assert torch.equal(elements.in_order(elements.gather(y_16)), latents.y_16[now])
        own = elements.placed(latents.y_16[now], (1, *GRID))
        copy = torch.zeros_like(y_16)
        elements.scatter(own, copy)
        assert torch.equal(copy.flatten(0, 2), torch.where(now, latents.y_16, 0))
        found = pass_parameters(prior, y_16, step, 37, features)
        log_snr = torch.where(steps < step, LATENT_LOG_SNR_0, -torch.inf)
        y_known = torch.where(steps < step, picture_of(latents.y_16, GRID), 0.0)
        mean = positions_of(tiny_model.prior(y_known, log_snr[None], q, float_features).mean)[now]
        assert (found.mean_16 / MEAN_GRID - mean).abs().mean() < 1 / 25
        assert mean.std() > 0.1


@pytest.mark.parametrize("name", PRODUCTS)
def test_layers_are_exact_at_the_limits(tensors: dict[str, Tensor], name: str) -> None:
    if not is_exact(name, CPU):
        pytest.skip(f"{name} products are not exact on this processor")
    layer = stored_layer(tensors, "prior.blocks.0.expand", PRODUCTS[name], CPU)
    weight, bias, exponent = (
        tensors[f"prior.blocks.0.expand.{part}"].long() for part in ("weight", "bias", "exponent")
    )
    x = torch.randint(-LARGEST_ACTIVATION, LARGEST_ACTIVATION + 1, (50, weight.shape[1]))
    x[0], x[1], x[2] = LARGEST_ACTIVATION, -LARGEST_ACTIVATION, LARGEST_ACTIVATION * weight[0].sign()
    sums = (x @ weight.T + bias).double() / 2.0**exponent
    assert torch.equal(layer(x.to(torch.int32)).double(), (sums + 0.5).floor())


def test_neighbourhoods_and_shuffle_match_convolutions() -> None:
    x = torch.randn(1, 3, *GRID, dtype=torch.float64)
    weight = torch.randn(5, 3, 3, 3, dtype=torch.float64)
    product = neighbourhoods(positions_of(x), GRID) @ weight.permute(0, 2, 3, 1).flatten(1).T
    torch.testing.assert_close(product, positions_of(F.conv2d(x, weight, padding=1)))
    wide = torch.randn(1, 12, *GRID)
    assert torch.equal(pixel_shuffle(wide.permute(0, 2, 3, 1)), F.pixel_shuffle(wide, 2).permute(0, 2, 3, 1))


def test_extreme_latents_stay_in_range(prior: IntegerPrior, latents: Latents) -> None:
    huge = Latents(latents.y_16.sign() * 2**30, latents.hyper_16.sign() * 2**30)
    clamped = Latents(latents.y_16.sign() * 2**24, latents.hyper_16.sign() * 2**24)
    for parameters, expected in zip(walk(prior, huge, 100), walk(prior, clamped, 100), strict=True):
        assert torch.equal(parameters.mean_16, expected.mean_16)
        assert parameters.mean_16.abs().max() < 2**30


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [("weight", 127, "sums may leave 32 bits"), ("weight", 128, "out of range"), ("bias", 2**30, "sums may leave"),
     ("exponent", -1, "out of range"), ("exponent", 40, "out of range")],
)  # fmt: skip
def test_layers_that_may_be_inexact_are_rejected(part: str, value: int, message: str) -> None:
    parts = {"weight": torch.ones(4, 1152), "bias": torch.zeros(4), "exponent": torch.ones(4)}
    parts["weight"][0, :500] = 100
    layer = {f"layer.{name}": tensor.long() for name, tensor in parts.items()}
    stored_layer(layer, "layer", PRODUCTS["int64"], CPU)
    layer[f"layer.{part}"][0] = value
    with pytest.raises(ModelError, match=f"layer: .*{message}"):
        stored_layer(layer, "layer", PRODUCTS["int64"], CPU)


def test_weights_too_large_to_code_with() -> None:
    with pytest.raises(ModelError, match="a weight of 3 is too large"):
        quantise_layer("layer", FloatLayer(torch.full((2, 8), 3.0), torch.zeros(2), (), out_bits=integer.MEAN_BITS))


def test_missing_integers_are_named(tensors: dict[str, Tensor]) -> None:
    for name in ("prior.stem.bias", "table.mean_gain", "hyper.up_32.exponent"):
        with pytest.raises(ModelError, match=name.removeprefix("table.").replace(".", r"\.")):
            IntegerPrior(TINY, {key: value for key, value in tensors.items() if key != name}, CPU)


def test_every_integer_is_in_the_fingerprint(tensors: dict[str, Tensor]) -> None:
    assert all(not tensor.is_floating_point() for tensor in tensors.values())
    seen = {fingerprint(TINY, tensors)}
    for name, tensor in tensors.items():
        changed = tensor.clone()
        changed.view(-1)[-1] += 1
        seen.add(fingerprint(TINY, tensors | {name: changed}))
    assert len(seen) == 1 + len(tensors)
    assert fingerprint(TINY, dict(reversed(tensors.items()))) in seen, "the order of the tensors does not matter"
    values = TINY.to_json() | {"reveal": ["1" * N_PHASES] * N_CHANNEL_GROUPS}
    assert fingerprint(ModelConfig.from_json(values), tensors) not in seen
