"""Means and frequency tables fitted to real files."""

import dataclasses
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import ulcodec
from ulcodec.codec.image import Codec
from ulcodec.codec.pixels import grid_of
from ulcodec.coding.fixed_point import ACTIVATION_BITS, MEAN_GRID
from ulcodec.coding.latents import encode_latent, symbols_of
from ulcodec.coding.quantise_prior import flatten_convolution, float_layers, integer_tensors, shift_mean_bias
from ulcodec.coding.range_coder import TOTAL
from ulcodec.coding.tables import fit_tables
from ulcodec.export.calibration import QUALITIES, calibrate, count_symbols, input_moments, mean_errors, side_by_side
from ulcodec.model.blocks import conv
from ulcodec.model.config import TINY
from ulcodec.model.unified import UnifiedLatentModel
from ulcodec.store.model_directory import open_model, save_model, with_coding, write_model


@pytest.fixture(scope="module")
def fitted(tiny_model_dir: Path, picture: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = shutil.copytree(tiny_model_dir, tmp_path_factory.mktemp("models") / "fitted")
    sha256 = calibrate(directory, [picture])
    assert open_model(directory).fingerprint.hex() == sha256
    return directory


def test_latent_is_restored_from_its_symbols(tiny_codec: Codec, picture: np.ndarray) -> None:
    coder, grid = tiny_codec.coder, grid_of(*picture.shape[:2])
    coded = encode_latent(coder, *tiny_codec.analyse(picture, 40), 40)
    groups = list(symbols_of(coder, coded.latent, 40, grid))
    assert sum(len(symbols) for symbols, _ in groups) == coded.latent.y_16.size + coded.latent.hyper_16.size
    assert all((symbols[index == 0] == 0).all() for symbols, index in groups)
    means = coder.prior.hyper_parameters(40, len(coded.latent.hyper_16)).mean_16.ravel()
    assert np.array_equal(groups[0][0] * MEAN_GRID + means, coded.latent.hyper_16.ravel())


def test_every_element_is_counted_once(tiny_codec: Codec, picture: np.ndarray) -> None:
    counts = np.zeros(tiny_codec.coder.tables.frequencies.shape, np.int64)
    count_symbols(tiny_codec, picture, 40, counts)
    config, (h, w) = tiny_codec.model.config, grid_of(*picture.shape[:2])
    assert counts.sum() == config.latent_channels * h * w + config.hyper_channels * -(-h // 4) * -(-w // 4)


def test_frequencies_follow_the_counts(tiny_codec: Codec) -> None:
    tables = tiny_codec.coder.tables
    unchanged = fit_tables(tables, np.zeros(tables.frequencies.shape, np.int64))
    assert np.abs(unchanged.frequencies - tables.frequencies).max() / TOTAL < 2e-3
    counts = np.zeros(tables.frequencies.shape, np.int64)
    row, middle = 20, tables.escapes[20] // 2
    counts[row, middle], counts[row, middle + 1] = 600_000, 400_000
    shares = fit_tables(tables, counts).frequencies[row] / TOTAL
    assert shares[middle - 1 : middle + 2] == pytest.approx([0.2, 0.6, 0.2], abs=2e-3)


def test_calibrated_files_are_smaller(fitted: Path, tiny_codec: Codec, picture: np.ndarray) -> None:
    codec = ulcodec.load(fitted, device="cpu")
    assert codec.fingerprint != tiny_codec.fingerprint
    sizes = []
    for quality in QUALITIES:
        calibrated, uncalibrated = (c.encode(picture, quality=quality) for c in (codec, tiny_codec))
        assert codec.decode_array(calibrated).shape == picture.shape
        sizes.append((len(calibrated), len(uncalibrated)))
    assert sum(calibrated for calibrated, _ in sizes) < sum(uncalibrated for _, uncalibrated in sizes)


def test_errors_of_the_means_are_measured_and_corrected(
    tiny_model_dir: Path, tiny_codec: Codec, picture: np.ndarray, tmp_path: Path
) -> None:
    stored, pictures = open_model(tiny_model_dir), [picture] * 20
    networks = stored.config.prior_networks
    shape = len(networks), stored.config.latent_channels
    bias = 0.3 * torch.linspace(-1, 1, math.prod(shape), dtype=torch.float64).view(shape)
    directory = tmp_path / "biased"
    write_model(directory, with_coding(stored, shift_mean_bias(stored.coding, dict(zip(networks, bias, strict=True)))))
    biased = ulcodec.load(directory, device="cpu")

    def stacked(errors: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.stack([errors[network] for network in networks])

    before, after = (stacked(mean_errors(codec, pictures)) for codec in (tiny_codec, biased))
    coded = (after - before).abs() > bias.abs() / 2
    assert coded.sum() > bias.numel() / 4
    assert torch.allclose((after - before)[coded], bias[coded], rtol=0.5, atol=0.02)
    change = dict(zip(networks, -after, strict=True))
    corrected_coding = stored.coding | shift_mean_bias(open_model(directory).coding, change)
    write_model(directory, with_coding(stored, corrected_coding))
    corrected = ulcodec.load(directory, device="cpu")
    assert stacked(mean_errors(corrected, pictures))[coded].abs().mean() < after[coded].abs().mean() / 3
    assert len(corrected.encode(picture, quality=60)) < len(biased.encode(picture, quality=60))


def test_calibration_changes_only_layers_and_frequencies(fitted: Path, tiny_model_dir: Path) -> None:
    before, after = open_model(tiny_model_dir), open_model(fitted)
    assert before.weights.keys() == after.weights.keys()
    scaled = [name for name, weight in after.weights.items() if not weight.equal(before.weights[name])]
    assert scaled
    assert all(".blocks." in name for name in scaled), "only hidden units of blocks change their scale"
    changed = {name for name, tensor in after.coding.items() if not tensor.equal(before.coding[name])}
    assert "tables.frequencies" in changed
    others = {name for name in changed - {"tables.frequencies"} if ".blocks." not in name}
    assert {name.rsplit(".", 1)[1] for name in others} == {"weight", "bias"}


def test_calibration_keeps_the_weights_of_a_shared_prior(
    shared_prior_model: UnifiedLatentModel, picture: np.ndarray, tmp_path: Path
) -> None:
    save_model(tmp_path / "model", "shared", shared_prior_model, {})
    before = open_model(tmp_path / "model")
    calibrate(tmp_path / "model", [picture])
    after = open_model(tmp_path / "model")
    assert all(weight.equal(before.weights[name]) for name, weight in after.weights.items())
    changed = {name for name, tensor in after.coding.items() if not tensor.equal(before.coding[name])}
    assert {name.rsplit(".", 1)[1] for name in changed} == {"weight", "bias", "frequencies"}


def test_rounding_by_input_moments_reduces_output_errors(
    tiny_codec: Codec, tiny_model_dir: Path, picture: np.ndarray
) -> None:
    moments = input_moments(tiny_codec, [picture])
    nearest, rounded = open_model(tiny_model_dir).coding, integer_tensors(tiny_codec.model, moments)
    layers = float_layers(tiny_codec.model)
    assert moments.keys() == layers.keys()

    def error(name: str, coding: dict[str, torch.Tensor]) -> float:
        weight, bias, exponent = (coding[f"{name}.{part}"].double() for part in ("weight", "bias", "exponent"))
        integers = torch.cat((weight, bias[:, None] / 2**ACTIVATION_BITS), dim=1) / 2 ** exponent[:, None]
        change = integers - torch.cat((layers[name].weight, layers[name].bias[:, None]), dim=1)
        return float(((change @ moments[name]) * change).sum())

    ratios = {name: error(name, rounded) / error(name, nearest) for name in layers}
    assert max(ratios.values()) < 1.05, ratios
    assert np.median(list(ratios.values())) < 0.7, ratios


def test_moments_are_those_of_all_passes(
    tiny_codec: Codec, shared_prior_model: UnifiedLatentModel, picture: np.ndarray
) -> None:
    networks = dataclasses.replace(tiny_codec.torch_networks("the test"), model=shared_prior_model)
    codec = dataclasses.replace(tiny_codec, networks=networks)
    moments = input_moments(codec, [picture])
    h, w = grid_of(*picture.shape[:2])
    n_channels, n_runs = TINY.latent_channels, len(QUALITIES) * len(TINY.reveal_passes)
    stem, hyper = moments["prior.stem"], moments["hyper.up_16"]
    assert (int(stem[-1, -1]), int(hyper[-1, -1])) == (n_runs * h * w, len(QUALITIES) * 16 * -(-h // 4) * -(-w // 4))
    known_shares = stem[n_channels : 2 * n_channels, -1] / stem[-1, -1]
    assert known_shares.mean() == pytest.approx((0 + 1 / 8 + 1 / 4 + 1 / 2) / 4, abs=0.01)


def test_columns_are_the_inputs_of_a_convolution() -> None:
    layer, x = conv(3, 5, 3), torch.randn(2, 3, 4, 6)
    weight, bias = flatten_convolution(layer)
    product = (side_by_side(x, 3) @ weight.T + bias).view(2, 4, 6, 5).permute(0, 3, 1, 2)
    torch.testing.assert_close(product, layer(x), atol=1e-5, rtol=1e-5)
