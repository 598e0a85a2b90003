"""Tiles and crops of a picture."""

import numpy as np
import pytest

from ulcodec.codec import tiling
from ulcodec.codec.image import Codec
from ulcodec.errors import ImageError


@pytest.mark.parametrize("tile", [4, 8, 12])
@pytest.mark.parametrize("size", [(37, 201), (130, 96), (16, 16), (65, 1)])
def test_tiles_change_neither_bytes_nor_pixels(
    tiny_codec: Codec, monkeypatch: pytest.MonkeyPatch, tile: int, size: tuple[int, int]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    data = tiny_codec.encode(noise)
    decoded = tiny_codec.decode_array(data)
    monkeypatch.setattr(tiling, "CODEC_TILE", tile)
    assert tiny_codec.encode(noise) == data
    np.testing.assert_array_equal(tiny_codec.decode_array(data), decoded)


def test_tiles_of_the_shipped_model_change_nothing(
    small: Codec, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = np.tile(picture, (2, 3, 1))
    data = small.encode(wide)
    decoded = small.decode_array(data)
    monkeypatch.setattr(tiling, "CODEC_TILE", 8)
    assert small.encode(wide) == data
    np.testing.assert_array_equal(small.decode_array(data), decoded)


@pytest.mark.parametrize("crop", [(0, 0, 96, 80), (5, 9, 1, 1), (40, 33, 50, 20), (95, 79, 1, 1), (0, 64, 96, 16)])
def test_crop_equals_the_crop_of_the_whole_picture(
    tiny_codec: Codec,
    picture: np.ndarray,
    soft_disc: np.ndarray,
    crop: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = tiny_codec.encode(np.dstack([picture, soft_disc]))
    left, top, width, height = crop
    expected = tiny_codec.decode_array(data)[top : top + height, left : left + width]
    for tile in (128, 4):
        monkeypatch.setattr(tiling, "CODEC_TILE", tile)
        decoded = tiny_codec.decode_picture(data, crop=crop)
        np.testing.assert_array_equal(np.dstack([decoded.pixels, decoded.alpha]), expected)


@pytest.mark.parametrize("crop", [(0, 0, 97, 80), (-1, 0, 5, 5), (0, 0, 0, 5), (90, 79, 7, 1)])
def test_crop_outside_the_picture_is_refused(tiny_codec: Codec, coded: bytes, crop: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="is not inside 96x80"):
        tiny_codec.decode_picture(coded, crop=crop)
