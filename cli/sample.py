"""`ulcodec sample`: draw new pictures from a stage-2 run."""

from errno import EEXIST, ENOENT
from pathlib import Path
from typing import Annotated

import typer

from ulcodec_cli.common import Force, finite, say
from ulcodec_cli.progress import progress_bar


def sample(
    run: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Directory of a run of `ulcodec train stage2`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory for the pictures, 0000.png and on.")],
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=2**20, help="Number of pictures.")] = 8,
    width: Annotated[int, typer.Option(min=16, max=2**14, help="Pixels, rounded up to a multiple of 16.")] = 256,
    height: Annotated[int, typer.Option(min=16, max=2**14, help="Pixels, rounded up to a multiple of 16.")] = 256,
    steps: Annotated[int, typer.Option(min=1, max=10**6, help="Evaluations of the sampler.")] = 100,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the pictures.")] = 0,
    guide: Annotated[Path | None, typer.Option(help="A weaker stage-2 run to move away from (autoguidance).")] = None,
    guidance: Annotated[float, typer.Option(callback=finite, help="Strength of the guidance; 1 for none.")] = 1.5,
    model: Annotated[str | None, typer.Option(help="Model of the codec, if it has moved since training.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    force: Force = False,
) -> None:
    """Draw new pictures like the training pictures of a stage-2 run."""
    if not run.is_dir():
        raise FileNotFoundError(ENOENT, "no such directory", str(run))
    files = [output / f"{index:04d}.png" for index in range(count)]
    if not force and (existing := next((file for file in files if file.exists()), None)):
        raise FileExistsError(EEXIST, "exists already; --force overwrites it", str(existing))

    from ulcodec.codec.generate import load_sampler
    from ulcodec.devices import choose_device
    from ulcodec.io.picture_files import save_image

    sampler = load_sampler(run, model=model, device=choose_device(device))
    guiding = None if guide is None else load_sampler(guide, model=model, device=sampler.device)
    output.mkdir(parents=True, exist_ok=True)
    pictures = sampler.sample(
        count, height=height, width=width, n_steps=steps, seed=seed, guide=guiding, guidance=guidance
    )
    with progress_bar("drawing"):
        for picture, file in zip(pictures, files, strict=True):
            save_image(picture, file)
            say(str(file))
