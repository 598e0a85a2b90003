"""Latents to segments and back: the walk through the reveal steps, the same distribution at both ends.

N = B h w positions of B pictures in row-major order, C latent channels. Within a step, elements are coded in the order
of their positions, and of their channels within a position. The pictures of a batch share the prior's passes, and each
has segments of its own. Symbols and indices of a step are [B, h, w, K]: K channels at a position (`PassElements`).
"""

import math
from binascii import crc_hqx
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ulcodec.coding.integer_prior import MEAN_GRID, CodingParameters, IntegerPrior
from ulcodec.coding.symbols import (
    DecodedGroup,
    SymbolDecoder,
    SymbolEncoder,
    SymbolGroup,
    count_tables,
    decode_group_prefix,
)
from ulcodec.coding.tables import FrequencyTables
from ulcodec.errors import ArithmeticMismatchError, CorruptDataError, ModelError
from ulcodec.format.container import N_SEGMENTS
from ulcodec.memory import release
from ulcodec.model.config import ModelConfig
from ulcodec.model.likelihood import zeroward
from ulcodec.model.reveal import PassElements
from ulcodec.progress import share, tracked

LARGEST_CODED_SYMBOL = 2**19
"""Larger symbols are clamped by the encoder; the entropy coder's escape goes to 2^20."""

FILE_PASSES = range(1, N_SEGMENTS + 1)
"""A segment each, empty where the model has fewer reveal steps."""

ELEMENTS_AT_ONCE = 2**18
"""What is quantised or restored together, which bounds the memory for that."""

LARGE_GRID = 2**16
"""Latent positions from which on freed memory is given back between the steps: 16 Mpixel."""


@dataclass(frozen=True)
class LatentCoder:
    """The integer prior and the frequency tables of one model."""

    prior: IntegerPrior
    tables: FrequencyTables

    def __post_init__(self) -> None:
        check_reveal_passes(self.prior.config)

    @cached_property
    def savings(self) -> Tensor:
        """Bits that a symbol of magnitude n costs more than n - 1, under each table: float64 [T, n]."""
        return zeroward_saved_bits(self.tables).to(self.prior.device)


def check_reveal_passes(config: ModelConfig) -> None:
    """Raises ModelError if the model has more reveal steps than a file has segments."""
    if len(config.reveal_passes) > N_SEGMENTS:
        raise ModelError(f"a file holds {N_SEGMENTS} reveal steps, and the model has {len(config.reveal_passes)}")


class DecodedLatent(NamedTuple):
    """Latent [N, C] and hyper-latent [N / 16, C_hyper] in 1/16 steps, int32."""

    y_16: Tensor
    hyper_16: Tensor


class EncodedLatent(NamedTuple):
    """The segments of a file, the symbols' check, and what a decoder restores."""

    segments: tuple[bytes, ...]
    symbol_check: int
    latent: DecodedLatent


def hyper_grid(grid: tuple[int, int]) -> tuple[int, int]:
    return -(-grid[0] // 4), -(-grid[1] // 4)


def zeroward_saved_bits(tables: FrequencyTables) -> Tensor:
    """Bits saved by coding n - 1 in place of n > 0, float64 [T, N]: 0 at n = 0 and where a table does not reach n."""
    reach = np.minimum(-tables.minima, tables.minima + tables.lengths - 2)
    savings = np.zeros((len(reach), max(int(reach.max()), 0) + 2))
    for row, frequencies, first, last in zip(savings, tables.frequencies, -tables.minima, reach, strict=True):
        if last > 0:
            used = frequencies[first : first + last + 1].astype(np.float64)
            row[1 : last + 1] = np.log2(used[:-1] / used[1:])
    return torch.from_numpy(savings)


def quantise(y: Tensor, parameters: CodingParameters, savings: Tensor | None = None) -> Tensor:
    """Symbols for `y - mean`, int32, zero where the table is the one that is not coded. y and parameters: one shape.

    The nearest integer or, with `savings` [T, N], the one before it towards zero where its bits are worth the error.
    """
    residual = y.double() - parameters.mean_16 / MEAN_GRID
    symbols = torch.floor(residual + 0.5).clamp(-LARGEST_CODED_SYMBOL, LARGEST_CODED_SYMBOL)
    if savings is not None:
        magnitude = symbols.abs()
        saved = savings[parameters.table_index.long(), magnitude.clamp(max=savings.shape[1] - 1).long()]
        symbols = zeroward(symbols, residual, saved)
    return torch.where(parameters.table_index == 0, 0.0, symbols).to(torch.int32)


def restore(symbols: Tensor, mean_16: Tensor) -> Tensor:
    """Decoded elements in 1/16 steps, int32."""
    return symbols * MEAN_GRID + mean_16


def symbols_between(restored: Tensor, mean_16: Tensor) -> np.ndarray:
    """Inverse of `restore`."""
    symbols: np.ndarray = ((restored - mean_16) // MEAN_GRID).cpu().numpy()
    return symbols


def as_array(integers: Tensor) -> np.ndarray:
    array: np.ndarray = integers.cpu().numpy()
    return array


def row_spans(shape: torch.Size) -> Iterator[slice]:
    """Rows of elements [B, h, w, K], so many at a time as `ELEMENTS_AT_ONCE` allows, one at least."""
    n_rows = max(ELEMENTS_AT_ONCE // max(shape[0] * shape[2] * shape[3], 1), 1)
    for start in range(0, shape[1], n_rows):
        yield slice(start, min(start + n_rows, shape[1]))


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
    y, hyper = (latent.permute(0, 2, 3, 1) for latent in (y, hyper))
    checks = [SymbolCheck() for _ in range(batch)]

    parameters = CodingParameters(
        *(part.view(hyper.shape) for part in prior.hyper_parameters(quality, math.prod(hyper.shape[:3])))
    )
    symbols = quantise(hyper, parameters)
    hyper_16 = restore(symbols, parameters.mean_16).flatten(0, 2)
    encoders = [SymbolEncoder() for _ in range(batch)]
    for encoder, group in zip(encoders, grouped(coder, checks, [(symbols, parameters.table_index)]), strict=True):
        encoder.encode_group(group)
    features = prior.hyper_features(hyper_16, quality, grid)

    y_16 = y.view(torch.int32) if overwrite_y else torch.zeros(y.shape, dtype=torch.int32, device=y.device)
    segments = []
    for reveal_pass in tracked(FILE_PASSES):
        rows_of_tiles = encoded_rows(coder, y, y_16, reveal_pass, quality, features, savings)
        for encoder, group in zip(encoders, grouped(coder, checks, rows_of_tiles), strict=True):
            encoder.encode_group(group)
        segments.append([encoder.finish() for encoder in encoders])
        encoders = [SymbolEncoder() for _ in range(batch)]
        if math.prod(grid) >= LARGE_GRID:
            release()
    latents = own_latents(y_16.flatten(0, 2), hyper_16, batch)
    own_segments = zip(*segments, strict=True)
    return [
        EncodedLatent(own, check.value, latent)
        for own, check, latent in zip(own_segments, checks, latents, strict=True)
    ]


def grouped(
    coder: LatentCoder, checks: Sequence[SymbolCheck], parts: Iterable[tuple[Tensor, Tensor]]
) -> list[SymbolGroup]:
    """Each picture's group of symbols, from parts in the order of coding: symbols int32 and table indices [B, ...]."""
    groups = [SymbolGroup(coder.tables) for _ in checks]
    for symbols, indices in parts:
        for group, check, own_symbols, own_indices in zip(groups, checks, symbols, indices, strict=True):
            group.add(as_array(own_symbols).ravel(), as_array(own_indices).ravel())
            check.update(as_array(own_symbols))
    return groups


def encoded_rows(
    coder: LatentCoder, y: Tensor, y_16: Tensor, reveal_pass: int, quality: int, features: Tensor, savings: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Symbols and table indices [B, M] of a step, a row of tiles at a time; what they restore goes into `y_16`.

    y float32 and y_16 int32 [B, h, w, C], which may share their memory.
    """
    prior, elements = coder.prior, PassElements(coder.prior.config, reveal_pass, y.device)
    batch, n_columns = len(y), y.shape[2]
    for tile in prior.tiles((y.shape[1], n_columns)):
        rows, columns = tile.rows.inner, tile.columns.inner
        if columns.start == 0:
            shape = (batch, rows.stop - rows.start, n_columns, elements.n_channels)
            symbols = torch.empty(shape, dtype=torch.int32, device="cpu")
            indices = torch.empty_like(symbols, dtype=torch.uint8)
        predicted = prior(y_16, reveal_pass, quality, features, tile)
        indices[:, :, columns] = predicted.table_index
        for part in row_spans(predicted.mean_16.shape):
            origin = rows.start + part.start, columns.start
            place = slice(None), slice(origin[0], rows.start + part.stop), columns
            own = CodingParameters(predicted.mean_16[:, part], predicted.table_index[:, part])
            found = quantise(elements.gather(y[place], origin), own, savings)
            elements.scatter(restore(found, own.mean_16), y_16[place], origin)
            symbols[:, part, columns] = found
        if columns.stop == n_columns:
            ordered = (elements.in_order(whole, (rows.start, 0)) for whole in (symbols, indices))
            yield next(ordered).view(batch, -1), next(ordered).view(batch, -1)


def own_latents(y_16: Tensor, hyper_16: Tensor, batch: int) -> list[DecodedLatent]:
    """What belongs to each picture of a batch."""
    return [DecodedLatent(*pair) for pair in zip(y_16.chunk(batch), hyper_16.chunk(batch), strict=True)]


def symbols_of(
    coder: LatentCoder, latent: DecodedLatent, quality: int, grid: tuple[int, int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Symbols int32 [M] and table indices uint8 [M] of a file that restores `latent`: hyper-latent, then each step."""
    prior = coder.prior
    parameters = flattened(prior.hyper_parameters(quality, len(latent.hyper_16)))
    yield symbols_between(latent.hyper_16.flatten(), parameters.mean_16), as_array(parameters.table_index)
    features = prior.hyper_features(latent.hyper_16, quality, grid)
    y_16 = latent.y_16.view(1, *grid, -1)
    for reveal_pass in FILE_PASSES:
        elements = PassElements(prior.config, reveal_pass, y_16.device)
        parameters = pass_parameters(prior, y_16, reveal_pass, quality, features)
        restored = elements.in_order(elements.gather(y_16))
        yield symbols_between(restored, parameters.mean_16), as_array(parameters.table_index)


def pass_parameters(
    prior: IntegerPrior, y_16: Tensor, reveal_pass: int, quality: int, features: Tensor
) -> CodingParameters:
    """Parameters [M] of all elements of a step, in the order of coding. y_16 [B, h, w, C], features [B, h, w, ...]."""
    elements = PassElements(prior.config, reveal_pass, y_16.device)
    mean_16 = torch.empty(*y_16.shape[:3], elements.n_channels, dtype=torch.int32, device=y_16.device)
    whole = CodingParameters(mean_16, torch.empty_like(mean_16, dtype=torch.uint8))
    for tile in prior.tiles((y_16.shape[1], y_16.shape[2])):
        predicted = prior(y_16, reveal_pass, quality, features, tile)
        for target, part in zip(whole, predicted, strict=True):
            target[:, tile.rows.inner, tile.columns.inner] = part
    return CodingParameters(*(elements.in_order(part) for part in whole))


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
    return own_latents(*walk.latent, len(segments))


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
    return walk.latent


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
            if walk.reveal_pass == 0:
                raise
            break
    n_used = walk.reveal_pass
    walk.conceal()
    return walk.latent, n_used


class DecodingWalk:
    """The state of decoding `batch` pictures between two segments: `reveal_pass` of them are decoded."""

    def __init__(self, coder: LatentCoder, quality: int, grid: tuple[int, int], batch: int = 1):
        self.coder, self.quality, self.grid = coder, quality, grid
        config, device = coder.prior.config, coder.prior.device
        self.y_16 = torch.zeros(batch, *grid, config.latent_channels, dtype=torch.int32, device=device)
        self.hyper_16 = self.features = torch.empty(0, dtype=torch.int32, device=device)
        self.checks = [SymbolCheck() for _ in range(batch)]
        self.reveal_pass = 0

    @property
    def latent(self) -> DecodedLatent:
        """What has been restored, all pictures together."""
        return DecodedLatent(self.y_16.flatten(0, 2), self.hyper_16)

    def advance(self, segments: Sequence[bytes]) -> None:
        """Decode each picture's next segment. A CorruptDataError leaves the state after the passes before."""
        decoders = [SymbolDecoder(segment) for segment in segments]
        if self.reveal_pass == 0:
            self.decode_hyper(decoders)
        indices = self.predict()
        groups = []
        for decoder, own in zip(decoders, indices, strict=True):
            groups.append(decoder.decode_group(self.count(own), self.coder.tables))
            decoder.finish()
        self.restore(groups, indices)
        self.reveal_pass += 1

    def advance_by_front(self, front: bytes) -> None:
        """Decode what is sure by the front of the next segment; the rest of the step becomes the prior's mean."""
        indices = self.predict()
        self.restore([decode_group_prefix(front, self.count(indices[0]), self.coder.tables)], indices)
        self.reveal_pass += 1

    def decode_hyper(self, decoders: Sequence[SymbolDecoder]) -> None:
        prior, tables = self.coder.prior, self.coder.tables
        parameters = flattened(prior.hyper_parameters(self.quality, math.prod(hyper_grid(self.grid))))
        index, restored = as_array(parameters.table_index), []
        for decoder, check in zip(decoders, self.checks, strict=True):
            symbols = decoder.decode(index, tables)
            check.update(symbols)
            restored.append(restore(torch.from_numpy(symbols).to(prior.device), parameters.mean_16))
        self.hyper_16 = torch.cat(restored).view(-1, prior.config.hyper_channels)
        self.features = prior.hyper_features(self.hyper_16, self.quality, self.grid)

    @property
    def elements(self) -> PassElements:
        """Those of the next step."""
        return PassElements(self.coder.prior.config, self.reveal_pass + 1, self.y_16.device)

    def predict(self) -> Tensor:
        """Put the means of the next step's elements into their places in y_16; returns their table indices."""
        prior, elements = self.coder.prior, self.elements
        indices = torch.empty(*self.y_16.shape[:3], elements.n_channels, dtype=torch.uint8, device="cpu")
        with share(1 / (N_SEGMENTS - self.reveal_pass)):
            for tile in prior.tiles(self.grid):
                predicted = prior(self.y_16, self.reveal_pass + 1, self.quality, self.features, tile)
                elements.scatter(predicted.mean_16, tile.inner_of(self.y_16), tile.inner_origin)
                tile.inner_of(indices).copy_(predicted.table_index)
        return indices

    def count(self, indices: Tensor) -> NDArray[np.intp]:
        """Number of a picture's elements under each table, from their indices [h, w, K]."""
        counts = (count_tables(part, self.coder.tables) for _, part in self.in_order(indices))
        total: NDArray[np.intp] = np.sum(list(counts), axis=0)
        return total

    def in_order(self, indices: Tensor) -> Iterator[tuple[slice, NDArray[np.uint8]]]:
        """A picture's table indices [h, w, K] in the order of coding, some rows at a time."""
        for rows in row_spans(indices[None].shape):
            yield rows, as_array(self.elements.in_order(indices[None, rows], (rows.start, 0)))

    def restore(self, groups: Sequence[DecodedGroup], indices: Tensor) -> None:
        """Add to the means in y_16 what the symbols of the next step say."""
        elements = self.elements
        for y_16, group, check, own in zip(self.y_16, groups, self.checks, indices, strict=True):
            for rows, index in self.in_order(own):
                symbols, origin, part = group.take(index), (rows.start, 0), y_16[None, rows]
                check.update(symbols)
                placed = elements.placed(torch.from_numpy(symbols).to(y_16.device), part.shape[:3], origin)
                elements.scatter(restore(placed, elements.gather(part, origin)), part, origin)

    def conceal(self) -> None:
        """Give what is not decoded the prior's mean, step after step: each is trained on those before it."""
        while self.reveal_pass < N_SEGMENTS:
            self.predict()
            self.reveal_pass += 1
