"""Batches give the files and the pictures that single calls give."""

from dataclasses import replace

import numpy as np
import pytest

from ulcodec.codec.grouping import POSITIONS_ON_CPU, group_by_grid
from ulcodec.codec.image import Codec, decode_batch, encode_batch
from ulcodec.errors import ArithmeticMismatchError
from ulcodec.format.container import Container
from ulcodec.io.picture import Picture


@pytest.fixture(scope="module")
def pictures(picture: np.ndarray) -> list[Picture]:
    """Two latent grids, and everything in which pictures of one grid may differ."""
    return [
        Picture(picture),
        Picture(picture[:40, :33]),
        Picture(np.ascontiguousarray(picture[::-1, :90])),
        Picture(picture[:, :, 1]),
        Picture(picture.astype(np.uint16) * 257),
        Picture(picture[:48, :48], alpha=np.tile(np.arange(48, dtype=np.uint8) * 5, (48, 1)), exif=b"II*\0\x08\0\0\0"),
    ]


@pytest.fixture(scope="module")
def files(tiny_codec: Codec, pictures: list[Picture]) -> list[bytes]:
    return encode_batch(tiny_codec, pictures, quality=40)


def test_files_are_those_of_single_pictures(tiny_codec: Codec, pictures: list[Picture], files: list[bytes]) -> None:
    assert files == [tiny_codec.encode(picture, quality=40) for picture in pictures]
    refined = encode_batch(tiny_codec, pictures[:2], quality=40, effort=2)
    assert refined == [tiny_codec.encode(picture, quality=40, effort=2) for picture in pictures[:2]]


def test_pictures_are_those_of_single_files(tiny_codec: Codec, files: list[bytes]) -> None:
    """Of several qualities, and one that is cut, which has no check of its symbols."""
    other = tiny_codec.encode(decode_batch(tiny_codec, files[:1])[0].pixels, quality=70)
    cut = Container.from_bytes(files[2]).truncated(2).to_bytes()
    mixed = [*files, other, cut]
    for found, data in zip(decode_batch(tiny_codec, mixed), mixed, strict=True):
        alone = tiny_codec.decode_picture(data)
        assert found.pixels.dtype == alone.pixels.dtype
        assert found.pixels.shape == alone.pixels.shape
        # a float network may round otherwise in a batch: one step of 8 bits
        assert np.abs(found.pixels_8.astype(int) - alone.pixels_8).max() <= 1
        assert replace(found, pixels=alone.pixels, alpha=None) == replace(alone, alpha=None)
        np.testing.assert_array_equal(found.alpha, alone.alpha)


def test_a_file_of_a_batch_that_is_not_what_was_encoded(tiny_codec: Codec, files: list[bytes]) -> None:
    said = Container.from_bytes(files[2])
    other = replace(said, symbol_check=(said.symbol_check or 0) ^ 1).to_bytes()
    with pytest.raises(ArithmeticMismatchError):
        decode_batch(tiny_codec, [files[0], other])


def test_no_pictures(tiny_codec: Codec) -> None:
    assert encode_batch(tiny_codec, []) == decode_batch(tiny_codec, []) == []


def test_quality_out_of_range(tiny_codec: Codec, picture: np.ndarray) -> None:
    with pytest.raises(ValueError, match="quality"):
        encode_batch(tiny_codec, [picture], quality=101)


def test_pictures_of_one_kind_go_together_as_many_as_the_device_takes(tiny_codec: Codec) -> None:
    side = int((POSITIONS_ON_CPU / 2) ** 0.5)
    kinds = [((side, side),), ((1, 1),), ((side, side),), ((side, side),), ((1000, 1000),), ((1000, 1000),)]
    assert group_by_grid(tiny_codec.device, kinds) == [[0, 2], [3], [1], [4], [5]]
