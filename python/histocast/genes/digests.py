"""Digests by which a gene's row, its text and its embedding are known again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from histocast.bundle import sha256_of_file


def digest_of(value: object) -> str:
    """sha256 over a value's JSON, with sorted keys: the same for the same content, on every machine."""
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return digest_of_text(canonical)


def digest_of_text(text: str) -> str:
    """sha256 over a text's UTF-8 bytes."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def digest_of_file(path: Path) -> str:
    """sha256 over a file's bytes."""
    return f"sha256:{sha256_of_file(path)}"
