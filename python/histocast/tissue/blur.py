"""How sharp tissue is, judged on the thumbnail's scale: 0 sharp to 1 blurred."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from histocast.tissue.absorbance import channel_mean, smooth

# Share of fine detail at 4 um/px, measured on sections of two laboratories: 0.17 to 0.58 in focus, 0.05 to 0.12
# after an average over 4 um, below 0.03 after one over 8 um.
_SHARP_RATIO = 0.15
_BLURRED_RATIO = 0.03
# Contrast of residual compression noise, in absorbance: detail below it is no evidence of focus.
_NOISE = 0.004


def measure_blur(absorbance: NDArray[np.float32], um_per_px: float) -> NDArray[np.float32]:
    """Blur [row, column] from the share of fine detail in all detail of the mean absorbance [row, column, 3].

    Fine detail is what an average over one pixel removes, all detail what an average over four removes; each is
    squared and averaged over 100 um. A ratio does not depend on how strongly the section is stained. It sees
    defocus of several micrometres, tape and air bubbles, not the slight softness that shows at 40x only.
    """
    grey = channel_mean(absorbance)
    fine = grey - smooth(grey, 1.0)
    everything = grey - smooth(grey, 4.0)
    window_px = max(4.0, 50.0 / um_per_px)
    fine_energy = smooth(fine * fine, window_px)
    energy = smooth(everything * everything, window_px)
    ratio = np.maximum(fine_energy - _NOISE**2 / 4, 0) / (energy + _NOISE**2)
    blur = (_SHARP_RATIO - ratio) / (_SHARP_RATIO - _BLURRED_RATIO)
    return np.asarray(np.clip(blur, 0, 1), np.float32)
