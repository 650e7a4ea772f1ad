"""Perceptually uniform colours for maps, and the bars that explain them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Palette = Literal["viridis", "cividis"]

FLAT_SHARE = 0.1

_OPENCV_MAPS = {"viridis": cv2.COLORMAP_VIRIDIS, "cividis": cv2.COLORMAP_CIVIDIS}


def colour_table(palette: Palette) -> NDArray[np.uint8]:
    """The 256 colours of a palette from low to high, RGB [level, 3]."""
    ramp = np.arange(256, dtype=np.uint8)[:, None]
    return np.ascontiguousarray(cv2.applyColorMap(ramp, _OPENCV_MAPS[palette])[:, 0, ::-1])


@dataclass(frozen=True)
class ColourScale:
    """Numbers to colours; values beyond the ends take the end's colour."""

    low: float
    high: float
    palette: Palette = "viridis"

    @classmethod
    def over(cls, values: NDArray[np.floating], *, palette: Palette = "viridis") -> ColourScale:
        """From the 1st to the 99th percentile of the finite values, so that one odd spot does not flatten a map."""
        finite = np.asarray(values)[np.isfinite(values)]
        if not finite.size:
            return cls(0.0, 1.0, palette)
        low, high = (float(end) for end in np.percentile(finite, [1, 99]))
        if high - low < 1e-6:
            low, high = low - 0.5, high + 0.5
        return cls(low, high, palette)

    @classmethod
    def from_zero(cls, values: NDArray[np.floating], *, palette: Palette = "viridis") -> ColourScale:
        """From 0 to the 99th percentile of the finite values, or to the largest where nearly all are 0."""
        finite = np.asarray(values)[np.isfinite(values)]
        high = float(np.percentile(finite, 99)) if finite.size else 0.0
        return cls(0.0, high or float(finite.max(initial=0.0)) or 1.0, palette)

    def colours(self, values: NDArray[np.floating]) -> NDArray[np.uint8]:
        """RGB [..., 3] of finite values."""
        position = (np.nan_to_num(values) - self.low) / (self.high - self.low)
        level = np.clip(position * 255 + 0.5, 0, 255).astype(np.uint8)
        return np.asarray(colour_table(self.palette)[level], np.uint8)

    def ticks(self, count: int = 5) -> list[tuple[float, str]]:
        """About ``count`` round values within the scale: (position in percent, label)."""
        step = round_step((self.high - self.low) / count)
        digits = max(0, -math.floor(math.log10(step)))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        span = self.high - self.low
        values = [number * step for number in range(first, last + 1)]
        return [(100 * (value - self.low) / span, f"{value:.{digits}f}".replace("-", "\u2212")) for value in values]


def is_flat(values: NDArray[np.floating]) -> bool:
    """Whether numbers of at least 0 vary by less than a tenth, so that a map of them would show noise."""
    finite = np.asarray(values)[np.isfinite(values)]
    if not finite.size or finite.min() == finite.max():
        return True
    low, high = np.percentile(finite, [1, 99])
    return bool(high - low < FLAT_SHARE * high)


def round_step(about: float) -> float:
    """The 1, 2 or 5 times a power of ten that is at least ``about``."""
    power = 10.0 ** math.floor(math.log10(about))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= about * (1 - 1e-9))
