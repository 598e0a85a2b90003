"""Which numbers a training run takes: what is beyond them would fail, or never end, after the data are read."""

from numbers import Integral, Real
from typing import Any

from ulcodec.errors import TrainingError

MOST_MINUTES = 10**8
MOST_IMAGES = 10**15
MOST_CROPS = 2**16
MOST_CROP_PX = 2**14
MOST_BATCH_PX = 2**31
"""Pixels of a batch: as float32 they take 24 GiB."""

MOST_THREADS = 1024
MOST_SEED = 2**32 - 1
MOST_BIAS = 30


def check_whole(name: str, value: Any, least: int, most: int) -> None:
    """Raises TrainingError for anything but a whole number from `least` to `most`."""
    if not is_kind(value, Integral) or not least <= int(value) <= most:
        raise TrainingError(f"{name} must be a whole number from {least} to {most}, got {shown(value)}")


def check_number(name: str, value: Any, *, above: float, most: float) -> None:
    """Raises TrainingError for anything but a number above one bound and at most the other."""
    if not is_kind(value, Real) or not above < value <= most:
        raise TrainingError(f"{name} must be a number above {above} and at most {most}, got {shown(value)}")


def check_bias(bias: Any) -> None:
    """Raises TrainingError for a bias of the sigmoid weighting that float32 cannot hold the weights of."""
    if not is_kind(bias, Real) or not -MOST_BIAS <= bias <= MOST_BIAS:
        raise TrainingError(f"the bias must be a number from {-MOST_BIAS} to {MOST_BIAS}, got {shown(bias)}")


def is_kind(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def shown(value: object) -> str:
    """A value in a message, shortened if it is long."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"one of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def check_common(
    *, batch_size: int, crop_px: Any, crop_step: int, seed: Any, threads: Any, limit_pictures: Any, share: Any
) -> None:
    """What the settings of every stage have in common. Raises TrainingError for what cannot run."""
    check_whole("the crop", crop_px, crop_step, MOST_CROP_PX)
    if crop_px % crop_step:
        raise TrainingError(f"the crop must be a multiple of {crop_step} pixels, got {crop_px}")
    if batch_size * crop_px**2 > MOST_BATCH_PX:
        raise TrainingError(f"{batch_size} crops of {crop_px} x {crop_px} are more than {MOST_BATCH_PX} pixels a batch")
    check_whole("the seed", seed, 0, MOST_SEED)
    check_whole("the number of threads", threads, 0, MOST_THREADS)
    if limit_pictures is not None:
        check_whole("the limit of pictures", limit_pictures, 2, MOST_IMAGES)
    check_number("the share of pictures held out", share, above=0, most=0.5)
