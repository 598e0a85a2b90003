"""Ranges of training settings, so that a run with an impossible one fails before it reads the data."""

from numbers import Integral, Real
from typing import Any, Protocol

from ulcodec.errors import TrainingError
from ulcodec.io.locations import Source

MOST_MINUTES = 10**8
MOST_IMAGES = 10**15
MOST_CROPS = 2**16
MOST_CROP_PX = 2**14
MOST_FRAMES = 2**10
MOST_REDUCTION = 8
MOST_BATCH_PX = 2**31
"""Pixels in a batch: as float32 they take 24 GiB."""

MOST_VIEWS = 64
MOST_BLOCKS = 256
MOST_CHANNELS, WIDTH_STEP = 1024, 8
MOST_THREADS = 1024
MOST_SEED = 2**32 - 1
MOST_BIAS = 30
MOST_LOSS_FACTOR = 1e6


class RunSettings(Protocol):
    """The fields that the settings of all stages share. They may hold values of any type until they are checked."""

    @property
    def data(self) -> tuple[Source, ...]: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def crop_px(self) -> int: ...

    @property
    def seed(self) -> int: ...

    @property
    def threads(self) -> int: ...

    @property
    def limit_pictures(self) -> int | None: ...

    @property
    def validation_share(self) -> float: ...


def check_run(settings: RunSettings, *, crop_step: int, n_frames: int = 1) -> None:
    """Raise TrainingError for a shared field that is out of range.

    Sides of crops are multiples of `crop_step`. `n_frames`: frames of a crop.
    """
    crop_px = settings.crop_px
    check_whole("the crop", crop_px, crop_step, MOST_CROP_PX)
    if crop_px % crop_step:
        raise TrainingError(f"the crop must be a multiple of {crop_step} pixels, got {crop_px}")
    check_batch(settings.batch_size, crop_px, n_frames)
    check_whole("the seed", settings.seed, 0, MOST_SEED)
    check_whole("the number of threads", settings.threads, 0, MOST_THREADS)
    if settings.limit_pictures is not None:
        check_whole("the limit of pictures", settings.limit_pictures, 2, MOST_IMAGES)
    check_number("the share of pictures held out", settings.validation_share, above=0, most=0.5)


def check_batch(batch_size: int, side_px: int, n_frames: int = 1) -> None:
    """Raise TrainingError for a batch of crops that exceeds `MOST_BATCH_PX`."""
    if batch_size * n_frames * side_px**2 > MOST_BATCH_PX:
        of_frames = f"{n_frames} x " if n_frames > 1 else ""
        extent = f"{of_frames}{side_px} x {side_px}"
        raise TrainingError(f"{batch_size} crops of {extent} are more than {MOST_BATCH_PX} pixels a batch")


def check_whole(name: str, value: Any, least: int, most: int) -> None:
    """Raise TrainingError for anything but a whole number from `least` to `most`."""
    if not _is_kind(value, Integral) or not least <= int(value) <= most:
        raise TrainingError(f"{name} must be a whole number from {least} to {most}, got {_text_of(value)}")


def check_number(name: str, value: Any, *, above: float, most: float) -> None:
    """Raise TrainingError for anything but a number above `above` and at most `most`."""
    if not _is_kind(value, Real) or not above < value <= most:
        raise TrainingError(f"{name} must be a number above {above} and at most {most}, got {_text_of(value)}")


def check_bias(bias: Any) -> None:
    """Raise TrainingError for a bias of the sigmoid weighting whose weights leave float32."""
    if not _is_kind(bias, Real) or not -MOST_BIAS <= bias <= MOST_BIAS:
        raise TrainingError(f"the bias must be a number from {-MOST_BIAS} to {MOST_BIAS}, got {_text_of(bias)}")


def _is_kind(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _text_of(value: object) -> str:
    """A value as text for a message, shortened if it is long."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"one of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
