"""Metrics: distortion and rate of pictures, Bjøntegaard figures, and statistics of sets of pictures and clips.

Import the names in `__all__` from this package. Three modules need torch: `critic`; `feature_networks`, with the
networks of FID and FVD; and `sample_sets`, which reads the sets for them.
"""

from ulcodec.metrics.distortion import MS_SSIM_MIN_SIDE, bd_rate_percent, bits_per_pixel, ms_ssim, mse, pchip, psnr_db
from ulcodec.metrics.frechet import FeatureStatistics, frechet_distance
from ulcodec.metrics.perceptual import SSIMULACRA2_MIN_SIDE, ssimulacra2
from ulcodec.metrics.statistics import sliced_wasserstein, spectral_power_ratio

__all__ = [
    "MS_SSIM_MIN_SIDE",
    "SSIMULACRA2_MIN_SIDE",
    "FeatureStatistics",
    "bd_rate_percent",
    "bits_per_pixel",
    "frechet_distance",
    "ms_ssim",
    "mse",
    "pchip",
    "psnr_db",
    "sliced_wasserstein",
    "spectral_power_ratio",
    "ssimulacra2",
]
