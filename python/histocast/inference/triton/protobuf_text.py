"""Protobuf's text format, as far as a model's configuration needs it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


class Word(str):
    """A name of an enumeration, which stands without quotes."""

    __slots__ = ()


def write_lines(message: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """A message in protobuf's text format, line by line."""
    for key, value in message.items():
        for item in value if isinstance(value, list) and key not in ("dims", "versions") else [value]:
            if isinstance(item, Mapping):
                yield f"{indent}{key} {{"
                yield from write_lines(item, indent + "  ")
                yield f"{indent}}}"
            else:
                yield f"{indent}{key}: {_scalar(item)}"


def _scalar(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and not isinstance(value, Word):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)
