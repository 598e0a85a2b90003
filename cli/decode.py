"""`ulcodec decode`: .ulc files to pictures and videos."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ulcodec.errors import ImageError
from ulcodec.format.container import MAX_PIXELS, N_SEGMENTS, Container, Crop, check_crop
from ulcodec.info import START_BYTES, by_model, is_sequence
from ulcodec.io.locations import SHARD_SUFFIX
from ulcodec.io.places import Place
from ulcodec.progress import share, tracked
from ulcodec_cli.batch import BulkOptions, EngineOption, ErrorsOption, Jobs, ManifestOption, run_plan
from ulcodec_cli.clip_decode import (
    DEFAULT_SUFFIX,
    SequenceInput,
    SequenceOptions,
    check_options,
    decode_sequence,
    header_of,
    is_pattern,
    is_sequence_file,
    with_depth,
    with_extension,
)
from ulcodec_cli.clip_encode import parse_time
from ulcodec_cli.common import (
    BackendOption,
    Device,
    FileModel,
    Force,
    Json,
    MaxPixels,
    ModelOptions,
    Recursive,
    Threads,
    about,
    finite,
    load_codec,
    model_identity,
    model_label,
    path_of,
    read_file,
    say,
    show_warnings,
    write_file,
)
from ulcodec_cli.plan import is_shard, make_plan
from ulcodec_cli.work import WINDOW_PIXELS, Job, Shard

if TYPE_CHECKING:
    from ulcodec.codec import Codec, Recovery

DECODING_SHARE = 0.85
"""Rough share of time of decoding; the rest is writing PNG."""


def decode(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="IN...", help=".ulc files, folders of them, tar shards, URLs, or - for stdin."),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="File, folder (made if it ends in /), URL, or - for stdout; for a video's frames, frames/%04d.png. "
            "Default: IN with the extension of --format.",
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            metavar="EXT",
            help="Format where the output has no extension: png, jpg, webp, tif ...; for a video mp4, mov, mkv, webm, "
            "y4m. Default: png; for a video mp4, on stdout y4m.",
        ),
    ] = None,
    fraction: Annotated[
        float,
        typer.Option(min=0, max=1, callback=finite, help="Decode only this share of the file, to a coarser picture."),
    ] = 1.0,
    crop: Annotated[
        str | None, typer.Option(metavar="X,Y,W,H", help="Decode only this area, in pixels from the left and the top.")
    ] = None,
    thumbnail: Annotated[
        bool, typer.Option("--thumbnail", help="Decode at 1/8 of the size, sides rounded up, without the networks.")
    ] = False,
    realism: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            callback=finite,
            help="0 for the least squared error, up to 1 for a sample with natural detail.",
        ),
    ] = 0.0,
    steps: Annotated[int, typer.Option(min=1, max=50, help="Evaluations of the sampler, with --realism.")] = 4,
    seed: Annotated[int, typer.Option(min=0, max=2**64 - 1, help="Seed of the sample, with --realism.")] = 0,
    depth: Annotated[int | None, typer.Option(help="8 or 16 bits per sample. Default: as in the original.")] = None,
    frame: Annotated[
        int | None, typer.Option(min=0, help="Decode only this frame of a video, counted from 0, to a picture.")
    ] = None,
    at_time: Annotated[
        str | None,
        typer.Option("--time", help="Decode only the frame at this time, in seconds or hours:minutes:seconds."),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(help="FFmpeg's encoder of a video. Default: libx264 for mp4, ffv1 (lossless) for mkv."),
    ] = None,
    crf: Annotated[
        float | None, typer.Option(min=0, max=63, callback=finite, help="Quality of that encoder: 0 is best.")
    ] = None,
    recover: Annotated[
        bool,
        typer.Option(
            "--recover",
            help="Decode a damaged picture up to the damage, and the undamaged frames of a video.",
        ),
    ] = False,
    recursive: Recursive = False,
    model: FileModel = None,
    device: Device = "auto",
    threads: Threads = None,
    backend: BackendOption = "auto",
    max_pixels: MaxPixels = MAX_PIXELS,
    engine: EngineOption = "process",
    jobs: Jobs = None,
    manifest: ManifestOption = None,
    errors: ErrorsOption = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Decode .ulc files.

    URLs are those of fsspec: s3://bucket/coded/**, gs://, zip://*.ulc::coded.zip.
    """
    if depth not in (None, 8, 16):
        raise typer.BadParameter("--depth is 8 or 16")
    area, loading = None if crop is None else parse_crop(crop), ModelOptions.of(model, device, threads, backend)
    if thumbnail and (area or realism or recover or fraction < 1):
        raise typer.BadParameter("--thumbnail takes neither --crop, --fraction, --realism nor --recover")
    if recover and (area or realism or fraction < 1):
        raise typer.BadParameter("--recover takes neither --crop, --fraction nor --realism")
    if frame is not None and at_time is not None:
        raise typer.BadParameter("--frame and --time exclude each other")
    time_s = None if at_time is None else parse_time(at_time)
    suffix = None if format is None else "." + format.lower().removeprefix(".")
    sequences = SequenceOptions(suffix, encoder, crf, frame, time_s, depth, recover, force, max_pixels)
    first = Path(sources[0])
    if output is not None and is_pattern(Path(output)) and not sequences.is_picture and is_sequence_file(first):
        Path(output).parent.mkdir(parents=True, exist_ok=True)

    def suffix_of(source: Place) -> str:
        if is_shard(source):
            return SHARD_SUFFIX
        is_video = is_sequence_file(source) and not sequences.is_picture
        return suffix or (DEFAULT_SUFFIX if is_video else ".png")

    bulk = BulkOptions(engine, jobs, manifest, errors)
    bulk.check()
    plan = make_plan(sources, output, suffix_of, lambda: {".ulc"}, recursive=recursive, force=force)
    show_warnings()

    from ulcodec.io.picture_files import image_format

    for source, target in plan.pairs:  # errors come before the model is loaded
        if not is_shard(source) and (sequences.is_picture or not is_sequence_file(source)):
            image_format(with_extension(target, suffix or ".png"))
    sampling = realism, steps, seed
    picture_only = {"--crop": area, "--realism": realism, "--thumbnail": thumbnail, "--fraction": fraction < 1}
    identity = [suffix, fraction, crop, thumbnail, realism, steps, seed, depth, recover, model_identity(model),
                frame, time_s, encoder, crf]  # fmt: skip
    task = Decoder(
        suffix=suffix or ".png",
        crop=area,
        fraction=fraction,
        realism=sampling,
        thumbnail=thumbnail,
        recover=recover,
        depth=depth,
        sequence_options=sequences,
        picture_only=[option for option, value in picture_only.items() if value],
        max_pixels=max_pixels,
        model=loading,
        many=plan.many or bulk.are_given,
        options=identity,
    )
    run_plan(plan, task, bulk, force=force, json=json)


def parse_crop(text: str) -> Crop:
    """Parse X,Y,W,H. Raises BadParameter."""
    try:
        left, top, width, height = (int(number) for number in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"expected four whole numbers X,Y,W,H, got {text!r}") from None
    return left, top, width, height


@dataclass
class Decoder:
    """The task of `ulcodec decode`.

    `suffix`: extension that decides the format of a target without one; `fraction` and `realism`: see
    `Codec.decode_picture`; `sequence_options`: for sequences; `picture_only`: the options given that do not apply to
    them; `model`: how to load the model; `many`: whether there may be several inputs, so that warnings name the file;
    `options`: what decides the results, see `ulcodec_cli.work.Task`.
    """

    suffix: str
    crop: Crop | None
    fraction: float
    realism: tuple[float, int, int]
    thumbnail: bool
    recover: bool
    depth: int | None
    sequence_options: SequenceOptions
    picture_only: list[str]
    max_pixels: int
    model: ModelOptions
    many: bool
    options: object
    verb: str = "decoding"
    _n_pixels: int | None = None
    _codecs: "dict[Path, Codec]" = field(default_factory=dict)

    def codec(self, directory: Path) -> "Codec":
        """The model of a directory, loaded when its first file has been read."""
        if directory not in self._codecs:
            self._codecs[directory] = load_codec(directory, self.model, None if self.many else self._n_pixels)
        return self._codecs[directory]

    def load(self, n_threads: int) -> None:
        """Load a model now, so that an error of the device comes before all files: `small` if each file has its own."""
        self.model = self.model._replace(threads=n_threads)
        self.codec(self.model.directory)

    @property
    def goes_alone(self) -> bool:
        """Whether files are decoded one by one."""
        return self.thumbnail or self.crop is not None or self.realism[0] > 0 or self.fraction < 1

    def read(self, source: Place) -> tuple[bytes | SequenceInput | Shard, int]:
        """Read a file; return its bytes, and its pixels or a whole window if it goes alone.

        A sequence is read later, frame by frame: its `SequenceInput` is returned. So is a shard, as `Shard`.
        """
        if is_shard(source):
            return Shard(source), WINDOW_PIXELS
        options = self.sequence_options
        if isinstance(source, Path) and is_sequence_file(source):
            if self.picture_only:
                raise ImageError(f"{self.picture_only[0]} is for pictures, and the file is a video")
            return SequenceInput(source), WINDOW_PIXELS
        if options.is_picture or options.encoder is not None or options.crf is not None:
            raise ImageError("--frame, --time, --encoder and --crf are for videos, and the file is a picture")
        data = read_file(source)
        if not isinstance(source, Path) and is_sequence(data[:START_BYTES]):
            raise ImageError("a video in a shard or at a URL is not decoded: copy it here first")
        if self.recover:
            return data, WINDOW_PIXELS
        container = Container.from_bytes(data, max_pixels=self.max_pixels)  # errors come before the model is loaded
        if self.crop is not None:
            check_crop(self.crop, container.header)
        if self.realism[0] == 0:
            self._n_pixels = container.header.n_pixels
        return data, WINDOW_PIXELS if self.goes_alone else container.header.n_pixels

    def finish(self, jobs: Sequence[Job]) -> list[dict[str, Any]]:
        """Decode files and write the pictures, or the video of a sequence, or a shard; these go alone."""
        if isinstance(jobs[0].content, Shard):
            from ulcodec_cli.shards import recode, to_decode

            return [recode(self, job, to_decode, self.suffix) for job in jobs]
        if isinstance(jobs[0].content, SequenceInput):
            options = self.sequence_options
            for job in jobs:
                check_options(path_of(job.target), options)
            codecs = [self.codec(self.model.directory_for(header_of(job.content))) for job in jobs]
            return [
                decode_sequence(codec, job.content, path_of(job.target), options)
                for codec, job in zip(codecs, jobs, strict=True)
            ]
        results: dict[int, dict[str, Any]] = {}
        groups = by_model([job.content for job in jobs], self.model.model)
        for directory, indices in tracked(list(groups.items())):
            codec = self.codec(directory)
            results.update(zip(indices, self.finish_pictures(codec, [jobs[index] for index in indices]), strict=True))
        return [results[index] for index in range(len(jobs))]

    def finish_pictures(self, codec: "Codec", jobs: Sequence[Job]) -> list[dict[str, Any]]:
        """Decode files of one model, and write the pictures."""
        start = time.perf_counter()
        with share(DECODING_SHARE):
            recovered = self.decode(codec, [job.content for job in jobs])
        decode_ms = 1000 * (time.perf_counter() - start) / len(jobs)
        return [self.write(job, recovery, codec, decode_ms) for job, recovery in zip(jobs, recovered, strict=True)]

    def decode(self, codec: "Codec", files: list[bytes]) -> "list[Recovery]":
        """Decode files together or one by one."""
        from ulcodec.codec.image import Recovery, decode_batch
        from ulcodec.codec.realism import Realism

        if self.recover:
            return [codec.recover(data, max_pixels=self.max_pixels) for data in tracked(files)]
        if self.thumbnail:
            pictures = [codec.thumbnail(data, max_pixels=self.max_pixels) for data in tracked(files)]
        elif self.goes_alone:
            realism = Realism(*self.realism)
            options: dict[str, Any] = {"fraction": self.fraction, "crop": self.crop, "realism": realism}
            pictures = [codec.decode_picture(data, max_pixels=self.max_pixels, **options) for data in tracked(files)]
        else:
            pictures = decode_batch(codec, files, max_pixels=self.max_pixels)
        return [Recovery(picture, N_SEGMENTS, None) for picture in pictures]

    def write(self, job: Job, recovery: "Recovery", codec: "Codec", decode_ms: float) -> dict[str, Any]:
        """Write a picture and report it, and what was damaged."""
        from ulcodec.io.picture_files import image_format, picture_file

        with about(job.source if self.many else None):
            format = image_format(with_extension(job.target, self.suffix))
            file = picture_file(with_depth(recovery.picture, self.depth), format)
        write_file(job.target, file)
        if recovery.damage is not None:
            name = f"{job.source}: " if self.many else ""
            segments = f"{recovery.n_segments} of {N_SEGMENTS} segments are sound, the rest is concealed"
            say(f"ulcodec: warning: {name}{recovery.damage}; {segments}", err=True)
        height, width = recovery.picture.pixels.shape[:2]
        return {
            "output": str(job.target),
            "source_bytes": len(job.content),
            "output_bytes": len(file),
            "width": width,
            "height": height,
            "model": model_label(codec),
            "fingerprint": codec.fingerprint,
            "n_segments": recovery.n_segments,
            "damage": None if recovery.damage is None else str(recovery.damage),
            "sha256": hashlib.sha256(file).hexdigest(),
            "decode_ms": decode_ms,
            "line": f"{job.target}: {width}x{height}",
        }
