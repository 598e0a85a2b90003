"""Thumbnails at an eighth of the picture's size."""

import numpy as np
import pytest
from PIL import Image

from ulcodec.codec.image import Codec


@pytest.mark.parametrize(("height", "width"), [(80, 96), (73, 91)])
def test_thumbnail_is_close_to_the_reduced_picture(
    tiny_codec: Codec, picture: np.ndarray, height: int, width: int
) -> None:
    data = tiny_codec.encode(picture[:height, :width], quality=100)
    thumbnail = tiny_codec.thumbnail(data).pixels
    assert thumbnail.shape == (-(-height // 8), -(-width // 8), 3)
    expected = np.asarray(Image.fromarray(tiny_codec.decode_array(data)).reduce(8)).astype(int)
    assert np.abs(thumbnail - expected).mean() < 4


def test_thumbnail_keeps_grey_and_alpha(tiny_codec: Codec, picture: np.ndarray) -> None:
    samples = tiny_codec.thumbnail(tiny_codec.encode(picture[:, :, :2])).samples
    assert samples.shape == (10, 12, 2)
    expected = picture[:, :, 1].reshape(10, 8, 12, 8).mean((1, 3))
    assert np.abs(samples[:, :, 1] - expected).max() <= 1
