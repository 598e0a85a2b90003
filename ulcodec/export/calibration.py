"""Calibrate a model's integers to real files: hidden units, the rounding of weights, the means, and the tables.

Hidden units are scaled to fill bytes (`hidden_units`). Weights are rounded so that every layer changes little on the
inputs that real files give it. The remaining error may still shift a channel's means, since the errors of many layers
need not cancel. Its average is subtracted (bias correction, Nagel et al. 2019, arXiv 1906.04721). Symbols chosen by
rate and distortion are zero more often than under a Gaussian, and have heavier tails; the tables are fitted to their
counts.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ulcodec.codec.loading import codec_of
from ulcodec.codec.tensors import quality_tensor
from ulcodec.coding.fixed_point import MEAN_GRID
from ulcodec.coding.latents import symbols_of
from ulcodec.coding.products import neighbourhoods
from ulcodec.coding.quantise_prior import float_layers, integer_tensors, shift_mean_bias
from ulcodec.coding.symbols import table_entries
from ulcodec.coding.tables import fit_tables
from ulcodec.devices import choose_device
from ulcodec.export.float_runs import Coding, QualitiesOf, Source, encoded, exact_means, recorded_inputs
from ulcodec.export.hidden_units import scale_hidden_units
from ulcodec.model.reveal import pass_map
from ulcodec.progress import share, tracked
from ulcodec.store.model_directory import (
    Stored,
    StoredModel,
    open_model,
    prior_scales,
    table_tensors,
    with_coding,
    with_weights,
    write_model,
)

QUALITIES = (0, 20, 40, 60, 80, 100)
"""Qualities of pictures."""

ROUNDING_INTERVAL = 3
"""Inputs of layers are measured on every third picture: their moments converge sooner than the tables."""

ROUNDING_VARIANCE = 1 / 12
"""Variance of rounding to an integer, in squared bins."""

PRIOR_WEIGHT = 100.0
"""Weight of the prior belief that there is no error: a channel with few coded elements changes little."""


def calibrate(directory: Path, pictures: Sequence[NDArray[np.uint8]]) -> str:
    """Calibrate a model directory to pictures uint8 [H, W, 3]; return its new SHA-256.

    Files encoded before the calibration belong to another model.
    """
    return write_model(directory, calibrated(open_model(directory), pictures, choose_device("auto")))


def calibrated(stored: StoredModel, pictures: Sequence[NDArray[np.uint8]], device: torch.device) -> StoredModel:
    """Round a model's weights again, and fit its means and tables, to the files of pictures uint8 [H, W, 3]."""
    return fitted(stored, lambda model: codec_of(model, device), pictures)


def all_qualities(_: object) -> Sequence[int]:
    """Return the same qualities for every source."""
    return QUALITIES


def fitted(
    stored: Stored,
    use: Callable[[Stored], Coding[Source]],
    sources: Sequence[Source],
    qualities_of: QualitiesOf[Source] = all_qualities,
) -> Stored:
    """Round the weights of an entropy model again, and fit its means and tables, to the files of sources.

    `qualities_of`: qualities of a source's files in increasing order. Some parts use only every second one.
    """
    coding = use(stored)
    if not stored.config.shared_prior:
        with share(0.1):
            scale_hidden_units(coding, sources[::ROUNDING_INTERVAL], lambda source: qualities_of(source)[1::2])
        stored = with_coding(with_weights(stored, coding.model), integer_tensors(coding.model))
        coding = use(stored)
    with share(0.2):
        moments = input_moments(coding, sources[::ROUNDING_INTERVAL], qualities_of)
    stored = with_coding(stored, integer_tensors(coding.model, moments))
    with share(0.4):
        errors = mean_errors(use(stored), sources, qualities_of)
    stored = with_coding(stored, shift_mean_bias(stored.coding, {prefix: -error for prefix, error in errors.items()}))
    coding = use(stored)
    counts = np.zeros(coding.coder.tables.frequencies.shape, np.int64)
    for source in tracked(sources):
        for quality in qualities_of(source):
            count_symbols(coding, source, quality, counts)
    return with_coding(stored, table_tensors(fit_tables(coding.coder.tables, counts)))


def input_moments(
    coding: Coding[Source], sources: Sequence[Source], qualities_of: QualitiesOf[Source] = all_qualities
) -> dict[str, Tensor]:
    """Accumulate the second moments of the inputs of every layer of the float prior while files are coded.

    Returns float64 [in + 1, in + 1] by the names of the integer layers; the last input is the constant 1 of the bias.
    """
    layers = float_layers(coding.model)
    sizes = {name: layer.weight.shape[1] + 1 for name, layer in layers.items()}
    totals = {name: torch.zeros(size, size, dtype=torch.float64) for name, size in sizes.items()}
    readers = {reader for layer in layers.values() for reader in layer.readers}
    for inputs in recorded_inputs(coding, readers, sources, qualities_of):
        for name in [name for name, layer in layers.items() if inputs.keys() >= set(layer.readers)]:
            parts = [inputs_of(coding.model.get_submodule(reader), inputs[reader]) for reader in layers[name].readers]
            x = torch.cat((*parts, torch.ones_like(parts[0][:, :1])), dim=1)
            totals[name] += (x.T @ x).double().cpu()
    return totals


def inputs_of(layer: nn.Module, x: Tensor) -> Tensor:
    """Unfold the input [B, C, h, w] of a convolution, see `side_by_side`."""
    assert isinstance(layer, nn.Conv2d)
    return side_by_side(x, layer.kernel_size[0])


def side_by_side(x: Tensor, kernel_size: int) -> Tensor:
    """Unfold [B, C, h, w] to the inputs [B h w, kh kw C] of a convolution, ordered as in `flatten_convolution`."""
    rows = x.permute(0, 2, 3, 1).flatten(0, 2)
    return rows if kernel_size == 1 else neighbourhoods(rows, (x.shape[2], x.shape[3]))


def mean_errors(
    coding: Coding[Source], sources: Sequence[Source], qualities_of: QualitiesOf[Source] = all_qualities
) -> dict[str, Tensor]:
    """Average how much the integer prior's means exceed the float prior's, in units of a channel's spread.

    Returns float64 [C] for each network, by the prefixes of their names. The average runs over the coded elements of
    the files, each weighted by the cost of an error: 1 / variance.
    """
    config = coding.model.config
    empty = torch.zeros(2, config.latent_channels, dtype=torch.float64)
    totals = {prefix: empty.clone() for prefix in config.prior_networks}
    for source in tracked(sources):
        for quality in qualities_of(source)[::2]:
            add_mean_errors(coding, source, quality, totals)
    return {prefix: errors / (weights + PRIOR_WEIGHT) for prefix, (errors, weights) in totals.items()}


def add_mean_errors(coding: Coding[Source], source: Source, quality: int, totals: dict[str, Tensor]) -> None:
    """Add the weighted errors and the weights of a source's file to `totals`, float64 [2, C] for each network."""
    model, file = coding.model, encoded(coding, source, quality)
    float_means = exact_means(model, file)
    with torch.inference_mode():
        gain = model.prior.log_gain.gain(quality_tensor(quality, coding.device)).flatten().double().cpu()
    float_means, restored = float_means[0].flatten(1).T.double().cpu(), torch.from_numpy(file.latent.y_16) / MEAN_GRID
    passes, variance = pass_map(model.config, file.grid).flatten(1).T, prior_scales() ** 2 + ROUNDING_VARIANCE
    _, *groups = symbols_of(coding.coder, file.latent, quality, file.grid)
    networks = zip(model.config.reveal_passes, model.config.prior_networks, groups, strict=False)  # others are empty
    for reveal_pass, prefix, (symbols, index) in networks:
        is_coded = passes == reveal_pass
        channel = is_coded.nonzero()[:, 1]
        error = restored[is_coded] - torch.from_numpy(symbols) - float_means[is_coded]
        weight = torch.from_numpy((index > 0) / variance[index]) * gain[channel] ** 2
        totals[prefix][0].index_add_(0, channel, weight * error / gain[channel])
        totals[prefix][1].index_add_(0, channel, weight)


def count_symbols(coding: Coding[Source], source: Source, quality: int, counts: NDArray[np.int64]) -> None:
    """Add the table entries that a source's file uses to `counts` [T, L]."""
    file = encoded(coding, source, quality)
    for symbols, index in symbols_of(coding.coder, file.latent, quality, file.grid):
        np.add.at(counts, (index, table_entries(symbols, index, coding.coder.tables)), 1)
