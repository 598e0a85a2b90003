"""`ulcodec encode`: pictures to .ulc files."""

import math
import os
import re
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ulcodec.format.container import MAX_PIXELS
from ulcodec.progress import tracked
from ulcodec_cli.batch import WINDOW_PIXELS, Job, make_plan, run_plan
from ulcodec_cli.common import (
    DEFAULT_MODEL,
    Device,
    Force,
    Json,
    MaxPixels,
    Model,
    Recursive,
    Threads,
    above_zero,
    finite,
    load_codec,
    model_identity,
    read_file,
    show_warnings,
    write_file,
)

if TYPE_CHECKING:
    from ulcodec.codec.image import Codec
    from ulcodec.io.pictures import Picture

DEFAULT_QUALITY = 50
MAX_BPP = 1000.0
"""No file has so many."""
UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "kib": 2**10, "mib": 2**20}


def parse_bytes(text: str) -> int:
    """A size such as 5000, 100kB, 1.5MB, 64KiB."""
    found = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,15})?)\s*([a-z]*)\s*", text.lower(), re.ASCII)
    size = int(float(found[1]) * UNITS[found[2]]) if found and found[2] in UNITS else 0
    if size < 1:
        raise typer.BadParameter(f"expected a size such as 5000, 100kB or 64KiB, got {text!r}")
    return size


def encode(
    sources: Annotated[
        list[Path], typer.Argument(metavar="IN...", help="Pictures that Pillow opens, folders of them, or - for stdin.")
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="File, or folder (made if it ends in /), or - for stdout. Default: IN with the extension .ulc.",
        ),
    ] = None,
    quality: Annotated[
        int | None, typer.Option("--quality", "-q", min=0, max=100, help="0 smallest, 100 best. Default: 50.")
    ] = None,
    target_bpp: Annotated[
        float | None,
        typer.Option(callback=above_zero, help="Bits per pixel: the best file of at most so many, within 2 %."),
    ] = None,
    target_size: Annotated[str | None, typer.Option(help="File size such as 100kB: the same.")] = None,
    target_psnr: Annotated[
        float | None, typer.Option(callback=finite, help="PSNR in dB: the smallest file that reaches it.")
    ] = None,
    target_ssim: Annotated[
        float | None, typer.Option(max=1, callback=finite, help="MS-SSIM: the smallest file that reaches it.")
    ] = None,
    target_ssimulacra2: Annotated[
        float | None, typer.Option(max=100, help="SSIMULACRA2: the smallest file that reaches it.")
    ] = None,
    alpha_quality: Annotated[
        int | None, typer.Option(min=0, max=100, help="Of the alpha channel. Default: kept exactly.")
    ] = None,
    effort: Annotated[
        int,
        typer.Option(
            "--effort", min=1, max=9, help="1 at once; more looks longer for fewer bits at equal error, 9 longest."
        ),
    ] = 1,
    strip: Annotated[bool, typer.Option("--strip", help="Leave EXIF and XMP out.")] = False,
    keep_orientation: Annotated[
        bool, typer.Option("--keep-orientation", help="Keep the EXIF orientation instead of turning the picture.")
    ] = False,
    recursive: Recursive = False,
    model: Model = DEFAULT_MODEL,
    device: Device = "auto",
    threads: Threads = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    force: Force = False,
    json: Json = False,
) -> None:
    """Encode pictures."""
    wanted = {"--quality": quality, "--target-bpp": target_bpp, "--target-size": target_size,
              "--target-psnr": target_psnr, "--target-ssim": target_ssim,
              "--target-ssimulacra2": target_ssimulacra2}  # fmt: skip
    if len(given := [name for name, value in wanted.items() if value is not None]) > 1:
        raise typer.BadParameter(f"{' and '.join(given)} exclude each other")
    for name, value in wanted.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise typer.BadParameter(f"{name} is a finite number, got {value}")
    if target_ssimulacra2 is not None:
        from ulcodec.metrics.perceptual import ssimulacra2_function

        ssimulacra2_function()  # a missing package is told before anything is coded
    target_bytes = None if target_size is None else parse_bytes(target_size)
    targeted = bool(given) and quality is None
    slow = targeted or effort > 1  # then each is written as soon as it is coded

    from ulcodec.io.pictures import readable_extensions

    wanted_extensions = readable_extensions() if any(map(os.path.isdir, sources)) else set()
    plan = make_plan(sources, output, ".ulc", wanted_extensions, recursive=recursive, force=force)
    show_warnings()

    @cache
    def loaded() -> "Codec":
        return load_codec(model, device, threads)

    def code(pictures: "Sequence[Picture]") -> list[bytes]:
        options: dict[str, Any] = {"alpha_quality": alpha_quality, "strip": strip, "effort": effort}
        if targeted:
            return [to_target(loaded(), picture, options) for picture in tracked(pictures)]

        from ulcodec.codec.image import encode_batch

        fixed = DEFAULT_QUALITY if quality is None else quality
        return encode_batch(loaded(), pictures, quality=fixed, max_pixels=max_pixels, **options)

    def to_target(codec: "Codec", picture: "Picture", options: dict[str, Any]) -> bytes:
        from ulcodec.codec.rate_control import encode_to_quality, encode_to_size

        height, width = picture.pixels.shape[:2]
        if target_bpp is not None or target_bytes is not None:
            n_bytes = int(min(target_bpp, MAX_BPP) * width * height / 8) if target_bpp is not None else target_bytes
            return encode_to_size(codec, picture, n_bytes or 0, **options)
        targets = {"psnr_db": target_psnr, "ms_ssim": target_ssim, "ssimulacra2": target_ssimulacra2}
        [(measure, value)] = ((name, value) for name, value in targets.items() if value is not None)
        return encode_to_quality(codec, picture, measure, value, **options)

    def read(source: Path) -> tuple[tuple["Picture", int], int]:
        from ulcodec.io.pictures import load_image

        original = read_file(source)
        picture = load_image(original, max_pixels=max_pixels, upright=not keep_orientation)
        picture = picture.without("exif", "xmp") if strip else picture.within_limits()
        n_pixels = picture.pixels.shape[0] * picture.pixels.shape[1]
        return (picture, len(original)), WINDOW_PIXELS if slow else n_pixels

    def finish(jobs: Sequence[Job]) -> list[dict[str, Any]]:
        loaded()
        start = time.perf_counter()
        files = code([job.item[0] for job in jobs])
        encode_ms = 1000 * (time.perf_counter() - start) / len(jobs)
        return [written(job, data, encode_ms) for job, data in zip(jobs, files, strict=True)]

    def written(job: Job, data: bytes, encode_ms: float) -> dict[str, Any]:
        from ulcodec.info import info

        write_file(job.target, data)
        said = info(data, max_pixels=max_pixels)
        width, height, bpp = said["width"], said["height"], said["bits_per_pixel"]
        size = f"{width}x{height}, {len(data)} bytes, {bpp:.3f} bits per pixel, quality {said['quality']}"
        return {
            "output": str(job.target),
            "source_bytes": job.item[1],
            "output_bytes": len(data),
            "file_bytes": len(data),
            "width": width,
            "height": height,
            "bits_per_pixel": bpp,
            "quality": said["quality"],
            "model": loaded().name,
            "fingerprint": said["fingerprint"],
            "encode_ms": encode_ms,
            "line": f"{job.target}: {size}",
        }

    options = [wanted, alpha_quality, effort, strip, keep_orientation, model_identity(model)]
    run_plan(plan, read, finish, doing="encoding", force=force, json=json, options=options)
