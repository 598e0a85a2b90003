"""The command line's root, and the one place where an error becomes a line and an exit code.

Exit codes: 0 done, 1 a file that `verify` finds damaged, 2 wrong usage or an error that has a name (one line on
stderr), 130 interrupted.
"""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ulcodec import __version__
from ulcodec.errors import UlcError
from ulcodec_cli import bench, compare, decode, encode, evaluate, info, model, sample, train, truncate, verify

OUT_OF_MEMORY = ("can't allocate memory", "out of memory")
"""What torch's RuntimeError says on a CPU and on a GPU that has no memory left."""


class ErrorBoundary(TyperGroup):
    """Runs the chosen command."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except KeyboardInterrupt:
            typer.echo("ulcodec: interrupted", err=True)
            raise typer.Exit(130) from None
        except MemoryError:
            message = "out of memory"
        except RuntimeError as error:
            if not any(words in str(error) for words in OUT_OF_MEMORY):
                raise
            message = "out of memory"
        except OSError as error:
            message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        except UlcError as error:
            message = str(error)
        typer.echo(f"ulcodec: error: {' '.join(message.split())}", err=True)
        raise typer.Exit(2)


app = typer.Typer(
    cls=ErrorBoundary,
    help="A learned image codec: pictures to .ulc files and back.",
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
app.add_typer(train.app, name="train")


def show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ulcodec {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
