"""Fill templates: everything a page shows is escaped, and everything it needs is inside it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from histocast.artifacts import write_atomically
from histocast.report.colour_scale import round_step

TEMPLATES = Path(__file__).parent / "templates"
SCRIPTS = Path(__file__).parent / "scripts"

THIN_SPACE = "\u202f"
"""Narrow and unbreakable: between a number and its unit."""


def write_page(path: Path, template: str, **content: Any) -> None:
    """Render ``template`` to ``path``, atomically.

    Raises `OutputError`: the folder cannot be written, or the disk is full.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(template).render(**content)
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def count(number: int) -> str:
    """``1,204``."""
    return f"{number:,}"


def percent(share: float) -> str:
    """A share of 1 as a percentage: ``0.4 %``, ``12 %``; small ones never read as nothing."""
    value = 100 * share
    if value == 0 or value >= 10:
        return f"{value:.0f}{THIN_SPACE}%"
    if value < 0.1:
        return f"under 0.1{THIN_SPACE}%"
    return f"{value:.1f}{THIN_SPACE}%"


def plural(number: int, noun: str) -> str:
    """``1 tile``, ``1,204 tiles``."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def length(length_um: float) -> str:
    """``500 µm``, ``2 mm``."""
    return f"{length_um / 1000:g}{THIN_SPACE}mm" if length_um >= 1000 else f"{length_um:g}{THIN_SPACE}µm"


def scale_bar(width_px: int, um_per_px: float) -> dict[str, Any]:
    """A bar of a round length, about a fifth of the picture: its width in percent and its label."""
    width_um = width_px * um_per_px
    bar_um = round_step(width_um / 8)
    return {"percent": round(100 * bar_um / width_um, 2), "label": length(bar_um)}


def read_script(modules: Sequence[str]) -> str:
    """Modules of ``scripts/`` as one, given in the order in which they use each other.

    Their imports of each other are dropped, since an inline module cannot be imported.
    """
    text = "\n".join((SCRIPTS / f"{name}.js").read_text(encoding="utf-8") for name in modules)
    return re.sub(r"^export ", "", re.sub(r"^import .*\n", "", text, flags=re.MULTILINE), flags=re.MULTILINE)


def hash_source(script: str) -> str:
    """The source expression that allows this script and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def data_block(content: Any) -> str:
    """JSON for a data block of a page: without a character that markup knows."""
    said = json.dumps(content, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        said = said.replace(character, f"\\u{ord(character):04x}")
    return said
