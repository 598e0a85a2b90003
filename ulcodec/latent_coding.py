"""Latents to segments and back: the walk through the reveal steps, the same distribution at both ends.

N = h w positions in row-major order, C latent channels. Within a step, elements are coded in the order of their
positions, and of their channels within a position.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ulcodec.container import N_SEGMENTS
from ulcodec.entropy import FrequencyTables, SymbolDecoder, SymbolEncoder
from ulcodec.errors import CorruptDataError
from ulcodec.model.config import ModelConfig
from ulcodec.model.integer import MEAN_GRID, CodingParameters, IntegerPrior
from ulcodec.model.reveal import STEPS, step_map

MAX_SYMBOL = 2**19
"""Larger symbols are clamped by the encoder; the entropy coder's escape goes to 2^20."""


@dataclass(frozen=True)
class LatentCoder:
    """The integer prior and the frequency tables of one model."""

    prior: IntegerPrior
    tables: FrequencyTables


class DecodedLatent(NamedTuple):
    """Latent [N, C] and hyper-latent [N / 16, C_hyper] in 1/16 steps, float64 holding integers."""

    y_16: Tensor
    hyper_16: Tensor


@lru_cache(maxsize=8)
def step_positions(config: ModelConfig, grid: tuple[int, int]) -> Tensor:
    """Reveal step of every element, uint8 [N, C]."""
    return step_map(config, grid).flatten(1).T.contiguous()


def hyper_grid(grid: tuple[int, int]) -> tuple[int, int]:
    return -(-grid[0] // 4), -(-grid[1] // 4)


def quantise(y: Tensor, parameters: CodingParameters) -> np.ndarray:
    """Symbols `round(y - mean)`, int32, zero where the table is the one that is not coded. y and parameters [M]."""
    symbols = torch.floor(y.double() - parameters.mean_16 / MEAN_GRID + 0.5).clamp(-MAX_SYMBOL, MAX_SYMBOL)
    symbols = torch.where(parameters.table_index == 0, 0.0, symbols)
    return symbols.to(torch.int32).cpu().numpy()


def restore(symbols: np.ndarray, parameters: CodingParameters) -> Tensor:
    """Decoded elements in 1/16 steps: float64 integers [M]."""
    return torch.from_numpy(symbols).to(parameters.mean_16) * MEAN_GRID + parameters.mean_16


def table_indices(parameters: CodingParameters) -> np.ndarray:
    return parameters.table_index.cpu().numpy()


def chosen(parameters: CodingParameters, mask: Tensor) -> CodingParameters:
    return CodingParameters(parameters.mean_16[mask], parameters.table_index[mask])


def flattened(parameters: CodingParameters) -> CodingParameters:
    return CodingParameters(parameters.mean_16.flatten(), parameters.table_index.flatten())


def encode_latent(coder: LatentCoder, y: Tensor, hyper: Tensor, quality: int) -> tuple[bytes, ...]:
    """Code a latent y [C, h, w] and its hyper-latent [C_hyper, ceil(h/4), ceil(w/4)], float, in quantisation steps.

    Returns the segments of the file.
    """
    prior, grid = coder.prior, (y.shape[1], y.shape[2])
    y, hyper = y.flatten(1).T, hyper.flatten(1).T
    encoder = SymbolEncoder()

    parameters = flattened(prior.hyper_parameters(quality, len(hyper)))
    symbols = quantise(hyper.flatten(), parameters)
    encoder.encode(symbols, table_indices(parameters), coder.tables)
    features = prior.hyper_features(restore(symbols, parameters).reshape(hyper.shape), quality, grid)

    steps = step_positions(prior.config, grid).to(y.device)
    y_16 = torch.zeros(y.shape, dtype=torch.float64, device=y.device)
    segments = []
    for step in STEPS:
        now = steps == step
        parameters = chosen(prior(y_16, steps < step, quality, features, grid), now)
        symbols = quantise(y[now], parameters)
        encoder.encode(symbols, table_indices(parameters), coder.tables)
        y_16[now] = restore(symbols, parameters)
        segments.append(encoder.finish())
        encoder = SymbolEncoder()
    return tuple(segments)


def decode_latent(
    coder: LatentCoder, segments: tuple[bytes, ...], quality: int, grid: tuple[int, int]
) -> DecodedLatent:
    """Inverse of `encode_latent`, up to rounding. Raises CorruptDataError."""
    if len(segments) != N_SEGMENTS:
        raise CorruptDataError(f"expected {N_SEGMENTS} segments, got {len(segments)}")
    prior = coder.prior
    n_hyper = math.prod(hyper_grid(grid))
    decoder = SymbolDecoder(segments[0])

    parameters = flattened(prior.hyper_parameters(quality, n_hyper))
    symbols = decoder.decode(table_indices(parameters), coder.tables)
    hyper_16 = restore(symbols, parameters).reshape(n_hyper, -1)
    features = prior.hyper_features(hyper_16, quality, grid)

    steps = step_positions(prior.config, grid).to(prior.device)
    y_16 = torch.zeros(steps.shape, dtype=torch.float64, device=prior.device)
    for step in STEPS:
        now = steps == step
        parameters = chosen(prior(y_16, steps < step, quality, features, grid), now)
        symbols = decoder.decode(table_indices(parameters), coder.tables)
        y_16[now] = restore(symbols, parameters)
        decoder.finish()
        if step < N_SEGMENTS:
            decoder = SymbolDecoder(segments[step])
    return DecodedLatent(y_16, hyper_16)
