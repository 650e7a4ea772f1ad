"""Code, pages and messages use the words of docs/glossary.md, and say "one row per spot"."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

TEXTS = (".py", ".md", ".nf", ".config", ".js", ".html", ".sh", ".yml", ".toml")

# What was said once, and what is said for it.
REPLACED = {
    r"forecast\w*": "predict",
    r"warden\w*": "supervisor",
    r"from afar|handed on": "remote; carried over",
    r"let go of": "release",
    r"piles?": "vertical run",
    r"affordable\w*": "coalesce gap",
    r"mangled": "spreadsheet damage",
    r"genes ask|asked genes|AskedGenes": "genes prepare, selected genes",
    r"as_they_are": "unstandardised",
    r"give it often": "may be repeated",
    r"[Jj]udg\w*": "validate an input, score a model",
    r"mend(s|ed|ing)?": "fix",
}

COUNTED = "|".join(
    [
        "spot",
        "slide",
        "tile",
        "gene",
        "line",
        "sample",
        "section",
        "row",
        "fold",
        "task",
        "model",
        "patient",
        "level",
        "batch",
        "run",
        "module",
        "channel",
        "region",
    ]
)
PER = re.compile(
    rf"\b(a|an|one|each) (?!(?:that|which|where|with|as|for|of|by|to|in|on)\b)[a-z]+ an? ({COUNTED})\b(?! (time|on|in|at|to|is)\b)",
    re.IGNORECASE,
)
# "Give a task a GPU", "call a gene one": a verb before it.
GIVING = re.compile(r"\b(giv|call|name|lend|cost|ask|show|make|mak|tell|spar)\w* an? [a-z]+ an? ", re.IGNORECASE)


def list_texts(root: Path) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=root, capture_output=True, text=True, check=True
    )
    paths = [root / name for name in listed.stdout.splitlines()]
    return [path for path in paths if path.suffix in TEXTS and path != Path(__file__) and path.is_file()]


@pytest.mark.parametrize("word", REPLACED)
def test_a_replaced_word_does_not_come_back(root: Path, word: str) -> None:
    pattern = re.compile(rf"(?<![\w.-])({word})(?![\w])")
    found = [
        f"{path.relative_to(root)}:{number}: {line.strip()[:100]}"
        for path in list_texts(root)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if pattern.search(line)
    ]
    assert not found, f"say {REPLACED[word]}:\n" + "\n".join(found)


def test_one_row_per_spot(root: Path) -> None:
    found = [
        f"{path.relative_to(root)}:{number}: {line.strip()[:100]}"
        for path in list_texts(root)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if PER.search(line) and not GIVING.search(line)
    ]
    assert not found, "say 'one row per spot':\n" + "\n".join(found)
