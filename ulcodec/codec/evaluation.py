"""Evaluate a codec on pictures: rate and distortion of its files, and the cost of its integer arithmetic.

Pictures are uint8 [H, W, 3] or [H, W].
"""

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ulcodec.codec.image import Codec
from ulcodec.metrics import bits_per_pixel, psnr_db
from ulcodec.progress import tracked

Pixels = NDArray[np.uint8]


class RatePoint(NamedTuple):
    """Means over pictures at one quality: bits per pixel of whole files, and PSNR of 8-bit samples."""

    quality: int
    bpp: float
    psnr_db: float


def rate_distortion(codec: Codec, pictures: Sequence[Pixels], qualities: Sequence[int]) -> list[RatePoint]:
    """Encode and decode every picture at every quality."""
    points = []
    for quality in tracked(qualities):
        rates, distortions = [], []
        for pixels in tracked(pictures):
            data = codec.encode(pixels, quality=quality)
            rates.append(bits_per_pixel(len(data), pixels.shape[1], pixels.shape[0]))
            distortions.append(psnr_db(pixels, codec.decode_array(data)))
        points.append(RatePoint(quality, fmean(rates), fmean(distortions)))
    return points


def integer_cost_percent(codec: Codec, pictures: Sequence[Pixels], quality: int) -> float:
    """Compare the payload of files with the float prior's bound on the same symbols, in percent of the bound.

    This is the cost of integer prior, frequency tables and range coder together, without headers and checksums.
    """
    descriptions = [codec.describe(codec.encode(pixels, quality=quality)) for pixels in tracked(pictures)]
    bits, bound = (sum(description[name] for description in descriptions) for name in ("payload_bits", "bound_bits"))
    return 100 * (bits / bound - 1)


def middle(pixels: Pixels, crop_px: int) -> Pixels:
    """Crop the centre, at most `crop_px` per side."""
    top, left = (max(0, (side - crop_px) // 2) for side in pixels.shape[:2])
    return pixels[top : top + crop_px, left : left + crop_px]
