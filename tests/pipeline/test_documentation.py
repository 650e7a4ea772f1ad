"""The manual knows every parameter, every file and every column."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from histocast.artifacts import EXPRESSION, FEATURES, SUMMARY, TILES, TableSchema
from histocast.cli import app
from histocast.parameters import Parameters

VERB = re.compile(r"(?<![\w./-])histocast ((?:genes )?[a-z][a-z-]*) ([^`\n|#]*)")
RUN = re.compile(r"nextflow [^`\n]*run ([^`\n#]*)")
OPTION = re.compile(r"(?<!\S)--[a-z][\w-]*")


def test_every_parameter_is_in_the_manual(root: Path) -> None:
    guide = (root / "docs" / "usage.md").read_text()

    missing = {name for name in Parameters.model_fields if f"`--{name}`" not in guide}

    assert missing == set()


@pytest.mark.parametrize("schema", [TILES, FEATURES, EXPRESSION, SUMMARY], ids=lambda schema: schema.artifact)
def test_every_column_of_a_table_is_in_the_manual(root: Path, schema: TableSchema) -> None:
    guide = (root / "docs" / "output.md").read_text()

    missing = {column.name for column in schema.columns if f"`{column.name}`" not in guide}

    assert missing == set()


def manual(root: Path) -> dict[str, str]:
    """Every page, with the lines of a command joined."""
    pages = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    return {page.name: page.read_text().replace("\\\n", " ") for page in pages}


def test_the_manual_gives_verbs_no_option_that_they_lack(root: Path) -> None:
    command_line = typer.main.get_command(app)
    named, lacking = 0, set()
    for page, text in manual(root).items():
        for verb, options in VERB.findall(text):
            command = command_line
            for word in verb.split():
                command = getattr(command, "commands", {}).get(word)
            known = {name for parameter in command.params for name in parameter.opts} if command else set()
            used = set(OPTION.findall(options)) - {"--help"}
            named += len(used)
            lacking |= {(page, verb, option) for option in used - known}

    assert lacking == set()
    assert named > 50


def test_the_manual_gives_runs_no_parameter_that_does_not_exist(root: Path) -> None:
    known = {f"--{name}" for name in Parameters.model_fields}
    used = {
        (page, name) for page, text in manual(root).items() for run in RUN.findall(text) for name in OPTION.findall(run)
    }

    assert {(page, name) for page, name in used if name not in known} == set()
    assert len(used) > 20
