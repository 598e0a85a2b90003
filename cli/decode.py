"""`ulcodec decode`: a .ulc file to a picture."""

import time
from pathlib import Path
from typing import Annotated

import typer

from ulcodec.container import MAX_PIXELS, N_SEGMENTS, Container
from ulcodec_cli.common import DEFAULT_MODEL, Force, Json, MaxPixels, Model, output_path, print_json


def decode(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A .ulc file.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The extension chooses the format. Default: IN with the extension .png."),
    ] = None,
    model: Model = DEFAULT_MODEL,
    recover: Annotated[
        bool, typer.Option("--recover", help="Show what is sound of a damaged file; the model conceals the rest.")
    ] = False,
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

    if not recover:
        Container.from_bytes(data, max_pixels=max_pixels)  # a damaged file is told before the model loads
    codec = ulcodec.load(model)
    start = time.perf_counter()
    if recover:
        pixels, n_segments, damage = codec.recover(data, max_pixels=max_pixels)
    else:
        pixels, n_segments, damage = codec.decode_array(data, max_pixels=max_pixels), N_SEGMENTS, None
    decode_ms = 1000 * (time.perf_counter() - start)
    save_image(pixels, target)
    if damage is not None:
        shown = f"{n_segments} of {N_SEGMENTS} segments are sound, the rest is concealed"
        typer.echo(f"ulcodec: warning: {damage}; {shown}", err=True)

    height, width = pixels.shape[:2]
    if json:
        print_json(
            {
                "output": str(target),
                "width": width,
                "height": height,
                "model": codec.name,
                "fingerprint": codec.fingerprint,
                "n_segments": n_segments,
                "damage": None if damage is None else str(damage),
                "decode_ms": decode_ms,
            }
        )
    else:
        typer.echo(f"{target}: {width}x{height}")
