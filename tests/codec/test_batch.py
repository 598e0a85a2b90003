"""Batches, compared with single calls."""

from dataclasses import replace

import numpy as np
import pytest

from ulcodec.codec.grouping import group_by_grid
from ulcodec.codec.image import Codec, decode_batch, encode_batch
from ulcodec.codec.torch_networks import POSITIONS_ON_CPU
from ulcodec.errors import ArithmeticMismatchError
from ulcodec.format.container import Container
from ulcodec.io.picture import Picture


@pytest.fixture(scope="module")
def pictures(picture: np.ndarray) -> list[Picture]:
    """Pictures of two latent grids, which differ in size, layout, depth, alpha and metadata."""
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


def test_batch_encodes_to_the_files_of_single_calls(
    tiny_codec: Codec, pictures: list[Picture], files: list[bytes]
) -> None:
    assert files == [tiny_codec.encode(picture, quality=40) for picture in pictures]
    refined = encode_batch(tiny_codec, pictures[:2], quality=40, effort=2)
    assert refined == [tiny_codec.encode(picture, quality=40, effort=2) for picture in pictures[:2]]


def test_batch_decodes_to_the_pictures_of_single_calls(tiny_codec: Codec, files: list[bytes]) -> None:
    """The batch holds files of several qualities, and a cut file, which has no symbol check."""
    other = tiny_codec.encode(decode_batch(tiny_codec, files[:1])[0].pixels, quality=70)
    cut = Container.from_bytes(files[2]).truncated(2).to_bytes()
    mixed = [*files, other, cut]
    for decoded, data in zip(decode_batch(tiny_codec, mixed), mixed, strict=True):
        expected = tiny_codec.decode_picture(data)
        assert decoded.pixels.dtype == expected.pixels.dtype
        assert decoded.pixels.shape == expected.pixels.shape
        # float networks may round differently in a batch, by one 8-bit level
        assert np.abs(decoded.pixels_8.astype(int) - expected.pixels_8).max() <= 1
        assert replace(decoded, pixels=expected.pixels, alpha=None) == replace(expected, alpha=None)
        np.testing.assert_array_equal(decoded.alpha, expected.alpha)


def test_batch_refuses_a_file_with_another_symbol_check(tiny_codec: Codec, files: list[bytes]) -> None:
    container = Container.from_bytes(files[2])
    other = replace(container, symbol_check=(container.symbol_check or 0) ^ 1).to_bytes()
    with pytest.raises(ArithmeticMismatchError):
        decode_batch(tiny_codec, [files[0], other])


def test_empty_batch_gives_empty_lists(tiny_codec: Codec) -> None:
    assert encode_batch(tiny_codec, []) == decode_batch(tiny_codec, []) == []


def test_batch_refuses_a_quality_out_of_range(tiny_codec: Codec, picture: np.ndarray) -> None:
    with pytest.raises(ValueError, match="quality"):
        encode_batch(tiny_codec, [picture], quality=101)


def test_pictures_of_one_kind_share_a_batch_up_to_the_limit_of_the_device(tiny_codec: Codec) -> None:
    side = int((POSITIONS_ON_CPU / 2) ** 0.5)
    kinds = [((side, side),), ((1, 1),), ((side, side),), ((side, side),), ((1000, 1000),), ((1000, 1000),)]
    assert group_by_grid(POSITIONS_ON_CPU, kinds) == [[0, 2], [3], [1], [4], [5]]
