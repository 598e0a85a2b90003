"""Check and convert what a caller passes to the codec: pictures, quality, effort."""

import sys
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from ulcodec.codec.effort import EFFORT_STEPS
from ulcodec.errors import ImageError
from ulcodec.format.container import MAX_QUALITY
from ulcodec.io.picture import Picture
from ulcodec.io.pictures import load_image

if TYPE_CHECKING:
    from torch import Tensor

ImageLike = Any
"""A picture as `Codec.encode` accepts it: see there."""


def check_quality(quality: int) -> int:
    """Return the quality as an int. Raises ValueError unless it is a whole number from 0 to 100."""
    if not isinstance(quality, Integral) or not 0 <= quality <= MAX_QUALITY:
        raise ValueError(f"quality must be a whole number from 0 to {MAX_QUALITY}, got {quality}")
    return int(quality)


def check_effort(effort: int) -> int:
    """Return the effort as an int. Raises ValueError unless it is a whole number from 1 to 9."""
    if not isinstance(effort, Integral) or not 1 <= effort <= len(EFFORT_STEPS):
        raise ValueError(f"effort must be a whole number from 1 to {len(EFFORT_STEPS)}, got {effort}")
    return int(effort)


def as_picture(image: ImageLike, max_pixels: int) -> Picture:
    """Convert any accepted picture. Raises ImageError if it is none, or has more than `max_pixels`."""
    if isinstance(image, Picture):
        picture = image
    elif sys.modules.get("torch") is not None and isinstance(image, sys.modules["torch"].Tensor):
        picture = _picture_of_array(_array_of_tensor(image))
    elif isinstance(image, np.ndarray):
        picture = _picture_of_array(image)
    else:
        return load_image(image, max_pixels=max_pixels)
    if picture.pixels.shape[0] * picture.pixels.shape[1] > max_pixels:
        raise ImageError(f"the picture has more than {max_pixels} pixels")
    return picture


def _picture_of_array(samples: np.ndarray) -> Picture:
    """Samples [H, W], or [H, W, C] with C = 3, or with straight alpha 2 or 4, as a picture."""
    if samples.ndim != 3 or samples.shape[2] not in (2, 4):
        return Picture(samples)
    alpha = Picture(np.ascontiguousarray(samples[:, :, -1])).pixels_8
    pixels = samples[:, :, 0] if samples.shape[2] == 2 else samples[:, :, :3]
    return Picture(np.ascontiguousarray(pixels), None if alpha.size and alpha.min() == 255 else alpha)


def _array_of_tensor(image: "Tensor") -> np.ndarray:
    """A tensor [C, H, W] with C from 1 to 4, uint8 or float in [0, 1], as uint8 [H, W] or [H, W, C]."""
    if image.ndim != 3 or not 1 <= image.shape[0] <= 4:
        raise ImageError(f"expected a tensor [1 to 4, H, W], got {list(image.shape)}")
    if image.is_floating_point():
        if not image.isfinite().all():
            raise ImageError("the tensor holds values that are not finite")
        image = (image.clamp(0, 1) * 255).round().byte()
    elif str(image.dtype) != "torch.uint8":
        raise ImageError(f"expected a uint8 or float tensor, got {image.dtype}")
    samples: np.ndarray = image.permute(1, 2, 0).contiguous().cpu().numpy()
    return samples[:, :, 0] if samples.shape[2] == 1 else samples
