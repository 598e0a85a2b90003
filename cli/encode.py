"""`ulcodec encode`: pictures to .ulc files."""

import hashlib
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ulcodec.errors import ImageError
from ulcodec.format.container import MAX_PIXELS, read_head
from ulcodec.io.locations import SHARD_SUFFIX
from ulcodec.io.places import Place
from ulcodec.progress import tracked
from ulcodec_cli.batch import BulkOptions, EngineOption, ErrorsOption, Jobs, ManifestOption, run_plan
from ulcodec_cli.clip_encode import ClipInput, ClipOptions, encode_clip, parse_bitrate, parse_time, read_input
from ulcodec_cli.common import (
    DEFAULT_MODEL,
    BackendOption,
    Device,
    Force,
    Json,
    MaxPixels,
    Model,
    ModelOptions,
    Recursive,
    Threads,
    above_zero,
    finite,
    load_codec,
    model_document,
    model_identity,
    model_label,
    path_of,
    show_warnings,
    write_file,
)
from ulcodec_cli.plan import is_shard, make_plan
from ulcodec_cli.work import WINDOW_PIXELS, Job, Shard

if TYPE_CHECKING:
    from ulcodec.codec import Codec
    from ulcodec.io.picture import Picture

DEFAULT_QUALITY = 50
MAX_BPP = 1000.0
"""Bits per pixel that no file reaches."""

MEASURES = {"--target-psnr": "psnr_db", "--target-ssim": "ms_ssim", "--target-ssimulacra2": "ssimulacra2"}
"""Keys of `ulcodec.codec.rate_control.MEASURES` by option."""

CLIP_TARGETS = ("--quality", "--target-bitrate")
"""Targets that apply to videos."""

UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "kib": 2**10, "mib": 2**20}


def encode(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="IN...", help="Pictures, videos, folders of them, tar shards, URLs of pictures, or - for stdin."
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="File, folder (made if it ends in /), URL, or - for stdout. Default: IN with the extension .ulc.",
        ),
    ] = None,
    quality: Annotated[
        int | None, typer.Option("--quality", "-q", min=0, max=100, help="0 smallest, 100 best. Default: 50.")
    ] = None,
    target_bpp: Annotated[
        float | None,
        typer.Option(callback=above_zero, help="Largest rate in bits per pixel; the file reaches at least 98 % of it."),
    ] = None,
    target_size: Annotated[
        str | None, typer.Option(help="Largest file size, e.g. 100kB; the file reaches at least 98 % of it.")
    ] = None,
    target_psnr: Annotated[
        float | None, typer.Option(callback=finite, help="Least PSNR in dB, for the smallest file that reaches it.")
    ] = None,
    target_ssim: Annotated[
        float | None, typer.Option(max=1, callback=finite, help="Least MS-SSIM, for the smallest file that reaches it.")
    ] = None,
    target_ssimulacra2: Annotated[
        float | None, typer.Option(max=100, help="Least SSIMULACRA2, for the smallest file that reaches it.")
    ] = None,
    target_bitrate: Annotated[
        str | None, typer.Option(help="Mean rate of a video in bits per second, e.g. 800k or 1.5M.")
    ] = None,
    gop: Annotated[
        int,
        typer.Option(
            min=1, max=2**28 - 1, help="Largest distance between two intra frames of a video; 1: no prediction."
        ),
    ] = 250,
    start: Annotated[str, typer.Option(help="Where to begin in a video: seconds, or hours:minutes:seconds.")] = "0",
    duration: Annotated[
        str | None, typer.Option(help="How much of a video to encode: seconds, or hours:minutes:seconds.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a video that was not encoded to its end.")
    ] = False,
    alpha_quality: Annotated[
        int | None, typer.Option(min=0, max=100, help="Quality of the alpha channel. Default: lossless.")
    ] = None,
    effort: Annotated[
        int | None,
        typer.Option(
            "--effort",
            min=1,
            max=9,
            help="1 fastest, 9 smallest file: time spent on refining the latent. Default: 2, for videos 1.",
        ),
    ] = None,
    strip: Annotated[bool, typer.Option("--strip", help="Drop EXIF and XMP.")] = False,
    keep_orientation: Annotated[
        bool, typer.Option("--keep-orientation", help="Keep the EXIF orientation instead of turning the picture.")
    ] = False,
    recursive: Recursive = False,
    model: Model = DEFAULT_MODEL,
    device: Device = "auto",
    threads: Threads = None,
    backend: BackendOption = "auto",
    max_pixels: MaxPixels = MAX_PIXELS,
    engine: EngineOption = "process",
    jobs: Jobs = None,
    manifest: ManifestOption = None,
    errors: ErrorsOption = None,
    psnr: Annotated[bool, typer.Option("--psnr", help="Decode each picture again and report its PSNR.")] = False,
    members: Annotated[
        str | None,
        typer.Option(
            metavar="EXT,...",
            help="Files of a tar shard to encode, e.g. jpg,left.png. Default: the picture of each sample.",
        ),
    ] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Encode pictures, videos, and the pictures in tar shards.

    URLs are those of fsspec: s3://bucket/photos/**, gs://, zip://*.png::photos.zip. A * stands for pictures only.
    """
    targets = {"--quality": quality, "--target-bpp": target_bpp, "--target-size": target_size,
               "--target-psnr": target_psnr, "--target-ssim": target_ssim,
               "--target-ssimulacra2": target_ssimulacra2, "--target-bitrate": target_bitrate}  # fmt: skip
    target, loading = only_target(targets), ModelOptions.of(model, device, threads, backend)
    if target_ssimulacra2 is not None:
        from ulcodec.metrics.perceptual import ssimulacra2_function

        ssimulacra2_function()  # reports a missing package before anything is encoded
    from ulcodec.io.clip_kinds import VIDEO_SUFFIXES
    from ulcodec.io.pictures import readable_extensions

    bulk = BulkOptions(engine, jobs, manifest, errors, ("psnr_db",) if psnr else ())
    bulk.check()
    plan = make_plan(
        sources, output, result_suffix, lambda: readable_extensions() | VIDEO_SUFFIXES,
        recursive=recursive, force=force,
    )  # fmt: skip
    show_warnings()
    options = {"alpha_quality": alpha_quality, "strip": strip, "effort": effort}
    part = parse_time(start), None if duration is None else parse_time(duration)
    if part[1] == 0:
        raise typer.BadParameter("--duration is above 0")
    if resume and "-" in (output, *(sources if output is None else ())):
        raise typer.BadParameter("--resume needs a file to go on with")
    clips = ClipOptions(target, effort or 1, gop, *part, resume, force, max_pixels)
    chosen = None if members is None else parse_members(members)
    identity: list[object] = [targets, alpha_quality, effort, strip, keep_orientation, model_identity(model), gop, part]
    identity += [] if chosen is None else [chosen]  # records of earlier versions have no such entry
    many = plan.many or bulk.are_given
    task = Encoder(target, options, clips, keep_orientation, max_pixels, loading, many, identity, psnr, chosen)
    run_plan(plan, task, bulk, force=force, json=json)


def result_suffix(source: Place) -> str:
    """Extension of the result of a source."""
    return SHARD_SUFFIX if is_shard(source) else ".ulc"


def only_target(targets: dict[str, Any]) -> tuple[str, Any]:
    """Return the one target that is given, with its option; the default quality if none is. Raises BadParameter."""
    chosen: dict[str, Any] = {option: value for option, value in targets.items() if value is not None}
    if len(chosen) > 1:
        raise typer.BadParameter(f"{' and '.join(chosen)} exclude each other")
    [(option, value)] = (chosen or {"--quality": DEFAULT_QUALITY}).items()
    if isinstance(value, float) and not math.isfinite(value):
        raise typer.BadParameter(f"{option} is a finite number, got {value}")
    parse = {"--target-size": parse_bytes, "--target-bitrate": parse_bitrate}.get(option)
    return option, value if parse is None else parse(value)


def parse_bytes(text: str) -> int:
    """Parse a size such as 5000, 100kB, 1.5MB, 64KiB. Raises BadParameter."""
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,15})?)\s*([a-z]*)\s*", text.lower(), re.ASCII)
    size = int(float(match[1]) * UNITS[match[2]]) if match and match[2] in UNITS else 0
    if size < 1:
        raise typer.BadParameter(f"expected a size such as 5000, 100kB or 64KiB, got {text!r}")
    return size


def parse_members(text: str) -> list[str]:
    """Parse extensions such as jpg,.left.PNG. Raises BadParameter."""
    extensions = [extension.strip().removeprefix(".").lower() for extension in text.split(",")]
    if not all(extensions):
        raise typer.BadParameter(f"--members names extensions such as jpg,left.png, got {text!r}")
    return sorted(set(extensions))


@dataclass
class Encoder:
    """The task of `ulcodec encode`.

    `target`: an option and its value; `encode_options`: keywords of `encode_batch`; `clip_options`: for videos;
    `model`: how to load the model; `many`: whether there may be several inputs; `options`: what decides the results,
    see `ulcodec_cli.work.Task`; `measures_psnr`: whether to decode each picture again; `members`: extensions of what is
    encoded in shards, None for the default.
    """

    target: tuple[str, Any]
    encode_options: dict[str, Any]
    clip_options: ClipOptions
    keep_orientation: bool
    max_pixels: int
    model: ModelOptions
    many: bool
    options: object
    measures_psnr: bool = False
    members: list[str] | None = None
    verb: str = "encoding"
    _n_pixels: int | None = None

    @cached_property
    def codec(self) -> "Codec":
        """The model, loaded when the first input has been read."""
        return load_codec(self.model.directory, self.model, None if self.many else self._n_pixels)

    def load(self, n_threads: int) -> None:
        self.model = self.model._replace(threads=n_threads)
        _ = self.codec

    def read(self, source: Place) -> tuple[Any, int]:
        """Read a picture; return it with the size of its file, and its pixels or a whole window if encoding is slow.

        A clip is read later, frame by frame: its `ClipInput` is returned. So is a shard, as `Shard`.
        """
        if is_shard(source):
            return Shard(source), WINDOW_PIXELS
        from ulcodec.io.pictures import load_image

        option, original = self.target[0], read_input(source)
        if isinstance(original, ClipInput):
            if option not in CLIP_TARGETS:
                raise ImageError(f"{option} is for pictures; a video takes {' or '.join(CLIP_TARGETS)}")
            if self.keep_orientation or self.encode_options["alpha_quality"] is not None:
                raise ImageError("--keep-orientation and --alpha-quality are for pictures")
            return original, WINDOW_PIXELS
        if option == "--target-bitrate" or self.clip_options.is_part:
            raise ImageError("--target-bitrate, --start and --duration are for videos")
        picture = load_image(original, max_pixels=self.max_pixels, upright=not self.keep_orientation)
        picture = picture.without("exif", "xmp") if self.encode_options["strip"] else picture.within_limits()
        n_pixels = picture.pixels.shape[0] * picture.pixels.shape[1]
        from ulcodec.codec.effort import REFINER_EFFORT

        effort, at_quality = self.encode_options["effort"], self.target[0] == "--quality"
        refined = effort in (None, REFINER_EFFORT) and "refiner" in model_document(self.model.directory)
        if at_quality and (refined or effort in (None, 1)):
            self._n_pixels = 2 * n_pixels if refined else n_pixels  # the refiner doubles what torch saves
        shares_batches = at_quality and (effort or REFINER_EFFORT) <= REFINER_EFFORT
        return (picture, len(original)), n_pixels if shares_batches else WINDOW_PIXELS

    def finish(self, jobs: Sequence[Job]) -> list[dict[str, Any]]:
        """Encode and write pictures, or a clip or a shard, which goes alone."""
        if isinstance(jobs[0].content, Shard):
            from ulcodec_cli.shards import recode, to_encode

            return [recode(self, job, partial(to_encode, self.members), ".ulc") for job in jobs]
        codec = self.codec
        if isinstance(jobs[0].content, ClipInput):
            return [encode_clip(codec, job.content, path_of(job.target), self.clip_options) for job in jobs]
        start = time.perf_counter()
        files = self.encode(codec, [job.content[0] for job in jobs])
        encode_ms = 1000 * (time.perf_counter() - start) / len(jobs)
        return [self.write(job, data, encode_ms) for job, data in zip(jobs, files, strict=True)]

    def encode(self, codec: "Codec", pictures: "Sequence[Picture]") -> list[bytes]:
        """Encode pictures at a quality, or each to its target."""
        option, value = self.target
        if option != "--quality":
            return [self.encode_to_target(codec, picture) for picture in tracked(pictures)]

        from ulcodec.codec.image import encode_batch

        return encode_batch(codec, pictures, quality=value, max_pixels=self.max_pixels, **self.encode_options)

    def encode_to_target(self, codec: "Codec", picture: "Picture") -> bytes:
        """Encode a picture to a size or a value of a measure."""
        from ulcodec.codec.rate_control import encode_to_quality, encode_to_size

        option, value = self.target
        height, width = picture.pixels.shape[:2]
        if option == "--target-bpp":
            return encode_to_size(codec, picture, int(min(value, MAX_BPP) * width * height / 8), **self.encode_options)
        if option == "--target-size":
            return encode_to_size(codec, picture, value, **self.encode_options)
        return encode_to_quality(codec, picture, MEASURES[option], value, **self.encode_options)

    def write(self, job: Job, data: bytes, encode_ms: float) -> dict[str, Any]:
        """Write a file and report it."""
        write_file(job.target, data)
        header = read_head(data).header
        bits_per_pixel = 8 * len(data) / header.n_pixels
        size = f"{header.width}x{header.height}, {len(data)} bytes, {bits_per_pixel:.3f} bits per pixel"
        measured = {"psnr_db": self.psnr_db(job.content[0], data)} if self.measures_psnr else {}
        return {
            "output": str(job.target),
            "source_bytes": job.content[1],
            "output_bytes": len(data),
            "file_bytes": len(data),
            "width": header.width,
            "height": header.height,
            "bits_per_pixel": bits_per_pixel,
            "quality": header.quality,
            "model": model_label(self.codec),
            "fingerprint": header.fingerprint.hex(),
            "sha256": hashlib.sha256(data).hexdigest(),
            "encode_ms": encode_ms,
            **measured,
            "line": f"{job.target}: {size}, quality {header.quality}",
        }

    def psnr_db(self, picture: "Picture", data: bytes) -> float:
        """Measure a file, see `encode_to_quality`."""
        from ulcodec.codec.rate_control import measurement
        from ulcodec.metrics.distortion import psnr_db

        return measurement(self.codec, picture, psnr_db)(data)
