"""Draw crops of a clip over time: original, ulcodec, and FFmpeg's encoders at the closest size.

python -m benchmarks.video_sheet clips/interview.mkv --quality 30 --crop 140,40,220,160 -o docs/images/video.jpg
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import ulcodec
from benchmarks.comparison import GAP_PX, crop_box
from benchmarks.video import PEERS, Peer, Source, encode, read_source
from ulcodec.io.picture import Picture
from ulcodec.io.picture_files import save_image
from ulcodec.io.video_source import open_video
from ulcodec.metrics import bits_per_pixel, psnr_db

N_COLUMNS = 4
MAX_CRF = 51


def closest(codec: Peer, source: Source, n_bytes: int) -> tuple[bytes, int]:
    """The file of a peer whose stream is the largest of at most `n_bytes`, and the bytes of its stream."""
    low, high = 0, MAX_CRF
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if encode(codec, source, middle)[1] <= n_bytes else (middle + 1, high)
    return encode(codec, source, low)


def frames_of(file: bytes) -> list[NDArray[np.uint8]]:
    with open_video(file) as clip:
        return [Picture(frame.pixels).pixels_8 for frame in clip]


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
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=["x264-medium-intra-qp", "x264-medium"])
    parser.add_argument("--crop", type=crop_box, default=crop_box("0,0,200,150"), help="LEFT,TOP,WIDTH,HEIGHT")
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--model", default="small", help="name of a model, or a model directory")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    codec, source = ulcodec.load(options.model), read_source(options.clip, options.frames)
    duration_s = options.frames / source.rate
    data = b"".join(codec.encode_video(options.clip, quality=options.quality, duration_s=duration_s))
    versions = {f"ulcodec, quality {options.quality}": (len(data), [f.pixels for f in codec.decode_video(data)])}
    for name in options.peers:
        file, n_bytes = closest(PEERS[name], source, len(data))
        versions[name] = n_bytes, frames_of(file)
    rows = [row_of(source.rgb, options.crop, options.scale)]
    print(f"{source.name}, original first")
    for name, (n_bytes, frames) in versions.items():
        rows.append(row_of(frames, options.crop, options.scale))
        mean_db = np.mean([psnr_db(a, b) for a, b in zip(source.rgb, frames, strict=True)])
        bpp = bits_per_pixel(n_bytes, source.n_pixels, 1)
        print(f"{name}: {n_bytes} bytes, {bpp:.3f} bits per pixel, {mean_db:.2f} dB")
    gap = np.full((GAP_PX, rows[0].shape[1], 3), 255, np.uint8)
    save_image(np.concatenate([part for row in rows for part in (row, gap)][:-1]), options.output)


if __name__ == "__main__":
    main()
