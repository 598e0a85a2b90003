"""Resample pictures and frames to a short side."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def resampled_sides(height_px: int, width_px: int, short_side_px: int) -> tuple[int, int]:
    """Return height and width for a short side, with the nearest aspect ratio."""
    shorter = min(height_px, width_px)
    return round(height_px * short_side_px / shorter), round(width_px * short_side_px / shorter)


def resampled(pixels: NDArray[np.uint8], sides: tuple[int, int]) -> NDArray[np.uint8]:
    """Resample uint8 [H, W, 3] to `sides` (height, width), by a Lanczos filter that prevents aliasing."""
    height, width = sides
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))
