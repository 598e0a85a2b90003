"""Write short clips that are in memory: videos, GIF animations, and contact sheets."""

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ulcodec.format.sequence import Chroma, ClipFormat
from ulcodec.io.files import atomic_write
from ulcodec.io.video_target import open_target

CRF = 10.0
GAP_PX = 2
"""Space between the frames of a contact sheet."""
LEAST_GIF_FRAME_MS = 20
"""GIF counts in steps of 10 ms. Viewers show frames of 0 or 10 ms for 100 ms."""


def save_clip(frames: NDArray[np.uint8], path: Path, frame_rate: int) -> None:
    """Write frames uint8 [T, H, W, 3], as a GIF animation or as a video by the extension of the path.

    Videos are coded at a high quality, with chroma at half the resolution, which all players show. Raises ImageError if
    the frames cannot be encoded, OSError if the file cannot be written.
    """
    if path.suffix.lower() == ".gif":
        first, *others = map(Image.fromarray, frames)
        file = io.BytesIO()
        duration_ms = max(LEAST_GIF_FRAME_MS, round(1000 / frame_rate))
        first.save(file, "GIF", save_all=True, append_images=others, duration=duration_ms, loop=0)
        atomic_write(path, file.getvalue())
        return
    _, height, width, _ = frames.shape
    rate = Fraction(frame_rate)
    format = ClipFormat(width, height, 1 / rate, rate, chroma=Chroma.YUV420, full_range=False)
    with open_target(path, format, crf=CRF) as target:
        for time, pixels in enumerate(frames):
            target.write(pixels, time, 1)


def contact_sheet(clips: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Lay out clips uint8 [T, H, W, 3] of one size on a white page: a row for each clip, its frames side by side."""
    n_frames, height, width, _ = clips[0].shape
    page_px = [len(clips) * (height + GAP_PX) - GAP_PX, n_frames * (width + GAP_PX) - GAP_PX]
    page = np.full((*page_px, 3), 255, np.uint8)
    for row, clip in enumerate(clips):
        for column, pixels in enumerate(clip):
            top, left = row * (height + GAP_PX), column * (width + GAP_PX)
            page[top : top + height, left : left + width] = pixels
    return page
