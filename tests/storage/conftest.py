"""What the storage tests read."""

from __future__ import annotations

import numpy as np
import pytest

from faulty_proxy import bucket, proxy

__all__ = ["bucket", "proxy"]


@pytest.fixture(scope="session")
def content() -> bytes:
    """Twenty megabytes in which every position is told apart."""
    return np.random.default_rng(3).bytes(20_000_000)
