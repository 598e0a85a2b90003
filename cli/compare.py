"""`ulcodec compare`: the distance of a picture from its original."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ulcodec.errors import ImageError
from ulcodec.format.container import MAGIC, MAX_PIXELS, read_head
from ulcodec.progress import share
from ulcodec_cli.clip_compare import compare_clips, is_moving, named
from ulcodec_cli.common import (
    BackendOption,
    Device,
    FileModel,
    Force,
    Json,
    MaxPixels,
    ModelOptions,
    Threads,
    load_codec,
    output_path,
    print_fields,
    print_json,
    show_warnings,
)
from ulcodec_cli.progress import progress_bar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ulcodec.io.picture import Picture

OPENING_SHARE = 0.5
"""Rough share of time of reading and decoding; the rest is MS-SSIM and writing."""


def compare(
    original: Annotated[Path, typer.Argument(help="A picture or a video.")],
    other: Annotated[Path, typer.Argument(help="A .ulc file, or another picture or video.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write both side by side, with their difference beside them.")
    ] = None,
    model: FileModel = None,
    device: Device = "auto",
    threads: Threads = None,
    backend: BackendOption = "auto",
    max_pixels: MaxPixels = MAX_PIXELS,
    force: Force = False,
    json: Json = False,
) -> None:
    """Print rate, PSNR and MS-SSIM of a .ulc file, or another picture or video, against its original."""
    loading = ModelOptions.of(model, device, threads, backend)
    target = None if output is None else output_path(original, output, ".png", force)
    show_warnings()
    if is_moving(original) or is_moving(other):
        if target is not None:
            raise typer.BadParameter("--output is for pictures")
        with progress_bar("comparing"):
            values = compare_clips(original, other, loading, max_pixels)
        show(values, json)
        return

    with progress_bar("comparing"):
        with share(OPENING_SHARE):
            first, second = (open_picture(path, loading, max_pixels) for path in (original, other))
        values = measure(first, second, other.stat().st_size)
        if target is not None:
            write_side_by_side(first, second, target)
    show(values, json)


def show(values: dict[str, Any], json: bool) -> None:
    if json:
        print_json(values)
    else:
        print_fields(values)


def measure(first: "Picture", second: "Picture", n_bytes: int) -> dict[str, Any]:
    """Measure two pictures, the second of which comes from a file of `n_bytes`."""
    from ulcodec.metrics import MS_SSIM_MIN_SIDE, bits_per_pixel, ms_ssim, psnr_db

    if first.pixels.shape != second.pixels.shape:
        shapes = " and ".join("x".join(map(str, picture.pixels.shape)) for picture in (first, second))
        raise ImageError(f"pictures of different shapes: {shapes}")
    a, b = comparable(first, second)
    height, width = a.shape[:2]
    return {
        "width": width,
        "height": height,
        "file_bytes": n_bytes,
        "bits_per_pixel": bits_per_pixel(n_bytes, width, height),
        "psnr_db": psnr_db(a, b),
        "ms_ssim": ms_ssim(a, b) if min(a.shape[:2]) >= MS_SSIM_MIN_SIDE else None,
    }


def comparable(first: "Picture", second: "Picture") -> "tuple[NDArray[np.uint8], NDArray[np.uint8]]":
    """Convert both to 8 bits of the range that the first one uses, equal where that is fully transparent."""
    from ulcodec.codec.pixels import without_hidden
    from ulcodec.format.attachments import significant_bits, to_full_range
    from ulcodec.io.picture import Picture

    a, b = first.pixels_8, second.pixels_8
    if first.bit_depth == second.bit_depth:
        bits = significant_bits(first.pixels)
        a, b = (Picture(to_full_range(picture.pixels, bits)).pixels_8 for picture in (first, second))
    if first.alpha is None:
        return a, b
    a = without_hidden(a, first.alpha).astype(a.dtype)
    b = b.copy()
    b[first.alpha == 0] = a[first.alpha == 0]
    return a, b


def open_picture(path: Path, loading: ModelOptions, max_pixels: int) -> "Picture":
    """Read a picture, or decode a .ulc file, and turn it upright as its metadata says."""
    from ulcodec.io.pictures import load_image

    data = path.read_bytes()
    with named(path):
        if data[: len(MAGIC)] == MAGIC:
            n_pixels = read_head(data, max_pixels=max_pixels).header.n_pixels
            codec = load_codec(loading.directory_for(data), loading, n_pixels)
            return codec.decode_picture(data, max_pixels=max_pixels).upright()
        return load_image(data, max_pixels=max_pixels)


def write_side_by_side(first: "Picture", second: "Picture", target: Path) -> None:
    """Write both pictures side by side, then four times their difference around mid-grey."""
    import numpy as np

    from ulcodec.io.picture_files import save_image

    a, b = comparable(first, second)
    difference = (128 + 4 * (b.astype(int) - a)).clip(0, 255).astype(np.uint8)
    save_image(np.concatenate([a, b, difference], axis=1), target)
