"""What the coder learns from real files: the integer prior's mean error, and its symbols' frequencies.

Rounded weights shift a channel's means, and the shifts of many layers need not cancel: what is left on average is taken
out (bias correction, Nagel et al. 2019, arXiv 1906.04721). Symbols chosen by rate and distortion are zero more often
than a Gaussian says, and have heavier tails.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ulcodec.arrays import grid_of, unflattened
from ulcodec.codec import Codec, codec_of
from ulcodec.devices import choose_device
from ulcodec.entropy import fit_tables, table_entries
from ulcodec.latent_coding import FILE_STEPS, encode_latent, hyper_grid, step_positions, symbols_of
from ulcodec.model.integer import MEAN_GRID, with_mean_bias
from ulcodec.model.likelihood import reveal_predictions
from ulcodec.store import open_model, table_scales, table_tensors, write_model

QUALITIES = (0, 20, 40, 60, 80, 100)

ROUNDING_VARIANCE = 1 / 12
"""Of a symbol, in squared steps."""

PRIOR_WEIGHT = 100.0
"""Weight of having no error, so that a channel of which little is coded stays as it is."""


def calibrate(directory: Path, pictures: Sequence[NDArray[np.uint8]]) -> str:
    """Fit means and tables of a model directory to pictures uint8 [H, W, 3]; returns the model's new SHA-256.

    Files that were made before are files of another model.
    """
    stored, device = open_model(directory), choose_device("auto")
    errors = mean_errors(codec_of(stored, device), pictures)
    stored = replace(stored, coding=stored.coding | with_mean_bias(stored.coding, -errors))
    codec = codec_of(stored, device)
    counts = np.zeros(codec.coder.tables.frequencies.shape, np.int64)
    for pixels in pictures:
        for quality in QUALITIES:
            count_symbols(codec, pixels, quality, counts)
    tables = fit_tables(codec.coder.tables, counts)
    return write_model(directory, stored.weights, stored.coding | table_tensors(tables), stored.document)


def mean_errors(codec: Codec, pictures: Sequence[NDArray[np.uint8]]) -> Tensor:
    """By how much the integer prior's means exceed the float prior's, in the channels' own spread: float64 [C].

    An average over the files' coded elements, each weighted by what an error costs there: one over its variance.
    """
    totals = torch.zeros(2, codec.model.config.latent_channels, dtype=torch.float64)
    for pixels in pictures:
        for quality in QUALITIES[::2]:
            add_mean_errors(codec, pixels, quality, totals)
    return totals[0] / (totals[1] + PRIOR_WEIGHT)


def add_mean_errors(codec: Codec, pixels: NDArray[np.uint8], quality: int, totals: Tensor) -> None:
    """Add the weighted errors, and the weights, of the file of a picture to `totals` float64 [2, C]."""
    coder, model, grid = codec.coder, codec.model, grid_of(*pixels.shape[:2])
    latent = encode_latent(coder, *codec.analyse(pixels, quality), quality).latent
    q = torch.tensor([quality / 100], device=codec.device)
    with torch.inference_mode():
        features = model.hyper_decoder(unflattened(latent.hyper_16, hyper_grid(grid)), q, grid)
        exact = reveal_predictions(model, unflattened(latent.y_16, grid), q, features).mean
        gain = model.prior.log_gain.gain(q).flatten().double().cpu()
    exact, restored = exact[0].flatten(1).T.double().cpu(), latent.y_16.cpu() / MEAN_GRID
    steps, variance = step_positions(model.config, grid), table_scales() ** 2 + ROUNDING_VARIANCE
    _, *groups = symbols_of(coder, latent, quality, grid)
    for step, (symbols, index) in zip(FILE_STEPS, groups, strict=True):
        now = steps == step
        channel = now.nonzero()[:, 1]
        error = restored[now] - torch.from_numpy(symbols) - exact[now]
        weight = torch.from_numpy((index > 0) / variance[index]) * gain[channel] ** 2
        totals[0].index_add_(0, channel, weight * error / gain[channel])
        totals[1].index_add_(0, channel, weight)


def count_symbols(codec: Codec, pixels: NDArray[np.uint8], quality: int, counts: NDArray[np.int64]) -> None:
    """Add the entries of every table that the file of a picture uses to `counts` [T, L]."""
    coder = codec.coder
    coded = encode_latent(coder, *codec.analyse(pixels, quality), quality)
    for symbols, index in symbols_of(coder, coded.latent, quality, grid_of(*pixels.shape[:2])):
        np.add.at(counts, (index, table_entries(symbols, index, coder.tables)), 1)
