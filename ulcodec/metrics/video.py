"""Distortion of video frames in Y'CbCr 4:2:0, the field's measure for video, and of the changes between frames."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LUMA_WEIGHTS = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 7: (0.212, 0.087), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}
"""Weights of red and blue in luma by matrix coefficients of ITU-T H.273 (table 4)."""
BT601_WEIGHTS = (0.299, 0.114)
LUMA_RANGE, CHROMA_RANGE = 219, 224
"""Range of 8-bit samples of limited range."""


class Planes(NamedTuple):
    """A frame as planes in 8-bit units of limited range: y [H, W], u and v [ceil(H / 2), ceil(W / 2)]."""

    y: NDArray[np.float64]
    u: NDArray[np.float64]
    v: NDArray[np.float64]


class PlanePsnr(NamedTuple):
    """PSNR in dB of each plane, peak 255; infinite for equal planes."""

    y: float
    u: float
    v: float

    @property
    def yuv(self) -> float:
        """Weighted mean (6 Y + U + V) / 8, as in the DCVC papers and the JVET common test conditions."""
        return (6 * self.y + self.u + self.v) / 8


def to_yuv420(pixels: NDArray[np.integer], matrix: int) -> Planes:
    """Convert RGB [H, W, 3] or grey [H, W], uint8 or uint16 of the full range, to planes.

    `matrix`: coefficients of ITU-T H.273; those of BT.601 if it has none of its own here. Chroma samples lie at the
    left of 2x2 pixels, as in MPEG-2 and H.264: the mean of two rows, and of columns weighted 1 : 2 : 1.
    """
    rgb = np.atleast_3d(pixels) / np.iinfo(pixels.dtype).max
    red, green, blue = (rgb[:, :, min(channel, rgb.shape[2] - 1)] for channel in range(3))
    weight_red, weight_blue = LUMA_WEIGHTS.get(matrix, BT601_WEIGHTS)
    luma = weight_red * red + (1 - weight_red - weight_blue) * green + weight_blue * blue
    chroma = ((blue - luma) / (2 * (1 - weight_blue)), (red - luma) / (2 * (1 - weight_red)))
    u, v = (128 + CHROMA_RANGE * _halved(plane) for plane in chroma)
    return Planes(16 + LUMA_RANGE * luma, u, v)


def _halved(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    """Reduce both sides by two; see `to_yuv420`."""
    height, width = plane.shape
    padded = np.pad(plane, ((0, height % 2), (1, 1 + width % 2)), mode="edge")
    rows = (padded[::2] + padded[1::2]) / 2
    centre = rows[:, 1:-1:2]
    return np.asarray((rows[:, :-2:2] + 2 * centre + rows[:, 2::2]) / 4)


def plane_psnr(a: Planes, b: Planes) -> PlanePsnr:
    """PSNR of the planes of two frames of one size. Raises ValueError for others."""
    if any(x.shape != y.shape for x, y in zip(a, b, strict=True)):
        raise ValueError(f"planes of different sizes: {a.y.shape} and {b.y.shape}")
    errors = (float(np.mean((x - y) ** 2)) for x, y in zip(a, b, strict=True))
    return PlanePsnr(*(float(10 * np.log10(255**2 / error)) if error else float("inf") for error in errors))


def frame_difference_psnr_db(original: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """PSNR in dB, peak 255, of the differences of neighbouring frames, of clips uint8 [T, H, W, 3].

    Errors that do not change from frame to frame do not count; flicker counts twice. Infinite for equal differences.
    Raises ValueError for clips of different sizes, or of a single frame.
    """
    if original.shape != other.shape or len(original) < 2:
        raise ValueError(f"expected two clips of one size, of two frames or more, got {original.shape}, {other.shape}")
    changes = (np.diff(clip.astype(np.float64), axis=0) for clip in (original, other))
    error = float(np.mean(np.subtract(*changes) ** 2))
    return float(10 * np.log10(255**2 / error)) if error else float("inf")
