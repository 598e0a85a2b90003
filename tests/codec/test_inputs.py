"""Pictures and quality as a caller passes them to the codec."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ulcodec.codec.image import Codec
from ulcodec.errors import FormatError, ImageError


def test_every_type_of_input_gives_the_same_bytes(
    tiny_codec: Codec, picture: np.ndarray, tmp_path: Path, coded: bytes
) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(picture).save(path)
    tensor = torch.from_numpy(picture.copy()).permute(2, 0, 1)
    sources = [Image.fromarray(picture), np.asfortranarray(picture), tensor, tensor.float() / 255, path, str(path)]
    for source in sources:
        assert tiny_codec.encode(source, quality=70) == coded
    grey = picture[:, :, 0]
    assert tiny_codec.encode(grey) == tiny_codec.encode(torch.from_numpy(grey.copy())[None])


def test_views_are_encoded_like_contiguous_arrays(tiny_codec: Codec, picture: np.ndarray) -> None:
    view = picture[::-1, ::-2]
    assert tiny_codec.encode(view) == tiny_codec.encode(np.ascontiguousarray(view))


@pytest.mark.parametrize("quality", [-1, 101, 50.5, float("nan")])
def test_quality_out_of_range_is_refused(tiny_codec: Codec, picture: np.ndarray, quality: float) -> None:
    with pytest.raises(ValueError, match=f"a whole number from 0 to 100, got {re.escape(str(quality))}"):
        tiny_codec.encode(picture, quality=quality)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3), dtype=np.float32),
        np.zeros((4, 4, 5), dtype=np.uint8),
        np.zeros((4, 4, 3), dtype=np.int16),
        np.zeros((3, 4, 4, 3), dtype=np.uint8),
        np.zeros(4, dtype=np.uint8),
        np.zeros((0, 4, 3), dtype=np.uint8),
        torch.zeros(4, 4),
        torch.zeros(5, 4, 4),
        torch.zeros(3, 4, 4, dtype=torch.int32),
        torch.zeros(3, 0, 4),
        b"not a picture",
    ],
    ids=lambda image: f"{type(image).__name__}-{getattr(image, 'dtype', '')}-{list(getattr(image, 'shape', []))}",
)
def test_input_that_is_no_picture_is_refused(tiny_codec: Codec, image: object) -> None:
    with pytest.raises(ImageError):
        tiny_codec.encode(image)


def test_more_pixels_than_the_limit_are_refused(tiny_codec: Codec, picture: np.ndarray, coded: bytes) -> None:
    for source in (picture, Image.fromarray(picture)):
        with pytest.raises(ImageError, match="more than 7679 pixels"):
            tiny_codec.encode(source, max_pixels=96 * 80 - 1)
    with pytest.raises(FormatError):
        tiny_codec.decode_array(coded, max_pixels=96 * 80 - 1)
