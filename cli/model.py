"""`ulcodec model`: what a model is made of."""

from typing import Annotated

import typer

from ulcodec_cli.common import Json, print_json

app = typer.Typer(help="Look at models.", no_args_is_help=True)


@app.callback()
def root() -> None:
    pass


@app.command("describe")
def describe_model(
    config: Annotated[str, typer.Option(help="Name of a configuration.")] = "small",
    json: Json = False,
) -> None:
    """Parameters and thousand multiply-accumulates per pixel of each part."""
    from ulcodec.model.describe import describe
    from ulcodec.model.presets import preset

    rows = describe(preset(config))
    if json:
        print_json({"config": config, "parts": rows})
        return
    print_row = "{:<16}  {:>12}  {:>12}  {:>6}".format
    typer.echo(print_row("part", "parameters", "kMAC/pixel", "passes"))
    for row in rows:
        parameters, kmac_per_px = f"{row['parameters']:,}", f"{row['kmac_per_px']:.2f}"
        typer.echo(print_row(row["part"], parameters, kmac_per_px, row["passes"]))
