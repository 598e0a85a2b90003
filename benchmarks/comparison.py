"""Draw a sample picture beside its decodes, and beside AVIF of the same size.

python -m benchmarks.comparison -o docs/images/comparison.png
python -m benchmarks.comparison --avif --bpp 0.25 --crop 120,60,256,256 -o docs/images/beside-avif-0.25.png
python -m benchmarks.comparison --avif --bpp 0.15 --realism 0 0.5 1 --crop 120,60,256,256 -o docs/images/realism.png
"""

import argparse
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

import ulcodec
from ulcodec.bench.pictures import SAMPLES, Picture, sample_picture
from ulcodec.io.picture_files import save_image
from ulcodec.metrics import bits_per_pixel, psnr_db

GAP_PX = 8
AVIF_SPEED = 6


def closest_file(files: dict[int, bytes], n_bytes: float) -> bytes:
    """The file whose size is closest."""
    return min(files.values(), key=lambda data: abs(len(data) - n_bytes))


def avif_bytes(pixels: np.ndarray, quality: int) -> bytes:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "AVIF", quality=quality, speed=AVIF_SPEED, subsampling="4:4:4")
    return buffer.getvalue()


def described(name: str, data: bytes, picture: Picture, decoded: np.ndarray) -> str:
    bpp = bits_per_pixel(len(data), picture.width, picture.height)
    return f"{name}: {len(data)} bytes, {bpp:.3f} bits per pixel, {psnr_db(picture.pixels, decoded):.2f} dB"


def crop_box(text: str) -> tuple[slice, slice]:
    left, top, width, height = (int(part) for part in text.split(","))
    return slice(top, top + height), slice(left, left + width)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--picture", choices=SAMPLES, default="chelsea")
    parser.add_argument("--quality", type=int, default=40)
    parser.add_argument("--bpp", type=float, help="choose the quality whose rate is closest to this")
    parser.add_argument("--avif", action="store_true", help="with AVIF 4:4:4 (speed 6) of the closest size")
    parser.add_argument("--realism", type=float, nargs="+", default=[0.0], help="a panel for each of these")
    parser.add_argument("--crop", type=crop_box, default=crop_box("0,0,4096,4096"), help="LEFT,TOP,WIDTH,HEIGHT")
    parser.add_argument("--model", default="small", help="name of a model, or a model directory")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    codec, picture = ulcodec.load(options.model), sample_picture(options.picture)
    pixels = picture.pixels
    qualities = [options.quality] if options.bpp is None else range(101)
    ours = {quality: codec.encode(pixels, quality=quality) for quality in qualities}
    data = closest_file(ours, (options.bpp or 0) * picture.width * picture.height / 8)
    versions, lines = [pixels], []
    for realism in options.realism:
        decoded = codec.decode_array(data, realism=realism)
        versions.append(decoded)
        name = f"ulcodec, realism {realism:g}" if realism else "ulcodec"
        lines.append(described(name, data, picture, decoded))
    if options.avif:
        avif = closest_file({quality: avif_bytes(pixels, quality) for quality in range(101)}, len(data))
        from_avif = np.asarray(Image.open(BytesIO(avif)).convert("RGB"))
        versions.insert(1, from_avif)
        lines.insert(0, described("AVIF", avif, picture, from_avif))
    panels = [panel[options.crop] for panel in versions]
    gap = np.full((panels[0].shape[0], GAP_PX, 3), 255, dtype=np.uint8)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    save_image(np.concatenate([part for panel in panels for part in (panel, gap)][:-1], axis=1), options.output)
    print("\n".join([f"{options.picture}, original first", *lines]))


if __name__ == "__main__":
    main()
