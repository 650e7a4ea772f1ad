"""Help of the command line with its verbs in groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typer.core import TyperGroup

if TYPE_CHECKING:
    from typer._click.core import Context
    from typer._click.formatting import HelpFormatter

GROUPS = {
    "Predict one slide": ("predict-slide",),
    "Stages of the predict workflow": ("check", "tile", "encode", "predict", "report", "summarise", "provenance"),
    "Stages of the train workflow": ("plan", "prepare", "train", "evaluate", "export", "lineage"),
    "Genes and encoders": ("genes", "export-encoder", "training-sheet"),
    "Inference servers": ("repository", "serve"),
    "Tools": ("doctor", "demo-data", "demo-score"),
}
"""Every verb of the command line, in the order in which its help lists them."""


class GroupedHelp(TyperGroup):
    """The verbs under the headings of `GROUPS`."""

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write the list of verbs."""
        for heading, names in GROUPS.items():
            verbs = [(name, verb) for name in names if (verb := self.get_command(ctx, name))]
            with formatter.section(heading):
                formatter.write_dl([(name, verb.get_short_help_str(limit=60)) for name, verb in verbs])
