"""Draw ``docs/images/predict.svg`` and ``train.svg``: the processes of both workflows, and what flows between them.

Nextflow draws a diagram of its own, whose page loads a script from the network; these need none. That boxes and arrows are those
of ``main.nf`` is held by tests/pipeline/test_wiring.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

IMAGES = Path(__file__).resolve().parents[1] / "images"
WIDTH_PX, HEIGHT_PX, GAP_PX, ROW_PX = 158, 62, 34, 150

Places = Mapping[str, tuple[float, int, str]]
"""Process -> (column, row, what it writes)."""
Arrows = Iterable[tuple[str, str]]

PREDICT: Places = {
    "CHECK": (0, 0, "every row validated"),
    "TILE": (1, 0, "tissue and tiles"),
    "ENCODE": (2, 0, "features"),
    "PREDICT": (3, 0, "AnnData, Parquet"),
    "REPORT": (4, 0, "one page per slide"),
    "PROVENANCE": (1, 1, "RO-Crate"),
    "SUMMARISE": (2, 1, "outcome of every row"),
    "COHORT": (3.5, 1, "slides as one data set"),
    "CONCLUDE": (0, 1, "how the run ends"),
}
PREDICT_ARROWS = (
    *(("CHECK", name) for name in ("TILE", "ENCODE", "SUMMARISE", "PROVENANCE")),
    *(("TILE", name) for name in ("ENCODE", "PREDICT", "REPORT", "SUMMARISE")),
    *(("ENCODE", name) for name in ("PREDICT", "SUMMARISE")),
    *(("PREDICT", name) for name in ("REPORT", "SUMMARISE", "COHORT")),
    ("REPORT", "SUMMARISE"),
    *(("SUMMARISE", name) for name in ("COHORT", "PROVENANCE", "CONCLUDE")),
    ("PROVENANCE", "CONCLUDE"),
)
TRAIN: Places = {
    "PLAN": (0, 0, "every choice resolved"),
    "PREPARE_ENCODERS": (0.5, 1, "encoders as ONNX"),
    "PREPARE": (1, 0, "sections with features"),
    "TRAIN": (2, 0, "a model per fold"),
    "EVALUATE": (3, 0, "figures and controls"),
    "EXPORT": (4, 0, "a bundle per method"),
    "LINEAGE": (3, 1, "RO-Crate"),
}
TRAIN_ARROWS = (
    *(("PLAN", name) for name in ("PREPARE_ENCODERS", "PREPARE", "TRAIN", "LINEAGE")),
    *(("PREPARE_ENCODERS", name) for name in ("PREPARE", "EXPORT")),
    *(("PREPARE", name) for name in ("TRAIN", "EVALUATE", "LINEAGE")),
    *(("TRAIN", name) for name in ("EVALUATE", "EXPORT", "LINEAGE")),
    *(("EVALUATE", name) for name in ("EXPORT", "LINEAGE")),
    ("EXPORT", "LINEAGE"),
)
DRAWINGS = {"predict": (PREDICT, PREDICT_ARROWS), "train": (TRAIN, TRAIN_ARROWS)}

_HEAD = (
    '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0,0 L8,4 L0,8 z"/></marker>'
)
_STYLE = """
text { font: 12px sans-serif; text-anchor: middle; fill: #4a5560 } .name { font-weight: 600; font-size: 13px; fill: #14323c }
rect { fill: #eef6f5; stroke: #2a7f79 } path { fill: none; stroke: #7c8a94 } marker path { fill: #7c8a94; stroke: none }
@media (prefers-color-scheme: dark) { svg { background: #14181c } rect { fill: #1d2b30; stroke: #4fb3aa }
text { fill: #b8c4cc } .name { fill: #e6f2f1 } }"""


def draw(title: str, places: Places, arrows: Arrows) -> str:
    """An SVG that needs no other file."""
    columns, rows = (max(place[axis] for place in places.values()) + 1 for axis in (0, 1))
    width, height = round(columns * (WIDTH_PX + GAP_PX) + GAP_PX), (rows - 1) * ROW_PX + HEIGHT_PX + 120
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img" aria-label="{title}">',
        f"<title>{title}</title><style>{_STYLE}</style>",
        _HEAD,
        *(_arrow(one, other, places) for one, other in arrows),
        *(line for name in places for line in _box(name, places)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _corner(name: str, places: Places) -> tuple[float, float]:
    column, row, _ = places[name]
    return GAP_PX + column * (WIDTH_PX + GAP_PX), 60 + row * ROW_PX


def _box(name: str, places: Places) -> Iterator[str]:
    x, y = _corner(name, places)
    yield f'<rect x="{x:g}" y="{y:g}" width="{WIDTH_PX}" height="{HEIGHT_PX}" rx="7"/>'
    yield f'<text class="name" x="{x + WIDTH_PX / 2:g}" y="{y + 26:g}">{name}</text>'
    yield f'<text x="{x + WIDTH_PX / 2:g}" y="{y + 46:g}">{places[name][2]}</text>'


def _arrow(one: str, other: str, places: Places) -> str:
    """A line to the neighbour, an arc over the others of the row, a curve to another row."""
    (x1, y1), (x2, y2) = _corner(one, places), _corner(other, places)
    if y1 != y2:
        down = y2 > y1
        x1, x2 = x1 + WIDTH_PX / 2, x2 + WIDTH_PX / 2
        y1, y2 = (y1 + HEIGHT_PX, y2) if down else (y1, y2 + HEIGHT_PX)
        middle = (y1 + y2) / 2
        path = f"M{x1:g},{y1:g} C{x1:g},{middle:g} {x2:g},{middle:g} {x2:g},{y2:g}"
    elif abs(x2 - x1) <= 1.6 * (WIDTH_PX + GAP_PX):
        right = x2 > x1
        x1, x2 = (x1 + WIDTH_PX, x2) if right else (x1, x2 + WIDTH_PX)
        path = f"M{x1:g},{y1 + HEIGHT_PX / 2:g} L{x2:g},{y1 + HEIGHT_PX / 2:g}"
    else:
        # Above the first row, and below the last.
        above = places[one][1] == 0
        edge, bow = (y1, -58) if above else (y1 + HEIGHT_PX, 52)
        shift = 0.62 if x2 > x1 else 0.38
        x1, x2 = x1 + WIDTH_PX * shift, x2 + WIDTH_PX * (1 - shift)
        path = f"M{x1:g},{edge:g} C{x1 + (x2 - x1) / 5:g},{edge + bow:g} {x2 - (x2 - x1) / 5:g},{edge + bow:g} {x2:g},{edge:g}"
    return f'<path d="{path}" marker-end="url(#head)"/>'


def main() -> None:
    """Write both images."""
    for name, (places, arrows) in DRAWINGS.items():
        (IMAGES / f"{name}.svg").write_text(draw(f"Workflow {name}", places, arrows), encoding="utf-8")


if __name__ == "__main__":
    main()
