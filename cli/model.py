"""`ulcodec model`: describe and export models."""

from typing import Annotated

import typer

from ulcodec_cli.common import Device, Json, Model, print_json
from ulcodec_cli.model_export import export_onnx

app = typer.Typer(help="Describe and export models.", no_args_is_help=True)


@app.callback()
def root() -> None:
    pass


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

    described = open_model(model).config if config is None else preset(config)
    rows, chosen_device = describe(described), choose_device(device)
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
