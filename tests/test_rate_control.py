"""Files of a wanted size or quality, with the shipped model."""

from importlib.resources import files

import numpy as np
import pytest

from ulcodec import rate_control
from ulcodec.codec import Codec, Encoding, load
from ulcodec.errors import ImageError
from ulcodec.images import Picture, load_image
from ulcodec.metrics import psnr_db
from ulcodec.rate_control import Search, encode_to_quality, encode_to_size


@pytest.fixture(scope="module")
def small() -> Codec:
    return load("small", device="cpu")


@pytest.fixture(scope="module")
def photo() -> Picture:
    pixels = load_image((files("skimage.data") / "coffee.png").read_bytes()).pixels
    return Picture(np.ascontiguousarray(pixels[100:292, 200:456]))


@pytest.fixture
def codings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of codings of every search."""
    counts: list[int] = []

    class Counted(Search):
        def at(self, quality: int, thrift: float = 1.0) -> float:
            value = super().at(quality, thrift)
            counts.append(self.codings)
            return value

    monkeypatch.setattr(rate_control, "Search", Counted)
    return counts


@pytest.mark.parametrize("n_bytes", [800, 1200, 1777, 2900, 5000, 7000])
def test_size_is_met(small: Codec, photo: Picture, codings: list[int], n_bytes: int) -> None:
    data = encode_to_size(small, photo, n_bytes)
    assert 0.98 * n_bytes <= len(data) <= n_bytes
    assert max(codings) <= 8


def test_best_file_where_the_size_is_out_of_reach(small: Codec, photo: Picture) -> None:
    assert encode_to_size(small, photo, 10**6) == small.encode(photo, quality=100)
    with pytest.raises(ImageError, match=r"no file of 100 bytes: the smallest of this picture has \d+"):
        encode_to_size(small, photo, 100)


def test_size_counts_everything_in_the_file(small: Codec, photo: Picture) -> None:
    whole = Picture(photo.pixels, photo.pixels[:, :, 0].copy(), None, bytes(range(256)), None)
    n_bytes = len(small.encode(whole, quality=40))
    data = encode_to_size(small, whole, n_bytes)
    assert 0.98 * n_bytes <= len(data) <= n_bytes
    stripped = encode_to_size(small, whole, n_bytes, strip=True, alpha_quality=20)
    assert len(stripped) <= n_bytes
    assert small.decode_picture(stripped).exif is None


@pytest.mark.parametrize("target_db", [26.0, 30.5, 33.0])
def test_psnr_is_met_by_the_smallest_file(small: Codec, photo: Picture, codings: list[int], target_db: float) -> None:
    data = encode_to_quality(small, photo, "psnr_db", target_db)
    assert psnr_db(photo.pixels, small.decode_array(data)) >= target_db
    assert max(codings) <= 8
    quality = data[8] & 127
    if quality:
        below = small.decode_array(small.encode(photo, quality=quality - 1))
        assert psnr_db(photo.pixels, below) < target_db


def test_ms_ssim_is_met(small: Codec, photo: Picture) -> None:
    sizes = [len(encode_to_quality(small, photo, "ms_ssim", value)) for value in (0.9, 0.97)]
    assert sizes[0] < sizes[1]
    with pytest.raises(ImageError, match="at least"):
        encode_to_quality(small, Picture(photo.pixels[:100]), "ms_ssim", 0.9)


def test_quality_out_of_reach(small: Codec, photo: Picture) -> None:
    with pytest.raises(ImageError, match="no file reaches 80: quality 100 gives"):
        encode_to_quality(small, photo, "psnr_db", 80.0)


def test_thrift_trades_bits_for_error(small: Codec, photo: Picture) -> None:
    encoding = Encoding(small, photo)
    found = [encoding.code(50, thrift) for thrift in (1.0, 1.5, 3.0)]
    assert found[0] == small.encode(photo, quality=50)
    sizes, errors = [len(data) for data in found], [psnr_db(photo.pixels, small.decode_array(data)) for data in found]
    assert sizes == sorted(sizes, reverse=True)
    assert errors == sorted(errors, reverse=True)
