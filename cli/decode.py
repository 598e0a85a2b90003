"""`ulcodec decode`: a .ulc file to a picture."""

import time
from pathlib import Path
from typing import Annotated

import typer

from ulcodec.container import MAX_PIXELS, Container
from ulcodec_cli.common import DEFAULT_MODEL, Force, Json, MaxPixels, Model, output_path, print_json


def decode(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A .ulc file.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The extension chooses the format. Default: IN with the extension .png."),
    ] = None,
    model: Model = DEFAULT_MODEL,
    max_pixels: MaxPixels = MAX_PIXELS,
    force: Force = False,
    json: Json = False,
) -> None:
    """Decode a .ulc file."""
    target = output_path(source, output, ".png", force)

    from ulcodec.images import image_format, save_image

    image_format(target)
    data = source.read_bytes()

    import ulcodec

    Container.from_bytes(data, max_pixels=max_pixels)  # a damaged file is told before the model loads
    codec = ulcodec.load(model)
    start = time.perf_counter()
    pixels = codec.decode_array(data, max_pixels=max_pixels)
    decode_ms = 1000 * (time.perf_counter() - start)
    save_image(pixels, target)

    height, width = pixels.shape[:2]
    if json:
        print_json(
            {
                "output": str(target),
                "width": width,
                "height": height,
                "model": codec.name,
                "fingerprint": codec.fingerprint,
                "decode_ms": decode_ms,
            }
        )
    else:
        typer.echo(f"{target}: {width}x{height}")
