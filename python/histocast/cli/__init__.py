"""The command line: one verb for each stage, no logic of its own.

Importing this module loads typer and nothing else of weight; each verb imports what it needs when it runs.
"""

from __future__ import annotations

import sys

import typer

from histocast import __version__
from histocast.cli import (
    demo_verbs,
    doctor,
    gene_verbs,
    server_verbs,
    train_verbs,
)
from histocast.cli.derive import add_stage
from histocast.cli.verb_groups import GroupedHelp
from histocast.errors import UsageError
from histocast.failures import end_with

app = typer.Typer(
    name="histocast",
    cls=GroupedHelp,
    help="Predict spatial gene expression from H&E whole-slide images.",
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


for _verb in ("predict-slide", "check", "tile", "encode", "predict", "report", "summarise", "provenance"):
    add_stage(app, _verb)
train_verbs.register(app)
gene_verbs.register(app)
demo_verbs.register(app)
server_verbs.register(app)
app.command()(doctor.doctor)


def main() -> None:
    """Run the command line and exit with the code of the error, if any (see `histocast.errors`)."""
    # Typer would exit with 2 for a wrong option; ours is 64, which no engine retries.
    from typer._click.exceptions import ClickException

    try:
        code = app(standalone_mode=False)
        # A full disk behind standard output is told here, and not by the interpreter on its way out.
        sys.stdout.flush()
    except ClickException as error:
        error.show()
        sys.exit(UsageError.exit_code)
    except typer.Abort as error:
        # It stands for the end of a file as well, which says nothing of an interrupt.
        if isinstance(error.__cause__, EOFError):
            end_with(error.__cause__)
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 - no exception of another library reaches a user
        end_with(error)
    sys.exit(code if isinstance(code, int) else 0)
