"""Small synthetic videos for tests: crops that move over a picture of waves."""

import tarfile
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT, N_FRAMES = 136, 72, 12
NAMES = ("garden.mkv", "lake-0.mkv", "lake-1.mkv", "street-0.mp4", "street-1.mp4", "street-2.mp4")
"""Six clips of three scenes, in the order of reading."""


def moving_frames(seed: int, n_frames: int = N_FRAMES, size: tuple[int, int] = (HEIGHT, WIDTH)) -> list[np.ndarray]:
    """Draw frames uint8 [H, W, 3] that move by up to two pixels each."""
    random, (height, width) = np.random.default_rng(seed), size
    row, column = np.mgrid[: height + 2 * n_frames, : width + 2 * n_frames].astype(np.float64)
    waves = [
        128 + 60 * np.sin(row / random.uniform(4, 30) + column / random.uniform(4, 30)) + random.normal(0, 4, row.shape)
        for _ in range(3)
    ]
    pixels = np.stack(waves, axis=2).round().clip(0, 255).astype(np.uint8)
    down, right = random.integers(3, size=2)
    corners = [(number * down, number * right) for number in range(n_frames)]
    return [pixels[top : top + height, left : left + width] for top, left in corners]


def write_video(path: Path, frames: list[np.ndarray]) -> Path:
    """Write frames as a video of high quality."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "5", "preset": "ultrafast"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode(None))
    return path


def write_clips(folder: Path) -> Path:
    """Write the clips of `NAMES` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(NAMES):
        write_video(folder / name, moving_frames(seed))
    return folder


def write_clip_shard(path: Path, files: list[Path]) -> Path:
    """Write a tar shard of files, under their names without a folder."""
    with tarfile.open(path, "w") as shard:
        for file in files:
            shard.add(file, file.name)
    return path
