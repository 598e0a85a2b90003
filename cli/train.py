"""`ulcodec train`: train a codec and export it."""

import inspect
import types
from dataclasses import MISSING, Field, fields
from importlib import import_module
from json import dumps
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import typer

from ulcodec.errors import TrainingError
from ulcodec.io.locations import as_source
from ulcodec.train.settings import (
    DenoiserSettings,
    ObjectiveSettings,
    PriorSettings,
    RefinerSettings,
    Stage1Settings,
    Stage2Settings,
    VideoSettings,
)
from ulcodec_cli.export import export
from ulcodec_cli.photographs import shards

app = typer.Typer(name="train", help="Train a codec.", no_args_is_help=True, rich_markup_mode=None)

Settings = Stage1Settings | Stage2Settings | PriorSettings | VideoSettings | DenoiserSettings | RefinerSettings


def stage_command(stage: str, settings_type: type[Settings], docstring: str) -> None:
    """Register the command of a stage. The settings define its options."""
    of_stage = options_of(settings_type)
    has_objective = any(field.name == "weights" for field in fields(settings_type))
    of_objective = options_of(ObjectiveSettings) if has_objective else {}

    def command(dry_run: bool, **values: Any) -> None:
        chosen = chosen_settings(of_stage, values)
        if weights := given(of_objective, values):
            chosen["weights"] = ObjectiveSettings(**weights)
        settings = settings_type(**chosen)
        settings.check()
        if isinstance(settings, Stage1Settings):
            check_applicable(settings, values)
        if dry_run:
            resolved = settings.resolved() if isinstance(settings, Stage1Settings) else settings.to_json()
            typer.echo(dumps(resolved, indent=2))
        else:
            train = getattr(import_module(f"ulcodec.train.{stage}"), f"train_{stage}")
            typer.echo(f"run directory: {train(settings)}")

    parameters = [option_of(name, field) for name, field in (of_stage | of_objective).items()]
    dry_run = typer.Option("--dry-run", help="Print the resolved settings and stop.")
    parameters.append(keyword("dry_run", Annotated[bool, dry_run], False))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__doc__ = docstring
    app.command(stage)(command)


def options_of(settings_type: type[Settings] | type[ObjectiveSettings]) -> dict[str, Field[Any]]:
    """The fields of settings that are options, by the names of their parameters."""
    return {parameter_name(field): field for field in fields(settings_type) if "option" in field.metadata}


def parameter_name(field: Field[Any]) -> str:
    return str(field.metadata["option"]).replace("-", "_")


def option_of(name: str, field: Field[Any]) -> inspect.Parameter:
    """The parameter of a command for a field of settings."""
    kind: Any = list[str] if name == "data" else plain_type(field.type)
    flags = ["--shard"] if name == "shard" else []
    option = typer.Option(*flags, help=field.metadata["help"])
    if field.default is MISSING:
        return keyword(name, Annotated[kind, option], inspect.Parameter.empty)
    if field.metadata["show_default"]:
        return keyword(name, Annotated[kind, option], field.default)
    return keyword(name, Annotated[kind | None, option], None)


def plain_type(annotation: Any) -> Any:
    """The type T of `T | None`, and of T."""
    if get_origin(annotation) in (Union, types.UnionType):
        [annotation] = (member for member in get_args(annotation) if member is not type(None))
    return annotation


def keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def chosen_settings(options: dict[str, Field[Any]], values: dict[str, Any]) -> dict[str, Any]:
    """The fields of settings that are given. Raises TrainingError for a 0 that would mean the default."""
    for name in ("threads", "shards_in_memory", "crop"):
        if values.get(name) == 0:
            raise TrainingError(f"{name.replace('_', ' ')}: must be at least 1, got 0")
    values["data"] = tuple(map(as_source, values["data"]))
    return given(options, values)


def check_applicable(settings: Stage1Settings, values: dict[str, Any]) -> None:
    """Raise TrainingError for an option that the objective or the configuration would ignore."""
    needs = {name: "objective ul" for name in ("loss_factor", "bias", "latent_warmup") if settings.objective != "ul"}
    if len(settings.patch) == 2:
        needs["frames"] = "configurations of clips"
    for name, applicable in needs.items():
        if values[name] is not None:
            raise TrainingError(f"--{name.replace('_', '-')} is for {applicable} only")


def given(options: dict[str, Field[Any]], values: dict[str, Any]) -> dict[str, Any]:
    """The values of options that are given, by the names of their fields."""
    return {field.name: values[name] for name, field in options.items() if values[name] is not None}


stage_command(
    "stage1",
    Stage1Settings,
    """Train encoder, prior and decoder together.

    Options that are not given have the defaults that --dry-run prints.
    """,
)
stage_command(
    "stage2",
    Stage2Settings,
    """Train a base model that draws a codec's latents.

    Options that are not given have the defaults that --dry-run prints.
    """,
)
stage_command(
    "prior",
    PriorSettings,
    """Train a codec's prior further, on latents that are encoded once. Encoder and decoder stay as they are.

    Options that are not given have the defaults that --dry-run prints.
    """,
)
stage_command(
    "video",
    VideoSettings,
    """Train the entropy model of predicted frames, on latents that are encoded once. Pictures stay as they are.

    Options that are not given have the defaults that --dry-run prints.
    """,
)
stage_command(
    "denoiser",
    DenoiserSettings,
    """Train the denoiser that realistic pictures are drawn with. The codec and its files stay as they are.

    Options that are not given have the defaults that --dry-run prints.
    """,
)
stage_command(
    "refiner",
    RefinerSettings,
    """Train the refiner, which makes files smaller at --effort 2. The codec and its files stay as they are.

    Options that are not given have the defaults that --dry-run prints.
    """,
)


@app.command("resume")
def resume(
    run: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Directory of a run that stopped or finished.")],
    minutes: Annotated[float | None, typer.Option(help="New time budget of the whole run.")] = None,
    images: Annotated[int | None, typer.Option(help="New length of the whole run in images seen.")] = None,
    data: Annotated[list[str] | None, typer.Option(help="The data, if it has moved. Default: as before.")] = None,
) -> None:
    """Continue a run with its settings. With a new length, a finished run resumes before its learning-rate decay."""
    from ulcodec.train.denoiser import resume_denoiser
    from ulcodec.train.prior import resume_prior
    from ulcodec.train.refiner import resume_refiner
    from ulcodec.train.runs import run_config
    from ulcodec.train.stage1 import resume_stage1
    from ulcodec.train.stage2 import resume_stage2
    from ulcodec.train.video import resume_video

    stages = {
        "stage1": resume_stage1,
        "stage2": resume_stage2,
        "prior": resume_prior,
        "video": resume_video,
        "denoiser": resume_denoiser,
        "refiner": resume_refiner,
    }
    config = run_config(run)
    resume_run = next(resume for stage, resume in stages.items() if stage in config)
    finished = resume_run(run, minutes=minutes, n_images=images, data=tuple(map(as_source, data or ())))
    typer.echo(f"run directory: {finished}")


app.command("export")(export)
app.command("shards")(shards)
