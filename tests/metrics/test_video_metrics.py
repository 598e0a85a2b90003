"""Distortion in Y'CbCr 4:2:0."""

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, VideoReformatter

from ulcodec.metrics.video import Planes, frame_difference_psnr_db, plane_psnr, to_yuv420

BT601, BT709 = 6, 1


def flat(*colour: int, height: int = 4, width: int = 6) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8), (height, width, 3))


@pytest.mark.parametrize(
    ("colour", "matrix", "expected"),
    [
        ((0, 0, 0), BT601, (16, 128, 128)),
        ((255, 255, 255), BT709, (235, 128, 128)),
        ((255, 0, 0), BT601, (16 + 219 * 0.299, 128 - 224 * 0.299 / 1.772, 240)),
        ((0, 0, 255), BT709, (16 + 219 * 0.0722, 240, 128 - 224 * 0.0722 / 1.5748)),
    ],
)
def test_flat_colours(colour: tuple[int, ...], matrix: int, expected: tuple[float, ...]) -> None:
    """Expected values from the definitions in ITU-R BT.601 and BT.709."""
    for plane, value in zip(to_yuv420(flat(*colour), matrix), expected, strict=True):
        np.testing.assert_allclose(plane, value)


def test_shapes_depths_and_grey() -> None:
    planes = to_yuv420(flat(10, 200, 30, height=5, width=7), BT601)
    assert [plane.shape for plane in planes] == [(5, 7), (3, 4), (3, 4)]
    deep = to_yuv420(flat(10, 200, 30, height=5, width=7).astype(np.uint16) * 257, BT601)
    for plane, same in zip(planes, deep, strict=True):
        np.testing.assert_allclose(plane, same)
    grey = to_yuv420(np.full((4, 4), 255, np.uint8), BT601)
    np.testing.assert_allclose(grey.y, 235)
    np.testing.assert_allclose(grey.u, 128)


def test_planes_are_those_of_swscale(picture: np.ndarray) -> None:
    """swscale centres chroma if nothing says where it lies, and filters it more sharply: chroma differs a little."""
    frame = VideoReformatter().reformat(
        av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24"),
        format="yuv420p", src_color_range=ColorRange.JPEG, dst_color_range=ColorRange.MPEG,
        dst_colorspace=5, interpolation=0x4 | 0x40000,
    )  # fmt: skip
    theirs = Planes(
        *(np.frombuffer(p, np.uint8).reshape(p.height, -1)[:, : p.width].astype(float) for p in frame.planes)
    )
    psnr = plane_psnr(to_yuv420(picture, BT601), theirs)
    assert psnr.y > 50
    assert min(psnr.u, psnr.v) > 30


def test_psnr_of_planes() -> None:
    a = Planes(np.zeros((4, 4)), np.zeros((2, 2)), np.zeros((2, 2)))
    b = Planes(np.full((4, 4), 2.55), np.full((2, 2), 25.5), np.zeros((2, 2)))
    psnr = plane_psnr(a, b)
    assert (psnr.y, psnr.u, psnr.v) == (pytest.approx(40), pytest.approx(20), np.inf)
    assert plane_psnr(a, Planes(b.y, b.u, b.u)).yuv == pytest.approx((6 * 40 + 2 * 20) / 8)
    with pytest.raises(ValueError, match="different sizes"):
        plane_psnr(a, Planes(a.y[:2], a.u, a.v))


def test_differences_of_frames_count_flicker_and_not_constant_errors() -> None:
    clip = np.random.default_rng(0).integers(20, 200, (5, 6, 7, 3)).astype(np.uint8)
    assert frame_difference_psnr_db(clip, clip + np.uint8(9)) == float("inf")
    flicker = clip + np.array([3, 0, 3, 0, 3], np.uint8)[:, None, None, None]
    assert frame_difference_psnr_db(clip, flicker) == pytest.approx(20 * np.log10(255 / 3))
    frozen = np.broadcast_to(clip[:1], clip.shape)
    mean_square = np.mean(np.diff(clip.astype(float), axis=0) ** 2)
    assert frame_difference_psnr_db(clip, frozen) == pytest.approx(10 * np.log10(255**2 / mean_square))


@pytest.mark.parametrize("shape", [(4, 6, 7, 3), (1, 6, 8, 3)])
def test_differences_need_clips_of_one_size(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="two clips of one size, of two frames or more"):
        frame_difference_psnr_db(np.zeros((1, 6, 8, 3), np.uint8), np.zeros(shape, np.uint8))
