"""What the coder learns from real files: how to round the prior's weights, its mean error, its symbols' frequencies.

Weights are rounded so that every layer gives about the same on the inputs that files give it. What is left may still
shift a channel's means, since the shifts of many layers need not cancel: on average it is taken out (bias correction,
Nagel et al. 2019, arXiv 1906.04721). Symbols chosen by rate and distortion are zero more often than a Gaussian says,
and have heavier tails.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ulcodec.codec.image import Codec, codec_of
from ulcodec.codec.pixels import grid_of, unflattened
from ulcodec.coding.integer_prior import MEAN_GRID
from ulcodec.coding.latents import FILE_PASSES, DecodedLatent, encode_latent, hyper_grid, symbols_of
from ulcodec.coding.products import neighbourhoods
from ulcodec.coding.quantise_prior import float_layers, integer_tensors, with_mean_bias
from ulcodec.coding.symbols import table_entries
from ulcodec.coding.tables import fit_tables
from ulcodec.devices import choose_device
from ulcodec.model.likelihood import reveal_predictions
from ulcodec.model.reveal import pass_map
from ulcodec.progress import share, tracked
from ulcodec.store.model_directory import open_model, table_scales, table_tensors, write_model

QUALITIES = (0, 20, 40, 60, 80, 100)

ROUNDING_INTERVAL = 3
"""Layers' inputs are measured on every third picture: their moments settle sooner than the tables."""

ROUNDING_VARIANCE = 1 / 12
"""Of a symbol, in squared steps."""

PRIOR_WEIGHT = 100.0
"""Weight of having no error, so that a channel of which little is coded stays as it is."""


def calibrate(directory: Path, pictures: Sequence[NDArray[np.uint8]]) -> str:
    """Round the prior's weights anew, and fit means and tables of a model directory to pictures uint8 [H, W, 3].

    Returns the model's new SHA-256. Files that were made before are files of another model.
    """
    stored, device = open_model(directory), choose_device("auto")
    codec = codec_of(stored, device)
    with share(0.2):
        moments = input_moments(codec, pictures[::ROUNDING_INTERVAL])
    stored = replace(stored, coding=stored.coding | integer_tensors(codec.model, moments))
    with share(0.4):
        errors = mean_errors(codec_of(stored, device), pictures)
    stored = replace(stored, coding=stored.coding | with_mean_bias(stored.coding, -errors))
    codec = codec_of(stored, device)
    counts = np.zeros(codec.coder.tables.frequencies.shape, np.int64)
    for pixels in tracked(pictures):
        for quality in QUALITIES:
            count_symbols(codec, pixels, quality, counts)
    tables = fit_tables(codec.coder.tables, counts)
    return write_model(directory, stored.weights, stored.coding | table_tensors(tables), stored.document)


def input_moments(codec: Codec, pictures: Sequence[NDArray[np.uint8]]) -> dict[str, Tensor]:
    """Sums of products of the inputs of every layer of the float prior, and of a 1 after them, as files are coded.

    float64 [in + 1, in + 1] by the names of the integer layers, in the order of their inputs.
    """
    layers = float_layers(codec.model)
    inputs: dict[str, Tensor] = {}
    sizes = {name: layer.weight.shape[1] + 1 for name, layer in layers.items()}
    totals = {name: torch.zeros(size, size, dtype=torch.float64) for name, size in sizes.items()}

    def watch(reader: str) -> RemovableHandle:
        module = codec.model.get_submodule(reader)

        def see(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            assert isinstance(module, nn.Conv2d)
            inputs[reader] = side_by_side(arguments[0].float(), module.kernel_size[0])

        return module.register_forward_pre_hook(see)

    handles = [watch(reader) for layer in layers.values() for reader in layer.readers]
    try:
        for pixels in tracked(pictures):
            for quality in QUALITIES:
                exact_means(codec, encoded(codec, pixels, quality), quality, grid_of(*pixels.shape[:2]))
                for name, layer in layers.items():
                    seen = [inputs[reader] for reader in layer.readers]
                    x = torch.cat((*seen, torch.ones_like(seen[0][:, :1])), dim=1)
                    totals[name] += (x.T @ x).double().cpu()
    finally:
        for handle in handles:
            handle.remove()
    return totals


def side_by_side(x: Tensor, kernel_size: int) -> Tensor:
    """[B, C, h, w] -> [B h w, kh kw C]: what a convolution (1x1 or 3x3) sees, in the order of `flat` weights."""
    rows = x.permute(0, 2, 3, 1).flatten(0, 2)
    return rows if kernel_size == 1 else neighbourhoods(rows, (x.shape[2], x.shape[3]))


def encoded(codec: Codec, pixels: NDArray[np.uint8], quality: int) -> DecodedLatent:
    """What the file of a picture holds."""
    return encode_latent(codec.coder, *codec.analyse(pixels, quality), quality).latent


def exact_means(codec: Codec, latent: DecodedLatent, quality: int, grid: tuple[int, int]) -> Tensor:
    """The float prior's means of a file's elements: [1, C, h, w]."""
    q = torch.tensor([quality / 100], device=codec.device)
    with torch.inference_mode():
        features = codec.model.hyper_decoder(unflattened(latent.hyper_16, hyper_grid(grid)), q, grid)
        return reveal_predictions(codec.model, unflattened(latent.y_16, grid), q, features).mean


def mean_errors(codec: Codec, pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
    """By how much the integer prior's means exceed the float prior's, in the channels' own spread: float64 [C].

    An average over the files' coded elements, each weighted by what an error costs there: one over its variance.
    """
    totals = torch.zeros(2, codec.model.config.latent_channels, dtype=torch.float64)
    for pixels in tracked(pictures):
        for quality in QUALITIES[::2]:
            add_mean_errors(codec, pixels, quality, totals)
    return totals[0] / (totals[1] + PRIOR_WEIGHT)


def add_mean_errors(codec: Codec, pixels: NDArray[np.uint8], quality: int, totals: Tensor) -> None:
    """Add the weighted errors, and the weights, of the file of a picture to `totals` float64 [2, C]."""
    coder, model, grid = codec.coder, codec.model, grid_of(*pixels.shape[:2])
    latent = encoded(codec, pixels, quality)
    exact = exact_means(codec, latent, quality, grid)
    with torch.inference_mode():
        gain = model.prior.log_gain.gain(torch.tensor([quality / 100], device=codec.device)).flatten().double().cpu()
    exact, restored = exact[0].flatten(1).T.double().cpu(), latent.y_16.cpu() / MEAN_GRID
    passes, variance = pass_map(model.config, grid).flatten(1).T, table_scales() ** 2 + ROUNDING_VARIANCE
    _, *groups = symbols_of(coder, latent, quality, grid)
    for reveal_pass, (symbols, index) in zip(FILE_PASSES, groups, strict=True):
        now = passes == reveal_pass
        channel = now.nonzero()[:, 1]
        error = restored[now] - torch.from_numpy(symbols) - exact[now]
        weight = torch.from_numpy((index > 0) / variance[index]) * gain[channel] ** 2
        totals[0].index_add_(0, channel, weight * error / gain[channel])
        totals[1].index_add_(0, channel, weight)


def count_symbols(codec: Codec, pixels: NDArray[np.uint8], quality: int, counts: NDArray[np.int64]) -> None:
    """Add the entries of every table that the file of a picture uses to `counts` [T, L]."""
    coder = codec.coder
    latent = encoded(codec, pixels, quality)
    for symbols, index in symbols_of(coder, latent, quality, grid_of(*pixels.shape[:2])):
        np.add.at(counts, (index, table_entries(symbols, index, coder.tables)), 1)
