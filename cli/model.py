"""`ulcodec model`: list, describe, export and package models."""

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from ulcodec import __version__
from ulcodec_cli.common import Device, Force, Json, Model, print_json, show_warnings
from ulcodec_cli.model_export import export_onnx
from ulcodec_cli.progress import progress_bar

app = typer.Typer(help="List, describe, export and package models.", no_args_is_help=True)


@app.callback()
def root() -> None:
    show_warnings()


@app.command("list")
def list_models(json: Json = False) -> None:
    """List the installed models: what --model takes, their fingerprints, and the packages that have them.

    A file has the fingerprint of its model. Sequences with predicted frames have one of their own.
    """
    from ulcodec.store.installed import installed_models

    models = list(installed_models())
    if json:
        rows = [
            {
                "model": model.label,
                "fingerprint": model.fingerprint,
                "sequence_fingerprint": model.sequence_fingerprint,
                "package": model.package,
                "version": model.version or __version__,
                "directory": str(model.directory),
                "bytes": size_of(model.directory),
            }
            for model in models
        ]
        print_json({"models": rows})
        return
    width = max((len(model.label) for model in models), default=0)
    print_row = f"{{:<{max(width, 5)}}}  {{:<11}}  {{:<9}}  {{:>8}}  {{}}".format
    typer.echo(print_row("model", "fingerprint", "sequences", "MB", "package"))
    for model in models:
        package = f"{model.package} {model.version or __version__}"
        size_mb = f"{size_of(model.directory) / 1e6:.1f}"
        typer.echo(print_row(model.label, model.fingerprint, model.sequence_fingerprint, size_mb, package))


def size_of(directory: Path) -> int:
    """Bytes of the files in a directory."""
    return sum(file.stat().st_size for file in directory.iterdir() if file.is_file())


@app.command("package")
def package_model(
    model: Annotated[str, typer.Argument(metavar="DIR", help="A model directory, or the name of an installed model.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the wheel goes; made if it is not there.")
    ] = Path(),
    version: Annotated[str, typer.Option(help="Version of the package. The fingerprint is that of the model.")] = "1.0",
    license: Annotated[
        str | None, typer.Option(metavar="SPDX", help="Licence of the weights, as Apache-2.0 or CC-BY-4.0.")
    ] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Build the wheel ulcodec-model-NAME-FINGERPRINT of a model.

    Where it is installed, decode finds the model by the fingerprint in a file, and --model by its name. A README.md and
    a LICENSE in DIR become those of the package.
    """
    from ulcodec.export.packages import build_package

    with progress_bar("packaging"):
        try:
            wheel = build_package(model, output, version=version, license=license, force=force)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
    if json:
        print_json({"output": str(wheel), "bytes": wheel.stat().st_size})
    else:
        typer.echo(f"{wheel}: {wheel.stat().st_size / 1e6:.1f} MB; install it with: pip install {quote(str(wheel))}")


@app.command("describe")
def describe_model(
    model: Model = "small",
    config: Annotated[str | None, typer.Option(help="Name of a configuration, instead of a model.")] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Print parameters and operations of each part, and how this machine multiplies integers.

    Operations are thousands of multiply-accumulates per pixel of the picture.
    """
    from ulcodec.bench.complexity import describe
    from ulcodec.coding.products import choose_product, trials
    from ulcodec.devices import choose_device
    from ulcodec.model.presets import preset
    from ulcodec.store.model_directory import open_model

    stored = open_model(model) if config is None else None
    described = preset(str(config)) if stored is None else stored.config
    refiner = None if stored is None or stored.refiner is None else stored.refiner.config
    rows, chosen_device = describe(described, refiner), choose_device(device)
    product, tried = choose_product(chosen_device), trials(chosen_device)
    if json:
        products = {
            "device": str(chosen_device), "chosen": product, "trials": [trial._asdict() for trial in tried]
        }  # fmt: skip
        print_json({"config": described.name, "parts": rows, "products": products})
        return
    print_row = "{:<16}  {:>12}  {:>12}".format
    typer.echo(print_row("part", "parameters", "kMAC/pixel"))
    for row in rows:
        parameters, kmac_per_px = f"{row['parameters']:,}", f"{row['kmac_per_px']:.2f}"
        typer.echo(print_row(row["part"], parameters, kmac_per_px))
    typer.echo(f"\nInteger products on {chosen_device}: {product}, the fastest that is exact. Tried on one layer:")
    for trial in tried:
        time_ms = "not timed, the definition" if trial.trial_ms is None else f"{trial.trial_ms:.2f} ms"
        typer.echo(f"  {trial.name:<8}  {time_ms if trial.is_exact else 'not exact here'}")


app.command("export-onnx")(export_onnx)
