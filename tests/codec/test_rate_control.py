"""Encoding to a target size or quality with the shipped model."""

import math
import sys
from importlib.resources import files

import numpy as np
import pytest

from ulcodec.codec import rate_control
from ulcodec.codec.image import Codec, Encoding
from ulcodec.codec.pixels import without_hidden
from ulcodec.codec.rate_control import Search, encode_to_quality, encode_to_size
from ulcodec.errors import ImageError, MissingPackageError
from ulcodec.io.picture import Picture
from ulcodec.io.pictures import load_image
from ulcodec.metrics import psnr_db, ssimulacra2


@pytest.fixture(scope="module")
def photo() -> Picture:
    pixels = load_image((files("skimage.data") / "coffee.png").read_bytes()).pixels
    return Picture(np.ascontiguousarray(pixels[100:292, 200:456]))


@pytest.fixture
def codings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record how often every search has coded the picture."""
    counts: list[int] = []

    class CountedSearch(Search):
        def at(self, quality: int, thrift: float = 1.0) -> float:
            value = super().at(quality, thrift)
            counts.append(self.codings)
            return value

    monkeypatch.setattr(rate_control, "Search", CountedSearch)
    return counts


@pytest.mark.parametrize("n_bytes", [800, 1200, 1777, 2900, 5000, 7000])
def test_target_size_is_met(small: Codec, photo: Picture, codings: list[int], n_bytes: int) -> None:
    data = encode_to_size(small, photo, n_bytes)
    assert 0.98 * n_bytes <= len(data) <= n_bytes
    assert max(codings) <= 8


def test_target_size_out_of_reach_gives_quality_100_or_an_error(small: Codec, photo: Picture) -> None:
    assert encode_to_size(small, photo, 10**6) == small.encode(photo, quality=100)
    with pytest.raises(ImageError, match=r"no file of 100 bytes: the smallest of this picture has \d+"):
        encode_to_size(small, photo, 100)


def test_target_size_includes_alpha_and_metadata(small: Codec, photo: Picture) -> None:
    picture = Picture(photo.pixels, photo.pixels[:, :, 0].copy(), None, bytes(range(256)), None)
    n_bytes = len(small.encode(picture, quality=40))
    data = encode_to_size(small, picture, n_bytes)
    assert 0.98 * n_bytes <= len(data) <= n_bytes
    stripped = encode_to_size(small, picture, n_bytes, strip=True, alpha_quality=20)
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


def test_target_ms_ssim_is_met(small: Codec, photo: Picture) -> None:
    sizes = [len(encode_to_quality(small, photo, "ms_ssim", value)) for value in (0.9, 0.97)]
    assert sizes[0] < sizes[1]
    with pytest.raises(ImageError, match="at least"):
        encode_to_quality(small, Picture(photo.pixels[:100]), "ms_ssim", 0.9)


@pytest.mark.parametrize("kind", ["colour", "grey", "16 bits", "alpha", "8 pixels"])
def test_ssimulacra2_is_met_by_the_smallest_file(small: Codec, photo: Picture, kind: str) -> None:
    pixels = photo.pixels[:96, :112].copy()
    alpha = np.where(np.arange(112) < 30, 0, 255).astype(np.uint8) + np.zeros((96, 1), np.uint8)
    picture = {
        "colour": Picture(pixels),
        "grey": Picture(pixels[:, :, 1].copy()),
        "16 bits": Picture(pixels.astype(np.uint16) * 257),
        "alpha": Picture(pixels, alpha),
        "8 pixels": Picture(pixels[:8, :40].copy()),
    }[kind]

    def score(data: bytes) -> float:
        decoded = small.decode_picture(data).pixels_8
        original = without_hidden(picture.pixels_8, alpha) if kind == "alpha" else picture.pixels_8
        if kind == "alpha":
            decoded[alpha == 0] = original[alpha == 0]
        return ssimulacra2(original, decoded)

    target = score(small.encode(picture, quality=55))
    data = encode_to_quality(small, picture, "ssimulacra2", target)
    assert score(data) >= target
    quality = data[8] & 127
    assert 0 < quality < 100
    assert score(small.encode(picture, quality=quality - 1)) < target


def test_ssimulacra2_is_met_with_effort(small: Codec, photo: Picture) -> None:
    picture = Picture(photo.pixels[:64, :64].copy())
    data = encode_to_quality(small, picture, "ssimulacra2", 50.0, effort=2)
    assert ssimulacra2(picture.pixels, small.decode_array(data)) >= 50.0


def test_ssimulacra2_out_of_reach_or_of_too_small_pictures_is_refused(small: Codec, photo: Picture) -> None:
    assert ssimulacra2(photo.pixels, photo.pixels) == 100
    tiny = Picture(photo.pixels[:7].copy())
    with pytest.raises(ValueError, match="sides of at least 8"):
        ssimulacra2(tiny.pixels, tiny.pixels)
    with pytest.raises(ImageError, match="SSIMULACRA2 needs sides of at least 8 pixels"):
        encode_to_quality(small, tiny, "ssimulacra2", 10.0)
    with pytest.raises(ImageError, match="no file reaches 100: quality 100 gives"):
        encode_to_quality(small, Picture(photo.pixels[:32].copy()), "ssimulacra2", 100.0)


def test_missing_ssimulacra2_package_is_reported_before_encoding(
    small: Codec, photo: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ssimulacra2", None)
    monkeypatch.setattr(Encoding, "code", lambda *_: pytest.fail("encoded before the import of the package"))
    with pytest.raises(MissingPackageError, match=r'pip install "ulcodec\[bench\]"'):
        encode_to_quality(small, photo, "ssimulacra2", 50.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_target_that_is_not_finite_is_refused(small: Codec, photo: Picture, value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        encode_to_quality(small, photo, "psnr_db", value)


def test_target_quality_out_of_reach_is_refused(small: Codec, photo: Picture) -> None:
    with pytest.raises(ImageError, match="no file reaches 80: quality 100 gives"):
        encode_to_quality(small, photo, "psnr_db", 80.0)


def test_thrift_trades_bits_for_error(small: Codec, photo: Picture) -> None:
    encoding = Encoding(small, photo)
    files = [encoding.code(50, thrift) for thrift in (1.0, 1.5, 3.0)]
    assert files[0] == small.encode(photo, quality=50)
    sizes = [len(data) for data in files]
    quality_db = [psnr_db(photo.pixels, small.decode_array(data)) for data in files]
    assert sizes == sorted(sizes, reverse=True)
    assert quality_db == sorted(quality_db, reverse=True)
