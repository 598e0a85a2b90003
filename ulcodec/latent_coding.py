"""Latents to segments and back: the walk through the reveal steps, the same distribution at both ends.

N = B h w positions of B pictures in row-major order, C latent channels. Within a step, elements are coded in the order
of their positions, and of their channels within a position. The pictures of a batch share the prior's passes, and each
has segments of its own.
"""

import math
from binascii import crc_hqx
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ulcodec.container import N_SEGMENTS
from ulcodec.entropy import FrequencyTables, SymbolDecoder, SymbolEncoder, decode_front
from ulcodec.errors import ArithmeticMismatchError, CorruptDataError, ModelError
from ulcodec.memory import release
from ulcodec.model.config import ModelConfig
from ulcodec.model.integer import MEAN_GRID, CodingParameters, IntegerPrior
from ulcodec.model.likelihood import zeroward
from ulcodec.model.reveal import step_map

MAX_SYMBOL = 2**19
"""Larger symbols are clamped by the encoder; the entropy coder's escape goes to 2^20."""

FILE_STEPS = range(1, N_SEGMENTS + 1)
"""A segment each, empty where the model has fewer reveal steps."""

POSITIONS_AT_ONCE = 4096

LARGE_GRID = 2**16
"""Latent positions from which on freed memory is given back between the steps: 16 Mpixel."""


@dataclass(frozen=True)
class LatentCoder:
    """The integer prior and the frequency tables of one model."""

    prior: IntegerPrior
    tables: FrequencyTables

    def __post_init__(self) -> None:
        check_reveal_steps(self.prior.config)

    @cached_property
    def savings(self) -> Tensor:
        """Bits that a symbol of magnitude n costs more than n - 1, under each table: float64 [T, n]."""
        return zeroward_savings(self.tables).to(self.prior.device)


def check_reveal_steps(config: ModelConfig) -> None:
    """Raises ModelError if the model has more reveal steps than a file has segments."""
    if len(config.reveal_steps) > N_SEGMENTS:
        raise ModelError(f"a file holds {N_SEGMENTS} reveal steps, and the model has {len(config.reveal_steps)}")


class DecodedLatent(NamedTuple):
    """Latent [N, C] and hyper-latent [N / 16, C_hyper] in 1/16 steps, int32."""

    y_16: Tensor
    hyper_16: Tensor


class EncodedLatent(NamedTuple):
    """The segments of a file, the symbols' check, and what a decoder restores."""

    segments: tuple[bytes, ...]
    symbol_check: int
    latent: DecodedLatent


@lru_cache(maxsize=8)
def step_positions(config: ModelConfig, grid: tuple[int, int], n_pictures: int = 1) -> Tensor:
    """Reveal step of every element, uint8 [N, C]."""
    return step_map(config, grid).flatten(1).T.repeat(n_pictures, 1)


def hyper_grid(grid: tuple[int, int]) -> tuple[int, int]:
    return -(-grid[0] // 4), -(-grid[1] // 4)


def zeroward_savings(tables: FrequencyTables) -> Tensor:
    """Bits saved by coding n - 1 in place of n > 0, float64 [T, N]: 0 at n = 0 and where a table does not reach n."""
    reach = np.minimum(-tables.minima, tables.minima + tables.lengths - 2)
    savings = np.zeros((len(reach), max(int(reach.max()), 0) + 2))
    for row, frequencies, first, last in zip(savings, tables.frequencies, -tables.minima, reach, strict=True):
        if last > 0:
            used = frequencies[first : first + last + 1].astype(np.float64)
            row[1 : last + 1] = np.log2(used[:-1] / used[1:])
    return torch.from_numpy(savings)


def quantise(y: Tensor, parameters: CodingParameters, savings: Tensor | None = None) -> np.ndarray:
    """Symbols for `y - mean`, int32, zero where the table is the one that is not coded. y and parameters [M].

    The nearest integer or, with `savings` [T, N], the one before it towards zero where its bits are worth the error.
    """
    residual = y.double() - parameters.mean_16 / MEAN_GRID
    symbols = torch.floor(residual + 0.5).clamp(-MAX_SYMBOL, MAX_SYMBOL)
    if savings is not None:
        magnitude = symbols.abs()
        saved = savings[parameters.table_index.long(), magnitude.clamp(max=savings.shape[1] - 1).long()]
        symbols = zeroward(symbols, residual, saved)
    symbols = torch.where(parameters.table_index == 0, 0.0, symbols)
    return symbols.to(torch.int32).cpu().numpy()


def restore(symbols: np.ndarray, parameters: CodingParameters) -> Tensor:
    """Decoded elements in 1/16 steps, int32 [M]."""
    return torch.from_numpy(symbols).to(parameters.mean_16) * MEAN_GRID + parameters.mean_16


def symbols_between(restored: Tensor, parameters: CodingParameters) -> np.ndarray:
    """Inverse of `restore`."""
    symbols: np.ndarray = ((restored - parameters.mean_16) // MEAN_GRID).cpu().numpy()
    return symbols


def table_indices(parameters: CodingParameters) -> np.ndarray:
    return parameters.table_index.cpu().numpy()


def parts_of_step(
    predicted: CodingParameters, steps: Tensor, step: int
) -> Iterator[tuple[slice, Tensor, slice, CodingParameters]]:
    """Some positions at a time, which bounds memory: where they are, which of their elements are of the step, where
    these are among all of the step, and their parameters."""
    start = 0
    for first in range(0, len(steps), POSITIONS_AT_ONCE):
        part = slice(first, first + POSITIONS_AT_ONCE)
        now = steps[part] == step
        own = slice(start, start + int(torch.count_nonzero(now)))
        yield part, now, own, CodingParameters(predicted.mean_16[own], predicted.table_index[own])
        start = own.stop


def flattened(parameters: CodingParameters) -> CodingParameters:
    return CodingParameters(parameters.mean_16.flatten(), parameters.table_index.flatten())


class SymbolCheck:
    """CRC-16 (polynomial 0x1021, seed 0xFFFF) of all symbols in the order of coding, each as a little-endian int32.

    It tells a decoder that its arithmetic is not the encoder's: then a sound file gives other symbols.
    """

    def __init__(self) -> None:
        self.value = 0xFFFF

    def update(self, symbols: np.ndarray) -> None:
        self.value = crc_hqx(symbols.astype("<i4", order="C", copy=False).data, self.value)


def encode_latent(
    coder: LatentCoder, y: Tensor, hyper: Tensor, quality: int, thrift: float = 1.0, *, overwrite_y: bool = False
) -> EncodedLatent:
    """`encode_latents` of one latent [C, h, w] and its hyper-latent."""
    [coded] = encode_latents(coder, y[None], hyper[None], quality, thrift, overwrite_y=overwrite_y)
    return coded


def encode_latents(
    coder: LatentCoder, y: Tensor, hyper: Tensor, quality: int, thrift: float = 1.0, *, overwrite_y: bool = False
) -> list[EncodedLatent]:
    """Code latents y [B, C, h, w] and hyper-latents [B, C_hyper, ceil(h/4), ceil(w/4)], float32, in quantisation steps.

    `thrift`: how much a saved bit counts against error, beside what is best at this quality; more makes a smaller file.
    `overwrite_y`: what is restored may take the place of y, which saves its memory where y lies channels last.
    """
    savings = coder.savings * thrift
    prior, batch, grid = coder.prior, len(y), (y.shape[2], y.shape[3])
    y, hyper = (latent.permute(0, 2, 3, 1).flatten(0, 2) for latent in (y, hyper))
    encoders, checks = [SymbolEncoder() for _ in range(batch)], [SymbolCheck() for _ in range(batch)]

    def code(symbols: np.ndarray, indices: np.ndarray) -> None:
        parts = zip(encoders, checks, np.split(symbols, batch), np.split(indices, batch), strict=True)
        for encoder, check, own_symbols, own_indices in parts:
            encoder.encode(own_symbols, own_indices, coder.tables)
            check.update(own_symbols)

    parameters = flattened(prior.hyper_parameters(quality, len(hyper)))
    symbols = quantise(hyper.flatten(), parameters)
    code(symbols, table_indices(parameters))
    hyper_16 = restore(symbols, parameters).reshape(hyper.shape)
    features = prior.hyper_features(hyper_16, quality, grid)

    steps = step_positions(prior.config, grid, batch).to(y.device)
    y_16 = y.view(torch.int32) if overwrite_y else torch.zeros(y.shape, dtype=torch.int32, device=y.device)
    segments = []
    for step in FILE_STEPS:
        predicted = prior(y_16, steps, step, quality, features, grid)
        symbols = np.empty(len(predicted.mean_16), np.int32)
        for part, now, own, parameters in parts_of_step(predicted, steps, step):
            symbols[own] = quantise(y[part][now], parameters, savings)
            y_16[part][now] = restore(symbols[own], parameters)
        indices = table_indices(predicted)
        del predicted, parameters  # the means' memory, before the coder takes its own
        code(symbols, indices)
        del symbols, indices
        segments.append([encoder.finish() for encoder in encoders])
        encoders = [SymbolEncoder() for _ in range(batch)]
        if len(steps) >= LARGE_GRID:
            release()
    latents = own_latents(y_16, hyper_16, batch)
    own_segments = zip(*segments, strict=True)
    return [
        EncodedLatent(own, check.value, latent)
        for own, check, latent in zip(own_segments, checks, latents, strict=True)
    ]


def own_latents(y_16: Tensor, hyper_16: Tensor, batch: int) -> list[DecodedLatent]:
    """What belongs to each picture of a batch."""
    return [DecodedLatent(*pair) for pair in zip(y_16.chunk(batch), hyper_16.chunk(batch), strict=True)]


def symbols_of(
    coder: LatentCoder, latent: DecodedLatent, quality: int, grid: tuple[int, int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Symbols int32 [M] and table indices uint8 [M] of a file that restores `latent`: hyper-latent, then each step."""
    prior, steps = coder.prior, step_positions(coder.prior.config, grid).to(latent.y_16.device)
    parameters = flattened(prior.hyper_parameters(quality, len(latent.hyper_16)))
    yield symbols_between(latent.hyper_16.flatten(), parameters), table_indices(parameters)
    features = prior.hyper_features(latent.hyper_16, quality, grid)
    for step in FILE_STEPS:
        parameters = prior(latent.y_16, steps, step, quality, features, grid)
        yield symbols_between(latent.y_16[steps == step], parameters), table_indices(parameters)


def decode_latent(
    coder: LatentCoder, segments: tuple[bytes, ...], symbol_check: int, quality: int, grid: tuple[int, int]
) -> DecodedLatent:
    """`decode_latents` of one picture."""
    [decoded] = decode_latents(coder, [segments], [symbol_check], quality, grid)
    return decoded


def decode_latents(
    coder: LatentCoder,
    segments: Sequence[tuple[bytes, ...]],
    symbol_checks: Sequence[int],
    quality: int,
    grid: tuple[int, int],
) -> list[DecodedLatent]:
    """Inverse of `encode_latents`, up to quantisation. Raises CorruptDataError, or ArithmeticMismatchError.

    The latter, where the symbols are not those that the encoder coded.
    """
    if wrong := [len(own) for own in segments if len(own) != N_SEGMENTS]:
        raise CorruptDataError(f"expected {N_SEGMENTS} segments, got {wrong[0]}")
    walk = DecodingWalk(coder, quality, grid, len(segments))
    for of_step in zip(*segments, strict=True):
        walk.advance(of_step)
    if [check.value for check in walk.checks] != list(symbol_checks):
        raise ArithmeticMismatchError("the file is sound, but decoding gave other symbols than were encoded")
    return own_latents(walk.y_16, walk.hyper_16, len(segments))


def decode_cut_latent(
    coder: LatentCoder, segments: tuple[bytes, ...], quality: int, grid: tuple[int, int]
) -> DecodedLatent:
    """Inverse of `encode_latent` as far as the first segments go, of which the last is only the front of one.

    What they do not hold becomes the prior's mean. Raises CorruptDataError for whole ones that no encoder writes.
    """
    walk = DecodingWalk(coder, quality, grid)
    for segment in segments[:-1]:
        walk.advance([segment])
    walk.advance_by_front(segments[-1])
    walk.conceal()
    return DecodedLatent(walk.y_16, walk.hyper_16)


def conceal_latent(
    coder: LatentCoder, segments: tuple[bytes, ...], quality: int, grid: tuple[int, int]
) -> tuple[DecodedLatent, int]:
    """Decode what is sound of the first segments of a damaged file; the rest becomes the prior's mean.

    Returns the latent and the number of segments used: a segment that no encoder writes ends the walk. Raises
    CorruptDataError if that is the first one.
    """
    walk = DecodingWalk(coder, quality, grid)
    for segment in segments:
        try:
            walk.advance([segment])
        except CorruptDataError:
            if walk.step == 0:
                raise
            break
    n_used = walk.step
    walk.conceal()
    return DecodedLatent(walk.y_16, walk.hyper_16), n_used


class DecodingWalk:
    """The state of decoding `batch` pictures between two segments: `step` of them are decoded."""

    def __init__(self, coder: LatentCoder, quality: int, grid: tuple[int, int], batch: int = 1):
        self.coder, self.quality, self.grid = coder, quality, grid
        self.steps = step_positions(coder.prior.config, grid, batch).to(coder.prior.device)
        self.y_16 = torch.zeros(self.steps.shape, dtype=torch.int32, device=coder.prior.device)
        self.hyper_16 = self.features = torch.empty(0)
        self.checks = [SymbolCheck() for _ in range(batch)]
        self.step = 0

    def advance(self, segments: Sequence[bytes]) -> None:
        """Decode each picture's next segment; on CorruptDataError no element of y_16 and no step has been added."""
        decoders = [SymbolDecoder(segment) for segment in segments]
        if self.step == 0:
            self.decode_hyper(decoders)
        predicted = self.predict()
        symbols = self.decode(decoders, table_indices(predicted))
        for decoder in decoders:
            decoder.finish()
        self.restore(symbols, predicted)

    def decode(self, decoders: Sequence[SymbolDecoder], indices: np.ndarray) -> np.ndarray:
        """The symbols of all pictures, one picture after the other."""
        found = []
        for decoder, check, own in zip(decoders, self.checks, np.split(indices, len(decoders)), strict=True):
            found.append(decoder.decode(own, self.coder.tables))
            check.update(found[-1])
        return found[0] if len(found) == 1 else np.concatenate(found)  # a copy less of a large picture

    def advance_by_front(self, front: bytes) -> None:
        """Decode what is sure by the front of the next segment; the rest of the step becomes the prior's mean."""
        predicted = self.predict()
        self.restore(decode_front(front, table_indices(predicted), self.coder.tables), predicted)

    def restore(self, symbols: np.ndarray, predicted: CodingParameters) -> None:
        self.step += 1
        for part, now, own, parameters in parts_of_step(predicted, self.steps, self.step):
            self.y_16[part][now] = restore(symbols[own], parameters)

    def decode_hyper(self, decoders: Sequence[SymbolDecoder]) -> None:
        prior, n_hyper = self.coder.prior, len(decoders) * math.prod(hyper_grid(self.grid))
        parameters = flattened(prior.hyper_parameters(self.quality, n_hyper))
        symbols = self.decode(decoders, table_indices(parameters))
        self.hyper_16 = restore(symbols, parameters).reshape(n_hyper, -1)
        self.features = prior.hyper_features(self.hyper_16, self.quality, self.grid)

    def predict(self) -> CodingParameters:
        """Parameters of the elements of the next step."""
        return self.coder.prior(self.y_16, self.steps, self.step + 1, self.quality, self.features, self.grid)

    def conceal(self) -> None:
        """Give what is not decoded the prior's mean, step after step: each is trained on those before it."""
        while self.step < N_SEGMENTS:
            self.y_16[self.steps == self.step + 1] = self.predict().mean_16
            self.step += 1
