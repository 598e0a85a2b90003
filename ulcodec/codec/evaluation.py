"""Evaluate a codec on pictures: rate and distortion of its files, and the cost of its integer arithmetic.

Pictures are uint8 [H, W, 3] or [H, W].
"""

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ulcodec.codec.image import Codec
from ulcodec.metrics import FeatureStatistics, bits_per_pixel, frechet_distance, psnr_db
from ulcodec.progress import tracked

if TYPE_CHECKING:
    from ulcodec.metrics.feature_networks import FeatureNetwork

Pixels = NDArray[np.uint8]


class RatePoint(NamedTuple):
    """Means over pictures at one quality: bits per pixel of whole files, and PSNR of 8-bit samples.

    `fid`: of the decoded pictures to their originals, if it was asked for.
    """

    quality: int
    bpp: float
    psnr_db: float
    fid: float | None = None


def rate_distortion(
    codec: Codec, pictures: Sequence[Pixels], qualities: Sequence[int], inception: "FeatureNetwork | None" = None
) -> list[RatePoint]:
    """Encode and decode every picture at every quality, at effort 1: a run has no refiner yet.

    `inception`: the network of FID, which then needs two pictures or more. Raises BenchmarkError if it fails.
    """
    originals = None if inception is None else inception.statistics(pictures)
    points = []
    for quality in tracked(qualities):
        rates, distortions, statistics = [], [], FeatureStatistics()
        for pixels in tracked(pictures):
            data = codec.encode(pixels, quality=quality, effort=1)
            rates.append(bits_per_pixel(len(data), pixels.shape[1], pixels.shape[0]))
            decoded = codec.decode_array(data)
            distortions.append(psnr_db(pixels, decoded))
            if inception is not None:
                inception.add([decoded], statistics)
        fid = None if originals is None else frechet_distance(originals, statistics)
        points.append(RatePoint(quality, fmean(rates), fmean(distortions), fid))
    return points


def integer_cost_percent(codec: Codec, pictures: Sequence[Pixels], quality: int) -> float:
    """Compare the payload of files with the float prior's bound on the same symbols, in percent of the bound.

    This is the cost of integer prior, frequency tables and range coder together, without headers and checksums.
    """
    descriptions = [codec.describe(codec.encode(pixels, quality=quality, effort=1)) for pixels in tracked(pictures)]
    bits, bound = (sum(description[name] for description in descriptions) for name in ("payload_bits", "bound_bits"))
    return 100 * (bits / bound - 1)


def middle(pixels: Pixels, crop_px: int) -> Pixels:
    """Crop the centre, at most `crop_px` per side."""
    top, left = (max(0, (side - crop_px) // 2) for side in pixels.shape[:2])
    return pixels[top : top + crop_px, left : left + crop_px]
