"""A sample picture beside its decode, as in the README.

python -m benchmarks.comparison -o docs/images/comparison.png
"""

import argparse
from pathlib import Path

import numpy as np

import ulcodec
from benchmarks.demo import PICTURES
from benchmarks.pictures import sample_picture
from ulcodec.images import save_image
from ulcodec.metrics import psnr_db

GAP_PX = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--picture", choices=PICTURES, default="chelsea")
    parser.add_argument("--quality", type=int, default=40)
    parser.add_argument("--model", default="small", help="name of a model, or a model directory")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    codec, pixels = ulcodec.load(options.model), sample_picture(options.picture).pixels
    data = codec.encode(pixels, quality=options.quality)
    decoded = codec.decode_array(data)
    gap = np.full((pixels.shape[0], GAP_PX, 3), 255, dtype=np.uint8)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    save_image(np.concatenate((pixels, gap, decoded), axis=1), options.output)
    bpp = ulcodec.info(data)["bits_per_pixel"]
    print(f"{options.picture}, quality {options.quality}: {len(data)} bytes, {bpp:.3f} bits per pixel, "
          f"{psnr_db(pixels, decoded):.2f} dB")  # fmt: skip


if __name__ == "__main__":
    main()
