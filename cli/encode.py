"""`ulcodec encode`: a picture to a .ulc file."""

import time
from pathlib import Path
from typing import Annotated

import typer

from ulcodec.container import MAX_PIXELS
from ulcodec_cli.common import DEFAULT_MODEL, Force, Json, MaxPixels, Model, output_path, print_json


def encode(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Any picture that Pillow opens.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: IN with the extension .ulc.")] = None,
    quality: Annotated[int, typer.Option("--quality", "-q", min=0, max=100, help="0 smallest, 100 best.")] = 50,
    model: Model = DEFAULT_MODEL,
    max_pixels: MaxPixels = MAX_PIXELS,
    force: Force = False,
    json: Json = False,
) -> None:
    """Encode a picture."""
    target = output_path(source, output, ".ulc", force)

    from PIL import Image

    from ulcodec.images import atomic_write, load_image
    from ulcodec.metrics import bits_per_pixel

    Image.MAX_IMAGE_PIXELS = None  # load_image has a limit of its own, and an error for it
    pixels = load_image(source, max_pixels=max_pixels).pixels

    import ulcodec

    codec = ulcodec.load(model)
    start = time.perf_counter()
    data = codec.encode(pixels, quality=quality, max_pixels=max_pixels)
    encode_ms = 1000 * (time.perf_counter() - start)
    atomic_write(target, data)

    height, width = pixels.shape[:2]
    bpp = bits_per_pixel(len(data), width, height)
    if json:
        print_json(
            {
                "output": str(target),
                "file_bytes": len(data),
                "width": width,
                "height": height,
                "bits_per_pixel": bpp,
                "quality": quality,
                "model": codec.name,
                "fingerprint": codec.fingerprint,
                "encode_ms": encode_ms,
            }
        )
    else:
        typer.echo(f"{target}: {width}x{height}, {len(data)} bytes, {bpp:.3f} bits per pixel, quality {quality}")
