"""Latents to the segments of a file and back: both directions walk through the reveal passes, side by side here.

A segment holds a reveal pass; the first one also holds the hyper-latent. A frame of a sequence has all of them in one
payload. In every pass, both directions predict the same distributions from the passes before. The encoder then
quantises and encodes, the decoder decodes and restores.

N = B h w positions of B pictures in row-major order, C latent channels. Within a pass, elements are coded in the order
of their positions, and of their channels within a position. The pictures of a batch share the evaluations of the prior;
each picture has its segments. Symbols and table indices of a pass are [B, h, w, K]: K channels at a position
(`PassElements`).
"""

import math
from binascii import crc_hqx
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ulcodec.coding.fixed_point import MEAN_GRID, CodingParameters, CodingPrior, Grid, PriorWalk
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
from ulcodec.model.schedule import PassElements
from ulcodec.model.symbol_choice import is_worth_a_step
from ulcodec.model.tiles import Tile
from ulcodec.progress import share, tracked

LARGEST_CODED_SYMBOL = 2**19
"""The encoder clamps larger symbols; the entropy coder's escape goes to 2^20."""

FILE_PASSES = range(1, N_SEGMENTS + 1)
"""Reveal passes of a file, one segment each. The last ones are empty if the model has fewer passes."""

ELEMENTS_PER_CHUNK = 2**18
"""Number of elements that are quantised or restored together, which bounds the memory for that."""

LARGE_GRID = 2**16
"""Number of latent positions (16 Mpixel) from which the encoder frees memory between passes."""

Latent = NDArray[np.float32]
Integers = NDArray[np.int32]


@dataclass(frozen=True)
class LatentCoder:
    """The prior that codes files and the frequency tables of one model."""

    prior: CodingPrior
    tables: FrequencyTables

    def __post_init__(self) -> None:
        check_reveal_passes(self.prior.config)

    @cached_property
    def saved_bits(self) -> NDArray[np.float64]:
        """`zeroward_saved_bits` of the tables."""
        return zeroward_saved_bits(self.tables)


def check_reveal_passes(config: ModelConfig) -> None:
    """Raise ModelError if the model has more reveal passes than a file has segments."""
    if len(config.reveal_passes) > N_SEGMENTS:
        raise ModelError(f"a file holds {N_SEGMENTS} reveal passes, and the model has {len(config.reveal_passes)}")


class DecodedLatent(NamedTuple):
    """Latent [N, C] and hyper-latent [N / 16, C_hyper] in sixteenths of a bin, int32."""

    y_16: Integers
    hyper_16: Integers


class EncodedLatent(NamedTuple):
    """The segments of a file, the check of its symbols, and the latent that a decoder restores."""

    segments: tuple[bytes, ...]
    symbol_check: int
    latent: DecodedLatent


class EncodedFrame(NamedTuple):
    """The payload of a frame, the check of its symbols, and the latent that a decoder restores."""

    payload: bytes
    symbol_check: int
    latent: DecodedLatent


def hyper_grid(grid: Grid) -> Grid:
    """Return the grid of the hyper-latent, which has a position for every 4x4 of the latent."""
    return -(-grid[0] // 4), -(-grid[1] // 4)


# One picture or a batch, whole files


def encode_latent(
    coder: LatentCoder, y: Latent, hyper: Latent, quality: int, thrift: float = 1.0, *, overwrite_y: bool = False
) -> EncodedLatent:
    """Encode one latent [h, w, C] and its hyper-latent; see `encode_latents`."""
    [encoded] = encode_latents(coder, y[None], hyper[None], quality, thrift, overwrite_y=overwrite_y)
    return encoded


def decode_latent(
    coder: LatentCoder, segments: tuple[bytes, ...], symbol_check: int, quality: int, grid: Grid
) -> DecodedLatent:
    """Decode one latent; see `decode_latents`."""
    [decoded] = decode_latents(coder, [segments], [symbol_check], quality, grid)
    return decoded


def encode_latents(
    coder: LatentCoder,
    y: Latent,
    hyper: Latent,
    quality: int,
    thrift: float = 1.0,
    *,
    overwrite_y: bool = False,
) -> list[EncodedLatent]:
    """Encode latents y [B, h, w, C] and hyper-latents [B, ceil(h/4), ceil(w/4), C_hyper], float32, in bins.

    `thrift` multiplies the Lagrangian weight of bits against squared error in the choice of symbols: a symbol moves one
    bin towards zero if `thrift * saved_bits` exceeds what the added error is worth (see `is_worth_a_step`). 1 is best
    at the given quality; more makes a smaller file with a larger error.
    With `overwrite_y`, the restored latent uses the memory of y.
    """
    walk = EncodingWalk(coder, y, hyper, quality, thrift, overwrite_y=overwrite_y)
    segments = [walk.encode_segments() for _ in tracked(FILE_PASSES)]
    return [
        EncodedLatent(picture_segments, check.value, latent)
        for picture_segments, check, latent in zip(zip(*segments, strict=True), walk.checks, walk.latents, strict=True)
    ]


def decode_latents(
    coder: LatentCoder,
    segments: Sequence[tuple[bytes, ...]],
    symbol_checks: Sequence[int],
    quality: int,
    grid: Grid,
) -> list[DecodedLatent]:
    """Invert `encode_latents`, up to quantisation.

    Raises CorruptDataError for segments that no encoder writes, and ArithmeticMismatchError if the decoded symbols are
    not those that the encoder coded.
    """
    if wrong := [len(picture_segments) for picture_segments in segments if len(picture_segments) != N_SEGMENTS]:
        raise CorruptDataError(f"expected {N_SEGMENTS} segments, got {wrong[0]}")
    walk = DecodingWalk(coder, quality, grid, len(segments))
    for pass_segments in zip(*segments, strict=True):
        walk.decode_segments(pass_segments)
    walk.compare_checks(symbol_checks)
    return walk.latents


class SimulatedCoding(NamedTuple):
    """Latents as a decoder would restore them, int32 in sixteenths of a bin, and the table of each element, uint8.

    Both are [B, h, w, C].
    """

    y_16: Integers
    tables: NDArray[np.uint8]


def simulate_coding(coder: LatentCoder, y: Latent, hyper: Latent, quality: int) -> SimulatedCoding:
    """Quantise latents as `encode_latents` does, without the entropy coder."""
    tables = np.zeros(y.shape, np.uint8)
    walk = EncodingWalk(coder, y, hyper, quality, tables=tables)
    for _ in tracked(FILE_PASSES):
        walk.simulate_pass()
    return SimulatedCoding(walk.y_16, tables)


# Frames of a sequence: one payload each


def encode_frames(
    coder: LatentCoder,
    y: Latent,
    hyper: Latent,
    quality: int,
    thrift: float = 1.0,
    *,
    overwrite_y: bool = False,
) -> list[EncodedFrame]:
    """Encode latents like `encode_latents`, each to one payload of the hyper-latent and all passes."""
    walk = EncodingWalk(coder, y, hyper, quality, thrift, overwrite_y=overwrite_y)
    encoders = [SymbolEncoder() for _ in walk.checks]
    for _ in tracked(FILE_PASSES):
        walk.encode_pass(encoders)
    frames = zip(encoders, walk.checks, walk.latents, strict=True)
    return [EncodedFrame(encoder.finish(), check.value, latent) for encoder, check, latent in frames]


def decode_frames(
    coder: LatentCoder, payloads: Sequence[bytes], symbol_checks: Sequence[int], quality: int, grid: Grid
) -> list[DecodedLatent]:
    """Invert `encode_frames`, up to quantisation. Raises as `decode_latents`."""
    walk = DecodingWalk(coder, quality, grid, len(payloads))
    decoders = [SymbolDecoder(payload) for payload in payloads]
    for reveal_pass in FILE_PASSES:
        walk.decode_pass(decoders, are_last=reveal_pass == FILE_PASSES[-1])
    walk.compare_checks(symbol_checks)
    return walk.latents


# Cut and damaged files


def decode_cut_latent(coder: LatentCoder, segments: tuple[bytes, ...], quality: int, grid: Grid) -> DecodedLatent:
    """Decode the first segments of a file, the last of which is cut, up to the cut.

    Elements beyond the cut become the prior's mean. Raises CorruptDataError for whole segments that no encoder writes.
    """
    walk = DecodingWalk(coder, quality, grid)
    for segment in segments[:-1]:
        walk.decode_segments([segment])
    walk.decode_cut_segment(segments[-1])
    walk.conceal()
    return walk.latents[0]


def conceal_latent(
    coder: LatentCoder, segments: tuple[bytes, ...], quality: int, grid: Grid
) -> tuple[DecodedLatent, int]:
    """Decode the first segments of a damaged file until one is damaged; later elements become the prior's mean.

    Returns the latent and the number of segments used. Raises CorruptDataError if the first segment is damaged.
    """
    walk = DecodingWalk(coder, quality, grid)
    for segment in segments:
        try:
            walk.decode_segments([segment])
        except CorruptDataError:
            if walk.n_passes == 0:
                raise
            break
    n_used = walk.n_passes
    walk.conceal()
    return walk.latents[0], n_used


# The two walks


class _Walk:
    """State that both directions share between two segments of a batch.

    y_16 int32 [B, h, w, C] holds the restored elements of the passes so far.
    """

    state: PriorWalk
    hyper_16: Integers

    def __init__(self, coder: LatentCoder, quality: int, y_16: Integers):
        self.coder, self.quality, self.y_16, self.n_passes = coder, quality, y_16, 0
        self.grid = y_16.shape[1], y_16.shape[2]
        self.checks = [SymbolCheck() for _ in y_16]

    @property
    def latents(self) -> list[DecodedLatent]:
        """The restored latent of each picture."""
        batch = len(self.y_16)
        parts = (latent_16.reshape(batch, -1, latent_16.shape[-1]) for latent_16 in (self.y_16, self.hyper_16))
        return [DecodedLatent(*latent) for latent in zip(*parts, strict=True)]

    @property
    def elements(self) -> PassElements:
        """The elements of the next pass."""
        return PassElements(self.coder.prior.config, self.n_passes + 1)

    def tiles(self) -> Iterator[Tile]:
        """Iterate over the tiles of the next pass."""
        return self.coder.prior.tiles(self.state)

    def predict(self, tile: Tile) -> CodingParameters:
        """Predict the elements of the next pass in a tile: parameters [B, h, w, K]."""
        return self.coder.prior(tile.outer_of(self.y_16), self.state, tile)

    def advance(self) -> None:
        """Go to the next pass."""
        self.state.advance()
        self.n_passes += 1

    def set_hyper(self, hyper_16: Integers) -> None:
        """Take the restored hyper-latents [B N / 16, C_hyper], on which all predictions depend."""
        self.hyper_16 = hyper_16
        self.state = self.coder.prior.begin(hyper_16, self.quality, self.grid)


class EncodingWalk(_Walk):
    """State of the encoder between two segments, with the latents to encode; see `encode_latents`."""

    def __init__(
        self,
        coder: LatentCoder,
        y: Latent,
        hyper: Latent,
        quality: int,
        thrift: float = 1.0,
        *,
        overwrite_y: bool = False,
        tables: NDArray[np.uint8] | None = None,
    ):
        self.y, self.hyper, self.saved_bits, self.tables = y, hyper, coder.saved_bits * thrift, tables
        super().__init__(coder, quality, y.view(np.int32) if overwrite_y else np.zeros(y.shape, np.int32))

    def encode_segments(self) -> list[bytes]:
        """Encode each picture's next segment."""
        encoders = [SymbolEncoder() for _ in self.checks]
        self.encode_pass(encoders)
        return [encoder.finish() for encoder in encoders]

    def encode_pass(self, encoders: Sequence[SymbolEncoder]) -> None:
        """Encode each picture's next pass, and its hyper-latent before the first one."""
        if self.n_passes == 0:
            self._encode_groups(encoders, [self._quantise_hyper()])
        self._encode_groups(encoders, self._quantise_rows())
        self.advance()

    def simulate_pass(self) -> None:
        """Do as `encode_pass` does, without the entropy coder."""
        if self.n_passes == 0:
            self._quantise_hyper()
        for _ in self._quantise_rows():
            pass
        self.advance()

    def advance(self) -> None:
        super().advance()
        if math.prod(self.grid) >= LARGE_GRID:
            release()

    def _quantise_hyper(self) -> tuple[Integers, NDArray[np.uint8]]:
        """Quantise the hyper-latents, and keep what a decoder restores; return symbols and table indices [B, ...]."""
        flat = self.coder.prior.hyper_parameters(self.quality, math.prod(self.hyper.shape[:3]))
        parameters = flat.each(lambda part: part.reshape(self.hyper.shape))
        symbols = quantise(self.hyper, parameters)
        self.set_hyper(restore(symbols, parameters.mean_16).reshape(-1, symbols.shape[3]))
        return symbols, parameters.table_index

    def _quantise_rows(self) -> Iterator[tuple[Integers, NDArray[np.uint8]]]:
        """Quantise the elements of the next pass, and restore them into y_16, a row of tiles at a time.

        Yields symbols and table indices [B, M] of each row of tiles, in the order of coding.
        """
        elements, batch, n_columns = self.elements, len(self.y), self.grid[1]
        for tile in self.tiles():
            parameters, rows, columns = self.predict(tile), tile.rows.inner, tile.columns.inner
            if columns.start == 0:
                shape = (batch, rows.stop - rows.start, n_columns, elements.n_channels)
                symbols, indices = np.empty(shape, np.int32), np.empty(shape, np.uint8)
            indices[:, :, columns] = parameters.table_index
            for chunk in _row_chunks(parameters.mean_16.shape):
                symbols[:, chunk, columns] = self._quantise_chunk(tile, chunk, parameters)
            if columns.stop == n_columns:
                yield symbols, indices

    def _quantise_chunk(self, tile: Tile, chunk: slice, parameters: CodingParameters) -> Integers:
        """Quantise some rows of a tile, and restore them into y_16: symbols [B, rows, w, K]."""
        elements, rows, columns = self.elements, tile.rows.inner, tile.columns.inner
        origin = rows.start + chunk.start, columns.start
        place = slice(None), slice(origin[0], rows.start + chunk.stop), columns
        parameters = parameters.each(lambda part: part[:, chunk])
        symbols = quantise(elements.gather(self.y[place], origin), parameters, self.saved_bits)
        elements.scatter(restore(symbols, parameters.mean_16), self.y_16[place], origin)
        if self.tables is not None:
            elements.scatter(parameters.table_index, self.tables[place], origin)
        return symbols

    def _encode_groups(
        self, encoders: Sequence[SymbolEncoder], parts: Iterable[tuple[Integers, NDArray[np.uint8]]]
    ) -> None:
        """Encode each picture's group, from parts in the order of coding: symbols and table indices [B, ...]."""
        groups = [SymbolGroup(self.coder.tables) for _ in self.checks]
        for batch_symbols, batch_indices in parts:
            pictures = zip(groups, self.checks, batch_symbols, batch_indices, strict=True)
            for group, check, symbols, indices in pictures:
                group.add(symbols.ravel(), indices.ravel())
                check.update(symbols)
        for encoder, group in zip(encoders, groups, strict=True):
            encoder.encode_group(group)


class DecodingWalk(_Walk):
    """State of the decoder between two segments of a batch."""

    def __init__(self, coder: LatentCoder, quality: int, grid: Grid, batch: int = 1):
        super().__init__(coder, quality, np.zeros((batch, *grid, coder.prior.config.latent_channels), np.int32))

    def decode_segments(self, segments: Sequence[bytes]) -> None:
        """Decode each picture's next segment. After a CorruptDataError, the earlier passes still hold."""
        decoders = [SymbolDecoder(segment) for segment in segments]
        self.decode_pass(decoders, are_last=True)

    def decode_pass(self, decoders: Sequence[SymbolDecoder], *, are_last: bool) -> None:
        """Decode each picture's next pass, and its hyper-latent before the first one. `are_last`: payloads end here."""
        if self.n_passes == 0:
            self._decode_hyper(decoders)
        indices, groups = self._place_means(), []
        for decoder, picture_indices in zip(decoders, indices, strict=True):
            groups.append(decoder.decode_group(self._count_tables(picture_indices), self.coder.tables))
            if are_last:
                decoder.finish()
        self._restore_rows(groups, indices)
        self.advance()

    def compare_checks(self, symbol_checks: Sequence[int]) -> None:
        """Raise ArithmeticMismatchError if the decoded symbols are not those that the encoder coded."""
        if [check.value for check in self.checks] != list(symbol_checks):
            raise ArithmeticMismatchError(
                "the file is sound, but decoding gave other symbols than were encoded; decode it on another machine"
            )

    def decode_cut_segment(self, prefix: bytes) -> None:
        """Decode a prefix of the next segment, not the first; uncertain elements of the pass get the prior's mean."""
        indices = self._place_means()
        group = decode_group_prefix(prefix, self._count_tables(indices[0]), self.coder.tables)
        self._restore_rows([group], indices)
        self.advance()

    def conceal(self) -> None:
        """Give all later elements the prior's mean, pass by pass: the prior is trained to see earlier passes."""
        while self.n_passes < N_SEGMENTS:
            self._place_means()
            self.advance()

    def _decode_hyper(self, decoders: Sequence[SymbolDecoder]) -> None:
        """Decode each picture's hyper-latent."""
        prior, tables, restored = self.coder.prior, self.coder.tables, []
        mean_16, indices = prior.hyper_parameters(self.quality, math.prod(hyper_grid(self.grid)))
        for decoder, check in zip(decoders, self.checks, strict=True):
            symbols = decoder.decode(indices.ravel(), tables)
            check.update(symbols)
            restored.append(restore(symbols.reshape(mean_16.shape), mean_16))
        self.set_hyper(np.concatenate(restored))

    def _place_means(self) -> NDArray[np.uint8]:
        """Predict the next pass, and write the means into y_16; return the table indices [B, h, w, K]."""
        elements = self.elements
        indices = np.empty((*self.y_16.shape[:3], elements.n_channels), np.uint8)
        with share(1 / (N_SEGMENTS - self.n_passes)):
            for tile in self.tiles():
                parameters = self.predict(tile)
                elements.scatter(parameters.mean_16, tile.inner_of(self.y_16), tile.inner_origin)
                tile.inner_of(indices)[:] = parameters.table_index
        return indices

    def _restore_rows(self, groups: Sequence[DecodedGroup], indices: NDArray[np.uint8]) -> None:
        """Add the symbols of the next pass to the means in y_16, some rows at a time."""
        elements = self.elements
        for y_16, group, check, picture_indices in zip(self.y_16, groups, self.checks, indices, strict=True):
            for rows, ordered_indices in self._in_order(picture_indices):
                symbols, origin, target = group.take(ordered_indices), (rows.start, 0), y_16[None, rows]
                check.update(symbols)
                placed = symbols.reshape(*target.shape[:3], -1)
                elements.scatter(restore(placed, elements.gather(target, origin)), target, origin)

    def _count_tables(self, indices: NDArray[np.uint8]) -> NDArray[np.intp]:
        """Count a picture's elements under each table, from their indices [h, w, K]."""
        counts = [count_tables(ordered_indices, self.coder.tables) for _, ordered_indices in self._in_order(indices)]
        total: NDArray[np.intp] = np.sum(counts, axis=0)
        return total

    def _in_order(self, indices: NDArray[np.uint8]) -> Iterator[tuple[slice, NDArray[np.uint8]]]:
        """Iterate over a picture's table indices [h, w, K] in the order of coding, some rows at a time."""
        for rows in _row_chunks(indices[None].shape):
            yield rows, indices[rows].ravel()


class SymbolCheck:
    """CRC-16 (polynomial 0x1021, seed 0xFFFF) of all symbols in the order of coding, each as a little-endian int32.

    It tells a decoder that its arithmetic differs from the encoder's: a sound file then gives other symbols.
    """

    def __init__(self) -> None:
        self.value = 0xFFFF

    def update(self, symbols: np.ndarray) -> None:
        self.value = crc_hqx(symbols.astype("<i4", order="C", copy=False).data, self.value)


# Symbols and distributions of a latent that is already restored


def symbols_of(
    coder: LatentCoder, latent: DecodedLatent, quality: int, grid: Grid
) -> Iterator[tuple[Integers, NDArray[np.uint8]]]:
    """Iterate over the symbols of a file that restores `latent`: of the hyper-latent, then of each pass.

    Yields symbols int32 [M] and table indices uint8 [M].
    """
    prior = coder.prior
    mean_16, indices = prior.hyper_parameters(quality, len(latent.hyper_16))
    yield _symbols_between(latent.hyper_16, mean_16).ravel(), indices.ravel()
    state = prior.begin(latent.hyper_16, quality, grid)
    y_16 = latent.y_16.reshape(1, *grid, -1)
    for reveal_pass in FILE_PASSES:
        parameters = next_parameters(prior, y_16, state)
        restored = PassElements(prior.config, reveal_pass).gather(y_16).ravel()
        yield _symbols_between(restored, parameters.mean_16), parameters.table_index


def next_parameters(prior: CodingPrior, y_16: Integers, state: PriorWalk) -> CodingParameters:
    """Predict all elements of the next pass, and go to the pass after it: parameters [M] in the order of coding.

    y_16 [B, h, w, C] is the latent of whole pictures in sixteenths of a bin.
    """
    shape = (*y_16.shape[:3], PassElements(prior.config, state.reveal_pass).n_channels)
    whole = CodingParameters(np.empty(shape, np.int32), np.empty(shape, np.uint8))
    for tile in prior.tiles(state):
        for target, part in zip(whole, prior(tile.outer_of(y_16), state, tile), strict=True):
            tile.inner_of(target)[:] = part
    state.advance()
    return whole.each(lambda part: part.ravel())


# Quantisation


def quantise(y: Latent, parameters: CodingParameters, saved_bits: NDArray[np.float64] | None = None) -> Integers:
    """Choose the symbols of y, int32, one for each element; `parameters` have the shape of y.

    The symbol is the integer nearest to `y - mean`. With `saved_bits` [T, N] (see `zeroward_saved_bits`), it is the
    integer before that, towards zero, if the bits saved outweigh the error added. It is 0 under the table that is not
    coded.
    """
    residual = y - parameters.mean_16 / MEAN_GRID
    symbols = np.floor(residual + 0.5)
    np.clip(symbols, -LARGEST_CODED_SYMBOL, LARGEST_CODED_SYMBOL, out=symbols)
    if saved_bits is not None:
        magnitude = np.abs(symbols).astype(np.int32)
        np.minimum(magnitude, saved_bits.shape[1] - 1, out=magnitude)
        signs = np.sign(symbols)
        symbols -= signs * is_worth_a_step(symbols, signs, residual, saved_bits[parameters.table_index, magnitude])
    symbols *= parameters.table_index > 0
    return symbols.astype(np.int32)


def restore(symbols: Integers, mean_16: Integers) -> Integers:
    """Return the decoded elements in sixteenths of a bin, int32."""
    restored: Integers = symbols * np.int32(MEAN_GRID) + mean_16
    return restored


def _symbols_between(restored: Integers, mean_16: Integers) -> Integers:
    """Invert `restore`."""
    symbols: Integers = (restored - mean_16) // np.int32(MEAN_GRID)
    return symbols


def zeroward_saved_bits(tables: FrequencyTables) -> NDArray[np.float64]:
    """Return the bits saved by coding n - 1 in place of n > 0, under each table: float64 [T, N].

    The entry is 0 for n = 0, and for symbols that a table does not cover with both signs.
    """
    reach = np.minimum(-tables.minima, tables.minima + tables.lengths - 2)
    saved_bits = np.zeros((len(reach), max(int(reach.max()), 0) + 2))
    for row, frequencies, zero, last in zip(saved_bits, tables.frequencies, -tables.minima, reach, strict=True):
        if last > 0:
            used = frequencies[zero : zero + last + 1].astype(np.float64)
            row[1 : last + 1] = np.log2(used[:-1] / used[1:])
    return saved_bits


# Shapes


def _row_chunks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Divide the rows of elements [B, h, w, K] into chunks of at most `ELEMENTS_PER_CHUNK`, or of one row."""
    n_rows = max(ELEMENTS_PER_CHUNK // max(shape[0] * shape[2] * shape[3], 1), 1)
    for start in range(0, shape[1], n_rows):
        yield slice(start, min(start + n_rows, shape[1]))
