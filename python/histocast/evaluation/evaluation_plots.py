"""The pictures of the evaluation page, drawn with matplotlib and put into the page as SVG or PNG."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MODEL_COLOUR, CONTROL_COLOUR = "#146e64", "#a9b2bb"

PX_PER_INCH = 96


class Picture(NamedTuple):
    """A picture for an ``img`` element."""

    uri: str
    width: int
    height: int
    alt: str


class Bar(NamedTuple):
    """A subject of the bar chart."""

    name: str
    mean: float
    low: float | None
    high: float | None
    is_control: bool


@dataclass(frozen=True)
class Example:
    """Some genes of a held-out section, measured and predicted by one model."""

    method: str
    protocol: str
    sample: str
    symbols: tuple[str, ...]
    centres_level0_px: NDArray[np.float64]
    """[spot, 2] (x, y)."""
    truth: NDArray[np.float64]
    """[spot, gene]."""
    predicted: NDArray[np.float64]
    """[spot, gene]."""


def draw_bars(bars: Sequence[Bar]) -> Picture:
    """Mean Pearson of models and controls, with intervals where they are known."""
    figure = _figure(8.4, 0.6 + 0.28 * len(bars))
    axes = figure.subplots()
    for place, bar in enumerate(reversed(bars)):
        axes.barh(place, bar.mean, color=CONTROL_COLOUR if bar.is_control else MODEL_COLOUR, height=0.7)
        if bar.low is not None and bar.high is not None:
            axes.plot([bar.low, bar.high], [place, place], color="#18212b", linewidth=1.2)
        axes.text(max(bar.high or bar.mean, bar.mean, 0) + 0.006, place, f"{bar.mean:.3f}", va="center", fontsize=9)
    axes.set_yticks(range(len(bars)), [bar.name for bar in reversed(bars)])
    axes.set_xlabel("Pearson")
    axes.margins(x=0.12, y=0.01)
    _plain(axes)
    best = max(bars, key=lambda bar: bar.mean)
    return _svg(figure, alt=f"Bars of mean Pearson; the longest is {best.name} with {best.mean:.3f}")


def draw_genes(model: NDArray[np.float64], control: NDArray[np.float64], *, names: tuple[str, str]) -> Picture:
    """One dot per gene: Pearson of a model, both [gene], over that of a control."""
    figure = _figure(4.6, 4.4)
    axes = figure.subplots()
    low, high = min(np.nanmin(model), np.nanmin(control), 0) - 0.03, max(np.nanmax(model), np.nanmax(control)) + 0.03
    axes.plot([low, high], [low, high], color=CONTROL_COLOUR, linewidth=1)
    axes.scatter(control, model, s=9, color=MODEL_COLOUR, alpha=0.6, linewidths=0)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal", xlabel=names[1], ylabel=names[0])
    _plain(axes)
    return _svg(figure, alt=f"One dot per gene, Pearson of {names[0]} over {names[1]}")


def draw_example(example: Example, gene: int) -> Picture:
    """Measured map, predicted map and one over the other, of one gene. Each map has its own colours."""
    truth, predicted = example.truth[:, gene], example.predicted[:, gene]
    figure = _figure(9.6, 3.1)
    maps = figure.subplots(1, 3, width_ratios=(1.15, 1.15, 1))
    for axes, values, title in zip(maps, (truth, predicted), ("measured", "predicted"), strict=False):
        spots = axes.scatter(*example.centres_level0_px.T, c=values, s=_spot_points(example), cmap="viridis")
        axes.set(aspect="equal", xticks=[], yticks=[], title=title)
        axes.invert_yaxis()
        figure.colorbar(spots, ax=axes, shrink=0.8)
        for side in axes.spines.values():
            side.set_visible(False)
    maps[2].scatter(truth, predicted, s=7, color=MODEL_COLOUR, alpha=0.5, linewidths=0)
    maps[2].set(xlabel="measured", ylabel="predicted")
    _plain(maps[2])
    alt = (
        f"{example.symbols[gene]} in section {example.sample}: measured map, predicted map, and both against each other"
    )
    # Thousands of spots are smaller as pixels than as circles.
    return _png(figure, alt=alt)


def _spot_points(example: Example) -> float:
    """Area of a marker, in points squared, so that neighbouring spots nearly touch."""
    spread = np.ptp(example.centres_level0_px, axis=0)
    side_points = 150 / max(1.0, float(np.sqrt(len(example.centres_level0_px) * spread.max() / max(spread.min(), 1))))
    return float(np.clip(side_points**2, 1, 90))


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure as Made

    return Made(figsize=(width, height), layout="constrained")


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)


def _svg(figure: Figure, *, alt: str) -> Picture:
    from matplotlib import rc_context

    stream = io.BytesIO()
    # The same figures give the same bytes.
    with rc_context({"svg.hashsalt": "histocast", "svg.fonttype": "none"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return _picture(figure, stream.getvalue(), kind="svg+xml", alt=alt)


def _png(figure: Figure, *, alt: str) -> Picture:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=1.5 * PX_PER_INCH, metadata={"Software": None})
    return _picture(figure, stream.getvalue(), kind="png", alt=alt)


def _picture(figure: Figure, content: bytes, *, kind: str, alt: str) -> Picture:
    width, height = (round(side * PX_PER_INCH) for side in figure.get_size_inches())
    return Picture(f"data:image/{kind};base64,{base64.b64encode(content).decode()}", width, height, alt)
