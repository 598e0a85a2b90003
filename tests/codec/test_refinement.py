"""Refinement of a latent at encode time, measured by the training objective."""

import math
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
import torch

from ulcodec.codec import refinement
from ulcodec.codec.image import Codec, Encoding
from ulcodec.codec.rate_control import encode_to_size
from ulcodec.coding.latents import encode_latent, symbols_of
from ulcodec.io.picture import Picture
from ulcodec.io.pictures import load_image
from ulcodec.metrics import mse
from ulcodec.model.prior import LOG_SCALE_STEP, SCALE_MIN
from ulcodec.model.schedule import PassElements


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    pixels = load_image((files("skimage.data") / "coffee.png").read_bytes()).pixels
    return np.ascontiguousarray(pixels[100:190, 200:343])


def loss_bits(codec: Codec, pixels: np.ndarray, data: bytes) -> float:
    weight = codec.model.config.lagrangian(data[8] % 128 / 100) * pixels.shape[0] * pixels.shape[1]
    return 8 * len(data) + weight * mse(pixels, codec.decode_array(data))


@pytest.mark.parametrize("quality", [0, 50, 100])
def test_effort_lowers_the_loss(small: Codec, photo: np.ndarray, quality: int) -> None:
    losses = [loss_bits(small, photo, small.encode(photo, quality=quality, effort=effort)) for effort in (1, 2, 5)]
    assert losses == sorted(losses, reverse=True)
    assert losses[2] < 0.98 * losses[0]


def test_refinement_never_raises_the_loss(tiny_codec: Codec) -> None:
    """Steps of this width do not improve noise: the file without refinement is the best."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 56), dtype=np.uint8)
    losses = [loss_bits(tiny_codec, noise, tiny_codec.encode(noise, quality=30, effort=effort)) for effort in (1, 4)]
    assert losses[1] <= losses[0] * 1.001


def test_elements_that_are_surely_zero_have_no_gradient(small: Codec, photo: np.ndarray) -> None:
    """At quality 0 most channels are empty. Without this, their gradient would be among the largest."""
    y, hyper = small.analyse(photo, 0)
    grid, latent = (y.shape[0], y.shape[1]), encode_latent(small.coder, y, hyper, 0).latent
    target = refinement.Target(small.model, small.model, small.device, small.coder, photo, 0)
    gradient = refinement.slope(target, latent, grid).gradient.numpy()
    limit = round(math.log(refinement.STILL_SCALE / SCALE_MIN) / LOG_SCALE_STEP)
    passes = symbols_of(small.coder, latent, 0, grid)
    next(passes)  # the hyper-latent
    for reveal_pass, (_, tables) in enumerate(passes, start=1):
        elements = PassElements(small.model.config, reveal_pass).gather(gradient[None]).ravel()
        is_still = tables < limit - 1  # scales of the float prior differ a little
        assert is_still.mean() > 0.4
        assert (elements[is_still] == 0).mean() > 0.99
        assert (elements[tables > limit + 1] != 0).mean() > 0.99
    residual = replace(target, base=refinement.Base(np.zeros_like(y), np.zeros(photo.shape, np.float32)))
    unmasked = refinement.slope(residual, latent, grid).gradient.numpy()
    assert (unmasked != 0).mean() > 0.99
    assert np.abs(unmasked[gradient == 0]).max() > 1


def test_curvature_is_measured_along_a_step() -> None:
    step = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(0))
    assert refinement.measured_curvature(step, 2 * 9.0 * step) == pytest.approx(9)
    low, high = refinement.CURVATURE_RANGE
    assert refinement.measured_curvature(step, -step) == low
    assert refinement.measured_curvature(step, 1000 * step) == high
    assert refinement.measured_curvature(0 * step, 0 * step) == low


def test_thrift_shortens_a_refined_file(small: Codec, photo: np.ndarray) -> None:
    encoding = Encoding(small, Picture(photo), effort=2)
    sizes = [len(encoding.code(50, thrift)) for thrift in (1.0, 1.05, 1.5)]
    assert sizes[0] >= sizes[1] > sizes[2]


@pytest.mark.usefixtures("in_float32")
def test_tiles_give_the_gradient_of_the_whole_picture(
    small: Codec, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradients differ by the context of the prior beyond the halo of a tile."""
    tall = np.concatenate([photo] * 8)[:640]
    y, hyper = small.analyse(tall, 50)
    latent = encode_latent(small.coder, y, hyper, 50).latent
    grid = (y.shape[0], y.shape[1])
    target = refinement.Target(small.model, small.model, small.device, small.coder, tall, 50)
    whole = refinement.slope(target, latent, grid)
    monkeypatch.setattr(refinement, "GRADIENT_TILE", 8)
    tiles = refinement.slope(target, latent, grid)
    assert tiles.error_bits == pytest.approx(whole.error_bits, rel=1e-4)
    difference = (tiles.gradient - whole.gradient).square().mean() / whole.gradient.square().mean()
    assert difference < 1e-3


def test_error_bits_equal_those_of_the_file(tiny_codec: Codec) -> None:
    """The sides of the picture are not multiples of 16."""
    pixels = np.random.default_rng(1).integers(0, 256, (45, 70, 3), dtype=np.uint8)
    y, hyper = tiny_codec.analyse(pixels, 40)
    coded = encode_latent(tiny_codec.coder, y, hyper, 40)
    grid = (y.shape[0], y.shape[1])
    target = refinement.Target(*2 * (tiny_codec.model,), tiny_codec.device, tiny_codec.coder, pixels, 40)
    slope = refinement.slope(target, coded.latent, grid)
    assert slope.gradient.shape == y.shape
    assert torch.isfinite(slope.gradient).all()
    data = tiny_codec.encode(pixels, quality=40)
    assert slope.error_bits == pytest.approx(loss_bits(tiny_codec, pixels, data) - 8 * len(data), rel=0.01)


def test_refined_files_keep_layout_and_depth(small: Codec, photo: np.ndarray) -> None:
    grey = photo[:, :, 0].astype(np.uint16) * 257
    with_alpha = np.dstack([photo, np.full(photo.shape[:2], 7, np.uint8)])
    for picture in (grey, with_alpha):
        decoded = small.decode_array(small.encode(picture, effort=2))
        assert decoded.shape == picture.shape
        assert decoded.dtype == picture.dtype


@pytest.mark.parametrize("effort", [0, 10, 1.5])
def test_effort_out_of_range_is_refused(tiny_codec: Codec, photo: np.ndarray, effort: int) -> None:
    with pytest.raises(ValueError, match="effort must be a whole number from 1 to 9"):
        tiny_codec.encode(photo, effort=effort)


def test_effort_lowers_the_loss_at_a_target_size(small: Codec, photo: np.ndarray) -> None:
    picture = Picture(photo)
    data = encode_to_size(small, picture, 900, effort=2)
    assert 0.98 * 900 <= len(data) <= 900
    assert loss_bits(small, photo, data) < loss_bits(small, photo, encode_to_size(small, picture, 900, effort=1))
