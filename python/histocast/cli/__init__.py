"""The command line: one verb a stage, no logic of its own.

Importing this module loads typer and nothing else of weight; each verb imports what it needs when it runs.
"""

from __future__ import annotations

import sys

import typer

from histocast import __version__
from histocast.cli import data, genes, predict, serve, train
from histocast.errors import HistocastError, UsageError

app = typer.Typer(
    name="histocast",
    help="Forecast spatial gene expression from H&E whole-slide images.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


predict.register(app)
train.register(app)
genes.register(app)
data.register(app)
serve.register(app)


def main() -> None:
    """Run the command line and exit with the code of the error, if any (see `histocast.errors`)."""
    # Typer would exit with 2 for a wrong option; ours is 64, which no engine retries.
    from typer._click.exceptions import ClickException

    try:
        code = app(standalone_mode=False)
    except HistocastError as error:
        typer.echo(f"error: {error.message}", err=True)
        sys.exit(error.exit_code)
    except ClickException as error:
        error.show()
        sys.exit(UsageError.exit_code)
    except typer.Abort:
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)
