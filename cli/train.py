"""`ulcodec train`: train a codec and export it."""

from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from ulcodec.errors import TrainingError
from ulcodec_cli.export import export

app = typer.Typer(help="Train a codec of your own.", no_args_is_help=True)


Data = Annotated[list[str], typer.Option(help="Folder of pictures or tar shards, a tar shard, or its URL; repeatable.")]


@app.command("stage1")
def stage1(
    data: Data,
    out: Annotated[Path, typer.Option(help="Run directory; the same command resumes a run that stopped.")],
    config: Annotated[str, typer.Option(help="Model configuration: tiny, small, base or paper.")] = "small",
    objective: Annotated[str, typer.Option(help="codec, or ul: the losses of the paper.")] = "codec",
    minutes: Annotated[float | None, typer.Option(help="Time budget.")] = None,
    images: Annotated[int | None, typer.Option(help="Length in images seen.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Crops a step.")] = None,
    crop: Annotated[int | None, typer.Option(help="Side of the crops in pixels.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Rate before the decay.")] = None,
    warmup: Annotated[int | None, typer.Option(help="Images over which the rate rises.")] = None,
    decay_share: Annotated[float | None, typer.Option(help="Share of the run over which the rate falls.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="adamw, or soap: slower steps, fewer of them.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    shards_in_memory: Annotated[
        int | None, typer.Option(help="Stream: hold so many tar shards at a time. Default: all pictures.")
    ] = None,
    crops_per_shard: Annotated[
        int | None, typer.Option(help="Streaming: crops between one shard and the next.")
    ] = None,
    init: Annotated[Path | None, typer.Option(help="Model directory whose weights the run starts from.")] = None,
    compile: Annotated[bool | None, typer.Option(help="On GPUs: torch.compile, and steps as CUDA graphs.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved settings and stop.")] = False,
) -> None:
    """Train encoder, prior and decoder together. What is not given keeps the default that --dry-run prints."""
    from ulcodec.io.locations import as_source
    from ulcodec.train.settings import Stage1Settings
    from ulcodec.train.stage1 import train_stage1

    given = {
        "minutes": minutes,
        "n_images": images,
        "batch_size": batch_size,
        "crop_px": crop,
        "learning_rate": learning_rate,
        "warmup_images": warmup,
        "decay_share": decay_share,
        "optimizer": optimizer,
        "seed": seed,
        "device": device,
        "threads": threads,
        "shards_in_memory": shards_in_memory,
        "crops_per_shard": crops_per_shard,
        "init": init,
        "compile": compile,
    }
    chosen = chosen_options(given)
    settings = Stage1Settings(data=tuple(map(as_source, data)), out=out, config=config, objective=objective, **chosen)
    settings.check()
    if dry_run:
        typer.echo(dumps(settings.resolved(), indent=2))
    else:
        typer.echo(f"run directory: {train_stage1(settings)}")


@app.command("stage2")
def stage2(
    data: Data,
    out: Annotated[Path, typer.Option(help="Run directory; the same command resumes a run that stopped.")],
    model: Annotated[str | None, typer.Option(help="The codec: name of an installed model, or a directory.")] = None,
    config: Annotated[str | None, typer.Option(help="Base model: tiny, mini, small, medium or large.")] = None,
    quality: Annotated[int | None, typer.Option(help="The codec's quality, 0 to 100, whose latents to learn.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Time budget.")] = None,
    images: Annotated[int | None, typer.Option(help="Length in images seen.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Crops a step.")] = None,
    crop: Annotated[int | None, typer.Option(help="Side of the crops in pixels.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Rate before the decay.")] = None,
    bias: Annotated[float | None, typer.Option(help="Bias b of the sigmoid weighting.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first pictures.")] = None,
    shard: Annotated[
        bool | None, typer.Option("--shard", help="Split the weights between the processes of torchrun (FSDP2).")
    ] = None,
    compile: Annotated[bool | None, typer.Option(help="Use torch.compile on GPUs.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved settings and stop.")] = False,
) -> None:
    """Train a base model that draws a codec's latents. What is not given keeps the default that --dry-run prints."""
    from ulcodec.io.locations import as_source
    from ulcodec.train.settings import Stage2Settings
    from ulcodec.train.stage2 import train_stage2

    given = {
        "model": model,
        "config": config,
        "quality": quality,
        "minutes": minutes,
        "n_images": images,
        "batch_size": batch_size,
        "crop_px": crop,
        "learning_rate": learning_rate,
        "bias": bias,
        "seed": seed,
        "device": device,
        "threads": threads,
        "limit_pictures": limit,
        "shard": shard,
        "compile": compile,
    }
    chosen = chosen_options(given)
    settings = Stage2Settings(data=tuple(map(as_source, data)), out=out, **chosen)
    settings.check()
    if dry_run:
        typer.echo(dumps(settings.to_json(), indent=2))
    else:
        typer.echo(f"run directory: {train_stage2(settings)}")


@app.command("denoiser")
def denoiser(
    data: Data,
    out: Annotated[Path, typer.Option(help="Run directory; the same command resumes a run that stopped.")],
    model: Annotated[str | None, typer.Option(help="The codec: name of an installed model, or a directory.")] = None,
    init: Annotated[str | None, typer.Option(help="Model whose denoiser the run starts from.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Time budget.")] = None,
    images: Annotated[int | None, typer.Option(help="Length in images seen.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Crops a step.")] = None,
    crop: Annotated[int | None, typer.Option(help="Side of the crops in pixels.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Rate before the decay.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="adamw, or soap: slower steps, fewer of them.")] = None,
    bias: Annotated[float | None, typer.Option(help="Bias b of the sigmoid weighting.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first pictures.")] = None,
    compile: Annotated[bool | None, typer.Option(help="On GPUs: torch.compile, and steps as CUDA graphs.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved settings and stop.")] = False,
) -> None:
    """Train what a finished codec draws realistic pictures with. The codec and its files stay as they are.

    What is not given keeps the default that --dry-run prints.
    """
    from ulcodec.io.locations import as_source
    from ulcodec.train.denoiser import train_denoiser
    from ulcodec.train.settings import DenoiserSettings

    given = {
        "model": model,
        "init": init,
        "minutes": minutes,
        "n_images": images,
        "batch_size": batch_size,
        "crop_px": crop,
        "learning_rate": learning_rate,
        "optimizer": optimizer,
        "bias": bias,
        "seed": seed,
        "device": device,
        "threads": threads,
        "limit_pictures": limit,
        "compile": compile,
    }
    chosen = chosen_options(given)
    settings = DenoiserSettings(data=tuple(map(as_source, data)), out=out, **chosen)
    settings.check()
    if dry_run:
        typer.echo(dumps(settings.to_json(), indent=2))
    else:
        typer.echo(f"run directory: {train_denoiser(settings)}")


def chosen_options(given: dict[str, Any]) -> dict[str, Any]:
    """Options that were given. Raises TrainingError for a 0 that settings would take for their default."""
    for name in ("threads", "shards_in_memory"):
        if given.get(name) == 0:
            raise TrainingError(f"{name.replace('_', ' ')}: must be at least 1, got 0")
    return {name: value for name, value in given.items() if value is not None}


@app.command("resume")
def resume(
    run: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Directory of a run that stopped or finished.")],
    minutes: Annotated[float | None, typer.Option(help="New time budget of the whole run.")] = None,
    images: Annotated[int | None, typer.Option(help="New length of the whole run in images seen.")] = None,
    data: Annotated[list[str] | None, typer.Option(help="Where the pictures are now; default: as before.")] = None,
) -> None:
    """Continue a run with its own settings. With a new length, a finished run goes on from where its rate was full."""
    from ulcodec.io.locations import as_source
    from ulcodec.train.denoiser import resume_denoiser
    from ulcodec.train.runs import run_config
    from ulcodec.train.stage1 import resume_stage1
    from ulcodec.train.stage2 import resume_stage2

    stages = {"stage1": resume_stage1, "stage2": resume_stage2, "denoiser": resume_denoiser}
    config = run_config(run)
    resume_run = next(resume for stage, resume in stages.items() if stage in config)
    finished = resume_run(run, minutes=minutes, n_images=images, data=tuple(map(as_source, data or ())))
    typer.echo(f"run directory: {finished}")


app.command("export")(export)
