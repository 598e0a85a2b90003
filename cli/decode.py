"""`ulcodec decode`: .ulc files to pictures."""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ulcodec.format.container import MAX_PIXELS, N_SEGMENTS, Container, check_crop
from ulcodec.progress import share, tracked
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
    about,
    finite,
    load_codec,
    model_identity,
    read_file,
    say,
    show_warnings,
    write_file,
)

if TYPE_CHECKING:
    from ulcodec.codec.image import Codec, Recovery

DECODING_SHARE = 0.85
"""Rough time of decoding; the rest is writing PNG."""


def decode(
    sources: Annotated[
        list[Path], typer.Argument(metavar="IN...", help=".ulc files, folders of them, or - for stdin.")
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="File, or folder (made if it ends in /), or - for stdout. Default: IN with the extension of --format.",
        ),
    ] = None,
    format: Annotated[
        str, typer.Option(metavar="EXT", help="Format where the output has no extension: png, jpg, webp, tif ...")
    ] = "png",
    fraction: Annotated[
        float,
        typer.Option(min=0, max=1, callback=finite, help="Read only this share of a file: a coarser picture, sooner."),
    ] = 1.0,
    crop: Annotated[
        str | None, typer.Option(metavar="X,Y,W,H", help="Only this part, in pixels from the left and the top.")
    ] = None,
    thumbnail: Annotated[
        bool, typer.Option("--thumbnail", help="At 1/8 of the size, sides rounded up: sooner than the whole picture.")
    ] = False,
    realism: Annotated[
        float,
        typer.Option(
            min=0, max=1, callback=finite, help="0: least squared error; 1: a sample with lifelike detail; or between."
        ),
    ] = 0.0,
    steps: Annotated[int, typer.Option(min=1, max=50, help="Realism: steps of the sampler.")] = 4,
    seed: Annotated[int, typer.Option(min=0, max=2**64 - 1, help="Realism: which of the possible pictures.")] = 0,
    depth: Annotated[int | None, typer.Option(help="8 or 16 bits a sample. Default: as the original had.")] = None,
    recover: Annotated[
        bool, typer.Option("--recover", help="Show what is sound of a damaged file; the model conceals the rest.")
    ] = False,
    recursive: Recursive = False,
    model: Model = DEFAULT_MODEL,
    device: Device = "auto",
    threads: Threads = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    force: Force = False,
    json: Json = False,
) -> None:
    """Decode .ulc files."""
    if depth not in (None, 8, 16):
        raise typer.BadParameter("--depth is 8 or 16")
    part = None if crop is None else parse_crop(crop)
    alone = thumbnail or part is not None or realism > 0 or fraction < 1
    if thumbnail and (part or realism or recover or fraction < 1):
        raise typer.BadParameter("--thumbnail takes neither --crop, --fraction, --realism nor --recover")
    if recover and (part or realism or fraction < 1):
        raise typer.BadParameter("--recover takes neither --crop, --fraction nor --realism")
    suffix = "." + format.lower().removeprefix(".")
    plan = make_plan(sources, output, suffix, {".ulc"}, recursive=recursive, force=force)
    show_warnings()

    from ulcodec.io.picture_files import image_format, picture_file

    formats = {target: image_format(named(target, suffix)) for _, target in plan.pairs}

    @cache
    def loaded() -> "Codec":
        return load_codec(model, device, threads)

    def read(source: Path) -> tuple[bytes, int]:
        data = read_file(source)
        if recover:
            return data, WINDOW_PIXELS
        container = Container.from_bytes(data, max_pixels=max_pixels)  # what is wrong is told before the model loads
        if part is not None:
            check_crop(part, container.header)
        return data, WINDOW_PIXELS if alone else container.header.n_pixels

    def decoded(codec: "Codec", files: list[bytes]) -> "list[Recovery]":
        from ulcodec.codec.image import Recovery, decode_batch
        from ulcodec.codec.realism import Realism

        if recover:
            return [codec.recover(data, max_pixels=max_pixels) for data in tracked(files)]
        if thumbnail:
            pictures = [codec.thumbnail(data, max_pixels=max_pixels) for data in tracked(files)]
        elif alone:
            options: dict[str, Any] = {"fraction": fraction, "crop": part, "realism": Realism(realism, steps, seed)}
            pictures = [codec.decode_picture(data, max_pixels=max_pixels, **options) for data in tracked(files)]
        else:
            pictures = decode_batch(codec, files, max_pixels=max_pixels)
        return [Recovery(picture, N_SEGMENTS, None) for picture in pictures]

    def finish(jobs: Sequence[Job]) -> list[dict[str, Any]]:
        codec = loaded()
        start = time.perf_counter()
        with share(DECODING_SHARE):
            found = decoded(codec, [job.item for job in jobs])
        decode_ms = 1000 * (time.perf_counter() - start) / len(jobs)
        return [written(job, codec, own, decode_ms) for job, own in zip(jobs, found, strict=True)]

    def written(job: Job, codec: "Codec", found: "Recovery", decode_ms: float) -> dict[str, Any]:
        picture, n_segments, damage = found
        if depth is not None and depth != picture.bit_depth:
            pixels = picture.pixels_8 if depth == 8 else picture.pixels.astype("uint16") * 257
            picture = replace(picture, pixels=pixels)
        with about(job.source if plan.many else None):
            file = picture_file(picture, formats[job.target])
        write_file(job.target, file)
        if damage is not None:
            named = f"{job.source}: " if plan.many else ""
            shown = f"{n_segments} of {N_SEGMENTS} segments are sound, the rest is concealed"
            say(f"ulcodec: warning: {named}{damage}; {shown}", err=True)
        height, width = picture.pixels.shape[:2]
        return {
            "output": str(job.target),
            "source_bytes": len(job.item),
            "output_bytes": len(file),
            "width": width,
            "height": height,
            "model": codec.name,
            "fingerprint": codec.fingerprint,
            "n_segments": n_segments,
            "damage": None if damage is None else str(damage),
            "decode_ms": decode_ms,
            "line": f"{job.target}: {width}x{height}",
        }

    options = [suffix, fraction, crop, thumbnail, realism, steps, seed, depth, recover, model_identity(model)]
    run_plan(plan, read, finish, doing="decoding", force=force, json=json, options=options)


def parse_crop(text: str) -> tuple[int, int, int, int]:
    try:
        left, top, width, height = (int(number) for number in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"expected four whole numbers X,Y,W,H, got {text!r}") from None
    return left, top, width, height


def named(target: Path, suffix: str) -> Path:
    return target if target.suffix else target.with_name(target.name + suffix)
