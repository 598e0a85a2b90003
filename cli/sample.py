"""`ulcodec sample`: draw new pictures or clips from a training run."""

from enum import Enum
from errno import EEXIST, ENOENT
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ulcodec.errors import ModelError
from ulcodec_cli.common import Force, finite, say
from ulcodec_cli.progress import progress_bar

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

SHEET = "sheet.png"


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
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the samples.")] = 0,
    guide: Annotated[Path | None, typer.Option(help="A weaker run to move away from (autoguidance).")] = None,
    guidance: Annotated[float, typer.Option(callback=finite, help="Strength of the guidance; 1 for none.")] = 1.5,
    model: Annotated[
        str | None, typer.Option(help="The codec or the run of stage 1, if it has moved since training.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    force: Force = False,
) -> None:
    """Draw new pictures or clips like the training data of a run."""
    if not run.is_dir():
        raise FileNotFoundError(ENOENT, "no such directory", str(run))

    from ulcodec.codec.generate import load_sampler
    from ulcodec.devices import choose_device

    sampler = load_sampler(run, model=model, device=choose_device(device))
    if not sampler.draws_clips and (video or frames):
        raise ModelError(f"{run} draws pictures, not clips: leave out --video and --frames")
    suffix = (video or ClipFile.mp4).value if sampler.draws_clips else "png"
    files = [output / SHEET] if video is ClipFile.sheet else [output / f"{i:04d}.{suffix}" for i in range(count)]
    if not force and (existing := next((file for file in files if file.exists()), None)):
        raise FileExistsError(EEXIST, "exists already; --force overwrites it", str(existing))
    guiding = None if guide is None else load_sampler(guide, model=model, device=sampler.device)
    output.mkdir(parents=True, exist_ok=True)
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
    with progress_bar("drawing"):
        save_samples(samples, files, frame_rate)


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
