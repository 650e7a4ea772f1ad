"""What tests of cohorts share."""

from __future__ import annotations

import numpy as np
import pytest

from histocast.cohort import gather_cohort
from histocast.cohort.embed_slides import Embedding


@pytest.fixture
def without_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cohorts are gathered without a map of their slides, which takes most of the time."""
    nothing = Embedding(None, np.zeros(0, np.int64), np.zeros(0), None)
    monkeypatch.setattr(gather_cohort, "embed_slides", lambda *_, **__: nothing)
