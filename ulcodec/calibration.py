"""Frequency tables fitted to the symbols that real files hold, in place of the Gaussians that the prior speaks of.

Symbols chosen by rate and distortion are zero more often than a Gaussian says, and have heavier tails.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ulcodec.arrays import grid_of
from ulcodec.codec import Codec, codec_of
from ulcodec.devices import choose_device
from ulcodec.entropy import fit_tables, table_entries
from ulcodec.latent_coding import encode_latent, symbols_of
from ulcodec.store import open_model, table_tensors, write_model

QUALITIES = (0, 20, 40, 60, 80, 100)


def calibrate(directory: Path, pictures: Iterable[NDArray[np.uint8]]) -> str:
    """Fit the tables of a model directory to pictures uint8 [H, W, 3]; returns the model's new SHA-256.

    Files that were made before are files of another model.
    """
    stored = open_model(directory)
    codec = codec_of(stored, choose_device("auto"))
    counts = np.zeros(codec.coder.tables.frequencies.shape, np.int64)
    for pixels in pictures:
        for quality in QUALITIES:
            count_symbols(codec, pixels, quality, counts)
    tables = fit_tables(codec.coder.tables, counts)
    return write_model(directory, stored.weights, stored.coding | table_tensors(tables), stored.document)


def count_symbols(codec: Codec, pixels: NDArray[np.uint8], quality: int, counts: NDArray[np.int64]) -> None:
    """Add the entries of every table that the file of a picture uses to `counts` [T, L]."""
    coder = codec.coder
    coded = encode_latent(coder, *codec.analyse(pixels, quality), quality)
    for symbols, index in symbols_of(coder, coded.latent, quality, grid_of(*pixels.shape[:2])):
        np.add.at(counts, (index, table_entries(symbols, index, coder.tables)), 1)
