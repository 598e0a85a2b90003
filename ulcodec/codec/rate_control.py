"""Encode to a target size or a target quality, by a search over the encoder's parameters.

One unit of quality changes the rate by about 3 %. Between two units, `thrift` moves more symbols towards zero, which
costs little in small amounts.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from ulcodec.codec.bitrate import FIRST_QUALITY, LOG_SIZE_PER_QUALITY
from ulcodec.codec.image import Codec, Encoding, samples_to_code
from ulcodec.errors import ImageError
from ulcodec.format.attachments import to_full_range
from ulcodec.format.container import MAX_QUALITY
from ulcodec.io.picture import Picture
from ulcodec.metrics import MS_SSIM_MIN_SIDE, SSIMULACRA2_MIN_SIDE, ms_ssim, psnr_db, ssimulacra2
from ulcodec.metrics.perceptual import ssimulacra2_function
from ulcodec.progress import share

MAX_TRIES = 8
SIZE_TOLERANCE = 0.02
LOG_SIZE_PER_THRIFT = 0.11
MAX_THRIFT = 4.0

MEASURES = {
    "psnr_db": ("PSNR", psnr_db, 1),
    "ms_ssim": ("MS-SSIM", ms_ssim, MS_SSIM_MIN_SIDE),
    "ssimulacra2": ("SSIMULACRA2", ssimulacra2, SSIMULACRA2_MIN_SIDE),
}
"""Measures by key: name to print, function of two uint8 pictures, smallest side in pixels."""


@dataclass
class Search:
    """Files of one picture, each encoded once, and their measures. `codings` counts the files."""

    encoding: Encoding
    measure: Callable[[bytes], float]
    results: dict[tuple[int, float], tuple[float, bytes]] = field(default_factory=dict)

    @property
    def codings(self) -> int:
        return len(self.results)

    def at(self, quality: int, thrift: float = 1.0) -> float:
        """Measure the file at a quality."""
        if (quality, thrift) not in self.results:
            with share(1 / (MAX_TRIES - self.codings), f"try {self.codings + 1} of at most {MAX_TRIES}"):
                data = self.encoding.code(quality, thrift)
                self.results[quality, thrift] = self.measure(data), data
        return self.results[quality, thrift][0]


def encode_to_size(
    codec: Codec,
    picture: Picture,
    n_bytes: int,
    *,
    alpha_quality: int | None = None,
    strip: bool = False,
    effort: int | None = None,
) -> bytes:
    """Encode a picture to at most `n_bytes`, and at least 98 % of them if quality 100 reaches that.

    Encodes at most 8 times. Raises ImageError if even the smallest file is larger.
    """
    n_bytes = max(n_bytes, 1)
    encoding = Encoding(codec, picture, alpha_quality, strip, effort)
    exact = encoding.exact_file(MAX_QUALITY)
    if exact is not None and len(exact) <= n_bytes:
        return exact
    search = Search(encoding, lambda data: float(len(data)))
    least_bytes = (1 - SIZE_TOLERANCE) * n_bytes
    low, high = -1, 101  # the highest quality that fits so far, and the lowest that does not
    quality, slope = FIRST_QUALITY, LOG_SIZE_PER_QUALITY
    previous: tuple[int, float] | None = None
    while high - low > 1 and search.codings < MAX_TRIES - 3:
        size = search.at(quality)
        if previous is not None and (size > previous[1]) == (quality > previous[0]) and size != previous[1]:
            slope = math.log(size / previous[1]) / (quality - previous[0])
        previous = quality, size
        low, high = (quality, high) if size <= n_bytes else (low, quality)
        if least_bytes <= size <= n_bytes or (size < least_bytes and quality == 100):
            return search.results[quality, 1.0][1]
        step = math.log(0.99 * n_bytes / size) / slope
        quality = min(max(quality + round(step), low + 1), high - 1)
    if high <= 100:
        _search_thrift(search, high, n_bytes, least_bytes)
    fitting = [(size, data) for size, data in search.results.values() if size <= n_bytes]
    if not fitting:
        smallest = int(min(size for size, _ in search.results.values()))
        raise ImageError(f"no file of {n_bytes} bytes: the smallest of this picture has {smallest}")
    return max(fitting, key=lambda entry: entry[0])[1]


def _search_thrift(search: Search, quality: int, n_bytes: int, least_bytes: float) -> None:
    """Raise the thrift at `quality`, whose file is too large, to make smaller files."""
    thrift, size, slope = 1.0, search.at(quality), LOG_SIZE_PER_THRIFT
    while search.codings < MAX_TRIES and not least_bytes <= size <= n_bytes and thrift < MAX_THRIFT:
        more = math.log(size / (0.99 * n_bytes)) / slope
        next_thrift = min(max(thrift + more, 1.01), MAX_THRIFT)
        next_size = search.at(quality, next_thrift)
        if next_size < size and next_thrift > thrift:
            slope = math.log(size / next_size) / (next_thrift - thrift)
        thrift, size = next_thrift, next_size


def measurement(codec: Codec, picture: Picture, compare: Callable[..., float]) -> Callable[[bytes], float]:
    """Return a function that decodes a file of a picture and compares the two, as `encode_to_quality` says."""
    pixels, bits = samples_to_code(picture)
    original = Picture(pixels).pixels_8
    hidden = False if picture.alpha is None else picture.alpha == 0

    def measured(data: bytes) -> float:
        decoded = codec.decode_picture(data, max_pixels=original.shape[0] * original.shape[1]).pixels
        samples = Picture(to_full_range(decoded, bits)).pixels_8.copy()
        samples[hidden] = original[hidden]
        return compare(original, samples)

    return measured


def encode_to_quality(
    codec: Codec,
    picture: Picture,
    measure: str,
    value: float,
    *,
    alpha_quality: int | None = None,
    strip: bool = False,
    effort: int | None = None,
) -> bytes:
    """Encode a picture to the smallest file found whose decoded picture reaches a value of a measure.

    `measure`: "psnr_db", "ms_ssim" or "ssimulacra2". Samples are compared at 8 bits of the range that they use, without
    their profile. Colours under a zero alpha count as equal; alpha itself is not measured. Raises ValueError if the
    value is not finite, ImageError if quality 100 does not reach it or the picture is too small for the measure,
    MissingPackageError if SSIMULACRA2 is not installed.
    """
    if not math.isfinite(value):
        raise ValueError(f"expected a finite value of {measure}, got {value}")
    name, compare, min_side = MEASURES[measure]
    if measure == "ssimulacra2":
        ssimulacra2_function()
    if min(picture.pixels.shape[:2]) < min_side:
        raise ImageError(f"{name} needs sides of at least {min_side} pixels")
    encoding = Encoding(codec, picture, alpha_quality, strip, effort)
    search = Search(encoding, measurement(codec, encoding.picture, compare))
    low, high = -1, 100
    if search.at(100) < value:
        if (exact := encoding.exact_file(MAX_QUALITY)) is not None:
            return exact
        raise ImageError(f"no file reaches {value:g}: quality 100 gives {search.at(100):.4g}")
    while high - low > 1 and search.codings < MAX_TRIES:
        quality = (low + high) // 2
        low, high = (low, quality) if search.at(quality) >= value else (quality, high)
    return search.results[high, 1.0][1]
