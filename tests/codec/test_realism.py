"""Decoding with realism: samples of the decoder's diffusion."""

from dataclasses import replace

import numpy as np
import pytest

from ulcodec.codec import tiling
from ulcodec.codec.image import Codec, decode_batch
from ulcodec.codec.realism import Realism
from ulcodec.errors import ModelError
from ulcodec.metrics import mse, spectral_power_ratio


@pytest.fixture
def denoising_codec(tiny_codec: Codec) -> Codec:
    """The tiny codec, which accepts `realism` as if its denoiser were trained."""
    return replace(tiny_codec, has_denoiser=True)


def test_share_interpolates_between_mean_and_sample(denoising_codec: Codec, picture: np.ndarray) -> None:
    data = denoising_codec.encode(picture, quality=30)
    mean, half, full = (denoising_codec.decode_array(data, realism=share).astype(float) for share in (0, 0.5, 1.0))
    assert np.array_equal(mean, denoising_codec.decode_array(data))
    unclipped = np.all([(pixels > 0) & (pixels < 255) for pixels in (mean, half, full)], axis=0)
    assert np.abs(half - (mean + full) / 2)[unclipped].max() <= 1
    assert np.abs(full - mean).mean() > 2


def test_seed_determines_the_sample(denoising_codec: Codec, picture: np.ndarray) -> None:
    data = denoising_codec.encode(picture, quality=30)
    first, again, other = (denoising_codec.decode_array(data, realism=Realism(1, 4, seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert mse(first, other) > 1


def test_tiles_and_crops_give_the_same_sample(
    denoising_codec: Codec, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = np.tile(picture, (2, 3, 1))
    data = denoising_codec.encode(large, quality=30)
    whole = denoising_codec.decode_array(data, realism=Realism(1, 2)).astype(int)
    crop = denoising_codec.decode_picture(data, crop=(90, 40, 77, 50), realism=Realism(1, 2)).pixels.astype(int)
    assert np.abs(crop - whole[40:90, 90:167]).max() <= 1
    monkeypatch.setattr(tiling, "CODEC_TILE", 4)
    tiled = denoising_codec.decode_array(data, realism=Realism(1, 2)).astype(int)
    assert np.abs(tiled - whole).max() <= 1
    assert (tiled != whole).mean() < 0.01


def test_realism_of_grey_and_16_bit_pictures(denoising_codec: Codec, picture: np.ndarray) -> None:
    grey = denoising_codec.encode(picture[:, :, 0], quality=30)
    assert denoising_codec.decode_array(grey, realism=1.0).shape == (80, 96)
    deep = denoising_codec.encode(picture.astype(np.uint16) * 257, quality=30)
    assert denoising_codec.decode_array(deep, realism=1.0).dtype == np.uint16


def test_samples_of_a_batch_are_those_of_single_calls(denoising_codec: Codec, picture: np.ndarray) -> None:
    files = [denoising_codec.encode(pixels, quality=30) for pixels in (picture, np.ascontiguousarray(picture[::-1]))]
    together = decode_batch(denoising_codec, files, realism=Realism(1, 2, 5))
    for data, decoded in zip(files, together, strict=True):
        alone = denoising_codec.decode_array(data, realism=Realism(1, 2, 5)).astype(int)
        assert np.abs(decoded.pixels - alone).max() <= 1
        assert mse(decoded.pixels, denoising_codec.decode_array(data)) > 1


@pytest.mark.parametrize("options", [{"share": 1.1}, {"share": -0.1}, {"n_steps": 0}, {"n_steps": 51}, {"seed": -1}])
def test_realism_option_out_of_range_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Realism(**{"share": 0.5, **options})  # type: ignore[arg-type]


def test_untrained_denoiser_is_refused(tiny_codec: Codec, picture: np.ndarray) -> None:
    with pytest.raises(ModelError, match="never trained"):
        decode_batch(tiny_codec, [tiny_codec.encode(picture)], realism=0.5)
    data = tiny_codec.encode(picture)
    tiny_codec.decode_array(data, realism=0)
    with pytest.raises(ModelError, match="never trained"):
        tiny_codec.decode_array(data, realism=0.5)


def test_samples_of_the_shipped_model_have_more_fine_contrast(small: Codec, picture: np.ndarray) -> None:
    """A sample has more high-frequency power than the mean, and less than twice that of the original."""
    data = small.encode(picture, quality=10)
    decoded = [small.decode_array(data, realism=Realism(share, 4)) for share in (0.0, 1.0)]
    mean_power, sample_power = (spectral_power_ratio([picture], [pixels])[0] for pixels in decoded)
    assert mean_power < sample_power < 2
