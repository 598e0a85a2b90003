"""Root of the command line, and the one place where an error becomes a line and an exit code.

Exit codes: 0 success; 1 failures among many files, or damage that `verify` finds; 2 wrong usage, or an error with one
line on stderr; 130 interrupted.
"""

from functools import cache
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ulcodec import __version__
from ulcodec.errors import UlcError
from ulcodec_cli import bench, compare, decode, encode, evaluate, info, model, sample, truncate, verify
from ulcodec_cli.common import is_out_of_memory, print_json


@cache
def train_group() -> Any:
    """Import `ulcodec train`. Its many options would delay the start of every other command."""
    from ulcodec_cli import train

    return typer.main.get_group(train.app)


class ErrorBoundary(TyperGroup):
    """Runs the chosen command and turns errors into one line and an exit code."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return train_group() if cmd_name == "train" else super().get_command(ctx, cmd_name)

    def invoke(self, ctx: Any) -> Any:
        as_json = "--json" in (*getattr(ctx, "_protected_args", ()), *ctx.args)
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except KeyboardInterrupt:
            typer.echo("ulcodec: interrupted", err=True)
            raise typer.Exit(130) from None
        except Exception as error:
            if as_json and hasattr(error, "format_message"):  # wrong usage: click prints it
                print_json({"error": error.format_message()})
            if is_out_of_memory(error):
                message = "out of memory"
            elif isinstance(error, OSError):
                message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
            elif isinstance(error, UlcError):
                message = str(error)
            elif isinstance(error, ModuleNotFoundError) and error.name == "torch":
                message = 'this needs torch: pip install "ulcodec[torch]"'
            else:
                raise
        message = " ".join(message.split())
        if as_json:
            print_json({"error": message})
        typer.echo(f"ulcodec: error: {message}", err=True)
        raise typer.Exit(2)


app = typer.Typer(
    cls=ErrorBoundary,
    help="A learned image and video codec: pictures and clips to .ulc files and back.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("encode")(encode.encode)
app.command("decode")(decode.decode)
app.command("info")(info.info)
app.command("truncate")(truncate.truncate)
app.command("compare")(compare.compare)
app.command("verify")(verify.verify)
app.command("eval")(evaluate.evaluate)
app.command("bench")(bench.bench)
app.command("sample")(sample.sample)
app.add_typer(model.app, name="model")
app.add_typer(typer.Typer(), name="train")  # a placeholder, see ErrorBoundary.get_command


def show_version(is_given: bool) -> None:
    if is_given:
        typer.echo(f"ulcodec {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
