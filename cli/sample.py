"""`ulcodec sample`: draw new pictures or clips from a training run."""

from enum import Enum
from errno import EEXIST, ENOENT
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ulcodec.errors import ModelError
from ulcodec_cli.common import Force, finite, say
from ulcodec_cli.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from ulcodec.codec.generate import Sampler

SHEET = "sheet.png"
FOLDERS = ("originals", "reconstructions")


class ClipFile(str, Enum):
    """How clips are written."""

    mp4 = "mp4"
    gif = "gif"
    sheet = "sheet"


def sample(
    run: Annotated[
        Path, typer.Argument(metavar="RUN_DIR", help="Run of `ulcodec train stage2`, or of stage1 with --objective ul.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory for the files, 0000.png and on.")],
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=2**20, help="Number of pictures or clips.")] = 8,
    width: Annotated[
        int | None, typer.Option(min=16, max=2**14, help="Pixels, rounded up. Default: 256, or as in training.")
    ] = None,
    height: Annotated[
        int | None, typer.Option(min=16, max=2**14, help="Pixels, rounded up. Default: 256, or as in training.")
    ] = None,
    frames: Annotated[int | None, typer.Option(min=1, max=2**10, help="Frames. Default: as in training.")] = None,
    steps: Annotated[int, typer.Option(min=1, max=10**6, help="Evaluations of the sampler.")] = 100,
    decoder_steps: Annotated[
        int, typer.Option(min=2, max=10**6, help="Evaluations of the decoder, if it is a diffusion model.")
    ] = 50,
    video: Annotated[
        ClipFile | None, typer.Option(help="Write clips as mp4 (default), gif, or all on one contact sheet.")
    ] = None,
    frame_rate: Annotated[int, typer.Option(min=1, max=240, help="Frames per second of clips.")] = 25,
    reconstruct: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Encode and decode these pictures or videos instead, in random crops."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the samples.")] = 0,
    guide: Annotated[Path | None, typer.Option(help="A weaker run to move away from (autoguidance).")] = None,
    guidance: Annotated[float, typer.Option(callback=finite, help="Strength of the guidance; 1 for none.")] = 1.5,
    model: Annotated[
        str | None, typer.Option(help="The codec or the run of stage 1, if it has moved since training.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    force: Force = False,
) -> None:
    """Draw new pictures or clips like the training data of a run.

    With --reconstruct, the directory gets the folders originals and reconstructions; a contact sheet has a row for each
    original and, below it, a row for its reconstruction.
    """
    if not run.is_dir():
        raise FileNotFoundError(ENOENT, "no such directory", str(run))

    from ulcodec.codec.generate import load_sampler
    from ulcodec.devices import choose_device

    sampler = load_sampler(run, model=model, device=choose_device(device))
    if not sampler.draws_clips and (video or frames):
        raise ModelError(f"{run} draws pictures, not clips: leave out --video and --frames")
    if reconstruct is not None and (guide or (height or width) != (width or height)):
        raise typer.BadParameter("--reconstruct takes square crops, and no --guide")
    suffix = (video or ClipFile.mp4).value if sampler.draws_clips else "png"
    folders = [output] if reconstruct is None or video is ClipFile.sheet else [output / name for name in FOLDERS]
    names = [SHEET] if video is ClipFile.sheet else [f"{i:04d}.{suffix}" for i in range(count)]
    files = [folder / name for name in names for folder in folders]
    if not force and (existing := next((file for file in files if file.exists()), None)):
        raise FileExistsError(EEXIST, "exists already; --force overwrites it", str(existing))
    if reconstruct is None:
        guiding = None if guide is None else load_sampler(guide, model=model, device=sampler.device)
        samples = sampler.sample(
            count,
            height=height,
            width=width,
            n_frames=frames,
            n_steps=steps,
            decoder_steps=decoder_steps,
            seed=seed,
            guide=guiding,
            guidance=guidance,
        )
    else:
        extents = {"n_frames": frames, "crop_px": height or width}
        samples = with_originals(sampler, reconstruct, count, decoder_steps, seed, extents)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    with progress_bar("drawing"):
        save_samples(samples, files, frame_rate)


def with_originals(
    sampler: "Sampler", source: str, count: int, decoder_steps: int, seed: int, extents: dict[str, int | None]
) -> "Iterator[np.ndarray]":
    """Read crops of pictures or videos; return an iterator over each, followed by its reconstruction."""
    from dataclasses import replace

    from ulcodec.codec.generate import DiffusionDecoder, samples_of
    from ulcodec.io.locations import as_source
    from ulcodec.train.data.training_set import some_crops
    from ulcodec.train.settings import Stage1Settings

    if not isinstance(sampler.decoder, DiffusionDecoder):
        raise ModelError("--reconstruct is for runs of stage 1; a codec reconstructs by ulcodec encode and decode")
    trained = Stage1Settings.from_resolved(sampler.decoder.settings)
    chosen = {name: value for name, value in extents.items() if value is not None}
    settings = replace(trained, data=(as_source(source),), batch_size=1, seed=seed, **chosen)  # type: ignore[arg-type]
    settings.check()
    crops = some_crops(settings, count)
    reconstructions = sampler.reconstruct(crops, decoder_steps=decoder_steps, seed=seed)
    pairs = ((samples_of(x), reconstruction) for x, reconstruction in zip(crops, reconstructions, strict=True))
    return chain.from_iterable(pairs)


def save_samples(samples: "Iterator[np.ndarray]", files: list[Path], frame_rate: int) -> None:
    """Write each picture or clip to its file, or all clips to a contact sheet."""
    from ulcodec.io.picture_files import save_image

    if files[0].name == SHEET:
        from ulcodec.io.clip_files import contact_sheet

        save_image(contact_sheet(list(samples)), files[0])
        say(str(files[0]))
        return
    for pixels, file in zip(samples, files, strict=True):
        if pixels.ndim == 3:
            save_image(pixels, file)
        else:
            from ulcodec.io.clip_files import save_clip

            save_clip(pixels, file, frame_rate)
        say(str(file))
