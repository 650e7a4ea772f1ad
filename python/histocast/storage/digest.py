"""Tell one object from another without reading it whole."""

from __future__ import annotations

import hashlib

from histocast.storage.source import Source

DIGEST_WINDOW_BYTES = 64 * 1024


def sampled_digest(source: Source) -> str:
    """Return ``sampled-sha256:`` over an object's size and its first, middle and last 64 KiB.

    It tells one slide from another and is the same from disk and from S3, at the price of 192 KiB read; it
    does not prove that no byte between was changed.
    """
    size_bytes = source.stat().size_bytes
    middle = max(0, size_bytes // 2 - DIGEST_WINDOW_BYTES // 2)
    last = max(0, size_bytes - DIGEST_WINDOW_BYTES)
    pieces = source.read_ranges({index: (start, DIGEST_WINDOW_BYTES) for index, start in enumerate((0, middle, last))})
    digest = hashlib.sha256(size_bytes.to_bytes(8, "big"))
    for index in range(3):
        digest.update(pieces[index])
    return f"sampled-sha256:{digest.hexdigest()}"
