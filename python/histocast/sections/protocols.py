"""Names of the protocols by which labels are made (`histocast.sections.labels`)."""

from __future__ import annotations

from typing import Literal, get_args

Protocol = Literal["strict", "paper", "residual"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
