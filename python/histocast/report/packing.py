"""Numbers and tables as a page carries them: rounded to the precision they are shown at, compressed, and text.

A packed column holds integers. A number is ``(code - 1 + least) / 10 ** digits``, rounded half to even as Python prints
it, so that a page shows the digits that the file itself would print; code 0 is a missing number. Codes, or the zigzag of
their differences where these are smaller, lie in planes of one byte each, lowest first, under zlib and base64.
``scripts/payload.js`` unpacks them.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

FINE_STEPS, COARSE_STEPS = 64, 11
"""Least number of printed steps between a column's 1st and 99th percentile; the decimal above gives up to ten times as many."""

MOST_DIGITS = 6
_MOST_CODES = 2**31


def choose_digits(values: NDArray[np.floating], *, steps: int = FINE_STEPS) -> int:
    """The fewest decimals that give at least ``steps`` steps from the 1st to the 99th percentile; 2 where nothing varies."""
    finite = values[np.isfinite(values)].astype(np.float64)
    if not finite.size:
        return 2
    low, high = np.percentile(finite, [1, 99])
    if high - low < steps * 10.0**-MOST_DIGITS:
        return MOST_DIGITS if high > low else 2
    digits = math.ceil(math.log10(steps / (high - low)) - 1e-9)
    # Far outliers must not overflow the codes.
    return min(digits, math.floor(math.log10(_MOST_CODES / max(float(np.abs(finite).max()), 1e-9))))


def pack_column(values: NDArray[np.generic], *, digits: int) -> dict[str, Any]:
    """One number per spot, to ``digits`` decimals; what is not finite is missing."""
    numbers = np.asarray(values, np.float64)
    present = np.isfinite(numbers)
    rounded = np.rint(numbers[present] * 10.0**digits).astype(np.int64)
    least = int(rounded.min()) if rounded.size else 0
    codes = np.zeros(len(numbers), np.int64)
    codes[present] = rounded - least + 1
    differences = np.diff(codes, prepend=0)
    zigzag = np.where(differences < 0, -2 * differences - 1, 2 * differences)
    (width, packed), (delta_width, delta_packed) = _pack_codes(codes), _pack_codes(zigzag)
    delta = len(delta_packed) < len(packed)
    return {
        "digits": digits,
        "least": least,
        "bytes": delta_width if delta else width,
        "delta": delta,
        "data": _text(delta_packed if delta else packed),
    }


def pack_json(content: Any) -> str:
    """Anything that JSON can say; no number may be NaN."""
    said = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _text(zlib.compress(said.encode(), 9))


def _pack_codes(codes: NDArray[np.int64]) -> tuple[int, bytes]:
    width = max((int(codes.max(initial=0)).bit_length() + 7) // 8, 1)
    planes = codes.astype("<u8").view(np.uint8).reshape(-1, 8).T[:width]
    return width, zlib.compress(planes.tobytes(), 6)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
