"""Draw crops of a clip over time: original, ulcodec, and other video codecs at the closest size.

python -m benchmarks.video_sheet clips/interview.mkv --quality 30 --crop 140,40,220,160 -o docs/images/video.jpg
"""

import argparse
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from benchmarks.comparison import GAP_PX, crop_box
from ulcodec.bench.clip_peers import CLIP_PEERS
from ulcodec.bench.clip_run import ClipJob, code, code_at_size
from ulcodec.bench.clips import frames_of, prepare_clip
from ulcodec.bench.peers import OURS
from ulcodec.io.picture_files import save_image
from ulcodec.metrics import psnr_db

N_COLUMNS = 4
CRFS = (51, 0)
"""Levels of the smallest and the largest file."""


def row_of(frames: list[NDArray[np.uint8]], crop: tuple[slice, slice], scale: int) -> NDArray[np.uint8]:
    """Crops of some frames, evenly spaced, side by side."""
    chosen = [frames[number][crop] for number in np.linspace(0, len(frames) - 1, N_COLUMNS).round().astype(int)]
    larger = [panel.repeat(scale, axis=0).repeat(scale, axis=1) for panel in chosen]
    gap = np.full((larger[0].shape[0], GAP_PX, 3), 255, np.uint8)
    return np.concatenate([part for panel in larger for part in (panel, gap)][:-1], axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("--quality", type=int, default=40)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--peers", nargs="+", choices=CLIP_PEERS, default=["x264-medium-intra-qp", "x264-medium"])
    parser.add_argument("--crop", type=crop_box, default=crop_box("0,0,200,150"), help="LEFT,TOP,WIDTH,HEIGHT")
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--model", default="small", help="name of a model, or a model directory")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        clip = prepare_clip(options.clip, Path(folder), options.frames)
        original = frames_of(clip).rgb
        job = ClipJob(OURS, clip, level=options.quality, model=options.model)
        own = code(job, Path(folder))
        versions = {f"ulcodec, quality {options.quality}": own}
        for name in options.peers:
            _, versions[name] = code_at_size(replace(job, codec=name), own.n_bytes, Path(folder), levels=CRFS)
    rows = [row_of(original, options.crop, options.scale)]
    print(f"{clip.name}, original first")
    for name, coded in versions.items():
        rows.append(row_of(coded.rgb, options.crop, options.scale))
        mean_db = np.mean([psnr_db(a, b) for a, b in zip(original, coded.rgb, strict=True)])
        print(f"{name}: {coded.n_bytes} bytes, {clip.bpp(coded.n_bytes):.3f} bits per pixel, {mean_db:.2f} dB")
    gap = np.full((GAP_PX, rows[0].shape[1], 3), 255, np.uint8)
    save_image(np.concatenate([part for row in rows for part in (row, gap)][:-1]), options.output)


if __name__ == "__main__":
    main()
