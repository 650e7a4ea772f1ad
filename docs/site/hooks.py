"""What the site generates while it is built: the reference of the command line, and links into the source."""

from __future__ import annotations

import re
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from histocast import cli

COMMAND_LINE = "reference/command-line.md"
# The site has no copy of the source: what a page links to there is named instead.
_LINK_TO_SOURCE = re.compile(r"\[([^\]]*)\]\((?:\.\./)+((?!docs/)[^)#\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page of every verb and option."""
    files.append(File.generated(config, COMMAND_LINE, content=describe_command_line()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace links into the source by the path."""
    return _LINK_TO_SOURCE.sub(lambda link: f"{link[1]} (`{link[2]}`)", markdown)


def describe_command_line() -> str:
    """The help of every verb, as Markdown."""
    parts = ["# Command line", "", "What `histocast VERB --help` prints, for every verb."]
    for heading, verbs in cli.GROUPS.items():
        parts += ["", f"## {heading}"]
        for verb in verbs:
            text = cli.make_parser(verb, cli.find_stage(verb)).format_help().rstrip()
            parts += ["", f"### {verb}", "", "```text", text, "```"]
    return "\n".join(parts)
