"""The integer prior is close to the float prior, and the same for all threads, products, batches and tiles."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ulcodec.coding import integer_prior as integer
from ulcodec.coding.fixed_point import ACTIVATION_BITS, MEAN_GRID, CodingParameters
from ulcodec.coding.integer_prior import IntegerPrior
from ulcodec.coding.latents import next_parameters
from ulcodec.coding.products import PRODUCTS, is_exact
from ulcodec.coding.quantise_prior import integer_tensors
from ulcodec.errors import ModelError
from ulcodec.model.config import N_SCALES, TINY, spread_reveal
from ulcodec.model.likelihood import estimate_restored
from ulcodec.model.prior import LOG_SCALE_STEP, SCALE_MIN, Prediction, to_bins
from ulcodec.model.reveal import pass_map
from ulcodec.model.schedule import PassElements
from ulcodec.model.unified import UnifiedLatentModel

GRID = (7, 10)
COARSE = (2, 3)
QUALITIES = (0, 37, 100)
CPU = torch.device("cpu")


class Latents(NamedTuple):
    """y_16 [N, C] and hyper_16 [N / 16, C_hyper] in sixteenths of a bin."""

    y_16: NDArray[np.int32]
    hyper_16: NDArray[np.int32]


@pytest.fixture(scope="module")
def latents() -> Latents:
    generator = torch.Generator().manual_seed(0)
    y_16 = torch.randn(math.prod(GRID), TINY.latent_channels, generator=generator) * 60
    hyper_16 = torch.randn(math.prod(COARSE), TINY.hyper_channels, generator=generator) * 40
    return Latents(y_16.round().int().numpy(), hyper_16.round().int().numpy())


@pytest.fixture(scope="module", params=["tiny_model", "shared_prior_model"])
def model(request: pytest.FixtureRequest) -> UnifiedLatentModel:
    """A model of each kind of prior."""
    result: UnifiedLatentModel = request.getfixturevalue(request.param)
    return result


@pytest.fixture(scope="module")
def tensors(model: UnifiedLatentModel) -> dict[str, Tensor]:
    return integer_tensors(model)


@pytest.fixture(scope="module")
def prior(model: UnifiedLatentModel, tensors: dict[str, Tensor]) -> IntegerPrior:
    return IntegerPrior(model.config, tensors, CPU)


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def picture_of(latent_16: NDArray[np.int32], grid: tuple[int, int]) -> Tensor:
    """[N, C] in sixteenths of a bin -> [1, C, h, w] in bins."""
    return (torch.from_numpy(latent_16) / MEAN_GRID).float().T.reshape(1, -1, *grid)


def positions_of(x: Tensor) -> Tensor:
    """[1, C, h, w] -> [N, C]"""
    return x[0].flatten(1).T


def walk(prior: IntegerPrior, latents: Latents, quality: int) -> list[CodingParameters]:
    """Return the parameters of the elements of every reveal pass."""
    state = prior.begin(latents.hyper_16, quality, GRID)
    y_16 = latents.y_16.reshape(-1, *GRID, TINY.latent_channels)
    return [next_parameters(prior, y_16, state) for _ in prior.config.reveal_passes]


def float_prediction(model: UnifiedLatentModel, latents: Latents, quality: int, passes: Tensor) -> Prediction:
    """Predict every element in its pass by the float networks, from all channels, with zero for unknown ones.

    Returns mean in bins and fractional table index, [N, C].
    """
    q, y = torch.tensor([quality / 100]), picture_of(latents.y_16, GRID)
    features = model.hyper_decoder(picture_of(latents.hyper_16, COARSE), q, GRID)
    gain, mean, index, carried = model.prior.log_gain.gain(q), torch.zeros_like(y), torch.zeros_like(y), None
    for reveal_pass in range(1, int(passes.max()) + 1):
        known, coded = (passes < reveal_pass).float()[None], (passes == reveal_pass)[None]
        estimate = estimate_restored(y * known, gain)
        corrections, carried = model.prior.networks[reveal_pass - 1](estimate, known, q, features, carried)
        prediction = to_bins(corrections, gain)
        mean[coded] = prediction.mean[coded]
        index[coded] = ((prediction.log_scale - math.log(SCALE_MIN)) / LOG_SCALE_STEP)[coded]
    return Prediction(positions_of(mean), positions_of(index).clamp(0, N_SCALES - 1))


@pytest.mark.parametrize("quality", QUALITIES)
def test_integer_prior_follows_the_float_prior(
    model: UnifiedLatentModel, prior: IntegerPrior, latents: Latents, quality: int
) -> None:
    passes = pass_map(TINY, GRID)
    mean, index = float_prediction(model, latents, quality, passes)
    for reveal_pass, parameters in zip(TINY.reveal_passes, walk(prior, latents, quality), strict=True):
        coded = positions_of(passes[None]) == reveal_pass
        mean_error = (torch.from_numpy(parameters.mean_16) / MEAN_GRID - mean[coded]).abs()
        assert mean_error.max() < 3 / 2
        assert (mean_error < 1 / 8).float().mean() > 0.9
        assert mean_error.mean() < 1 / 15, "rounding to the grid alone gives 1 / 64"
        assert mean[coded].std() > 0.1, "the prediction must depend on the context for this test to mean anything"
        index_error = (torch.from_numpy(parameters.table_index).float() - index[coded]).abs()
        assert (index_error <= 0.6).float().mean() > 0.95
        assert index_error.max() <= 1


@pytest.mark.parametrize("quality", QUALITIES)
def test_hyper_parameters_follow_the_float_prior(
    model: UnifiedLatentModel, prior: IntegerPrior, latents: Latents, quality: int
) -> None:
    q = torch.tensor([quality / 100])
    parameters = prior.hyper_parameters(quality, 6)
    mean, log_scale = (part[0, :, 0, 0].expand(6, -1) for part in model.hyper_decoder.predict(q))
    assert parameters.mean_16.shape == parameters.table_index.shape == (6, TINY.hyper_channels)
    np.testing.assert_allclose(parameters.mean_16 / MEAN_GRID, mean, rtol=0, atol=0.51 / MEAN_GRID)
    index = (log_scale - math.log(SCALE_MIN)) / LOG_SCALE_STEP
    np.testing.assert_allclose(parameters.table_index, index, rtol=0, atol=0.51)
    features = model.hyper_decoder(picture_of(latents.hyper_16, COARSE), q, GRID)
    state = prior.begin(latents.hyper_16, quality, GRID)
    integer_features = state.hyper_features.float() / 2**ACTIVATION_BITS
    torch.testing.assert_close(integer_features.flatten(0, 2), positions_of(features), rtol=0, atol=0.05)


def test_threads_change_no_parameter(prior: IntegerPrior, latents: Latents, set_threads: Callable[[int], None]) -> None:
    results = []
    for n_threads in (1, 2, 2, 1):
        set_threads(n_threads)
        results.append(walk(prior, latents, 37))
    for parameters in zip(*results, strict=True):
        first = parameters[0]
        assert first.mean_16.dtype == np.int32
        assert first.table_index.dtype == np.uint8
        assert first.table_index.max() < N_SCALES
        for other in parameters[1:]:
            assert np.array_equal(first.mean_16, other.mean_16)
            assert np.array_equal(first.table_index, other.table_index)


def test_products_change_no_parameter(model: UnifiedLatentModel, tensors: dict[str, Tensor], latents: Latents) -> None:
    priors = [IntegerPrior(model.config, tensors, CPU, name) for name in PRODUCTS if is_exact(name, CPU)]
    assert len(priors) >= 3
    for quality in QUALITIES:
        expected, *others = (walk(prior, latents, quality) for prior in priors)
        for parameters in others:
            for actual, reference in zip(parameters, expected, strict=True):
                assert np.array_equal(actual.mean_16, reference.mean_16)
                assert np.array_equal(actual.table_index, reference.table_index)


def test_batches_and_tiles_change_no_parameter(
    tensors: dict[str, Tensor], prior: IntegerPrior, latents: Latents
) -> None:
    other = Latents(*(part[::-1].copy() for part in latents))
    batch = Latents(*(np.concatenate(parts) for parts in zip(latents, other, strict=True)))
    separate = list(zip(walk(prior, latents, 37), walk(prior, other, 37), strict=True))
    for tile in (2, 3, 4, 128):
        batched = walk(IntegerPrior(prior.config, tensors, CPU, tile=tile), batch, 37)
        for parameters, expected in zip(batched, separate, strict=True):
            for actual, reference in zip(parameters, zip(*expected, strict=True), strict=True):
                assert np.array_equal(actual, np.concatenate(reference))


def test_evaluation_by_phase_changes_no_parameter(
    prior: IntegerPrior, tensors: dict[str, Tensor], latents: Latents, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_channels = walk(prior, latents, 37)
    monkeypatch.setattr(integer, "MIN_POSITIONS_BY_PHASE", 0)
    for tile in (2, 3, 128):
        by_phase = walk(IntegerPrior(prior.config, tensors, CPU, tile=tile), latents, 37)
        for parameters, expected in zip(by_phase, all_channels, strict=True):
            assert np.array_equal(parameters.mean_16, expected.mean_16)
            assert np.array_equal(parameters.table_index, expected.table_index)


def test_tiles_of_the_hyper_decoder_change_no_feature(
    prior: IntegerPrior, latents: Latents, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, hyper_16 = (22, 41), np.tile(latents.hyper_16, (11, 1))
    whole = prior.begin(hyper_16, 37, grid).hyper_features
    for tile in (1, 2, 3):
        monkeypatch.setattr(integer, "HYPER_TILE", tile)
        assert torch.equal(prior.begin(hyper_16, 37, grid).hyper_features, whole)


@pytest.mark.parametrize("min_positions", [0, 1536])
def test_two_passes_follow_the_float_prior(
    tensors: dict[str, Tensor], model: UnifiedLatentModel, latents: Latents, min_positions: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(integer, "MIN_POSITIONS_BY_PHASE", min_positions)
    blocks = model.config.prior_blocks[:2]
    config = replace(model.config, reveal=spread_reveal("11112222"), prior_blocks=blocks)
    prior, passes = IntegerPrior(config, tensors, CPU), pass_map(config, GRID)
    y_16, predicted = latents.y_16.reshape(1, *GRID, -1), float_prediction(model, latents, 37, passes)
    for reveal_pass, parameters in zip(config.reveal_passes, walk(prior, latents, 37), strict=True):
        elements = PassElements(config, reveal_pass)
        coded = positions_of(passes[None]) == reveal_pass
        gathered, copy = elements.gather(y_16), np.zeros_like(y_16)
        assert np.array_equal(gathered.ravel(), latents.y_16[coded])
        elements.scatter(gathered, copy)
        assert np.array_equal(copy.reshape(latents.y_16.shape), np.where(coded, latents.y_16, 0))
        mean = predicted.mean[coded]
        assert (torch.from_numpy(parameters.mean_16) / MEAN_GRID - mean).abs().mean() < 1 / 15
        assert mean.std() > 0.1


def test_extreme_latents_stay_in_range(prior: IntegerPrior, latents: Latents) -> None:
    huge = Latents(*(np.sign(part) * np.int32(2**30) for part in latents))
    clamped = Latents(*(np.sign(part) * np.int32(2**24) for part in latents))
    for parameters, expected in zip(walk(prior, huge, 100), walk(prior, clamped, 100), strict=True):
        assert np.array_equal(parameters.mean_16, expected.mean_16)
        assert np.abs(parameters.mean_16).max() < 2**30


def test_missing_integers_are_named(prior: IntegerPrior, tensors: dict[str, Tensor]) -> None:
    network = prior.config.prior_networks[1]
    for name in (f"prior.{network}stem.bias", "table.mean_gain", "hyper.up_32.exponent"):
        with pytest.raises(ModelError, match=name.removeprefix("table.").replace(".", r"\.")):
            IntegerPrior(prior.config, {key: value for key, value in tensors.items() if key != name}, CPU)
