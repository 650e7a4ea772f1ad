"""Read a page back: balanced tags, resources, images and text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "img", "br", "input"}


class Page(HTMLParser):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.resources: list[str] = []
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.tags: set[str] = set()
        self.words: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert not self.open, f"unclosed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.tags.add(tag)
        if "src" in known:
            self.resources.append(known["src"] or "")
        if "href" in known:
            self.links.append(known["href"] or "")
        if tag == "img":
            self.images.append(known)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """``<rect/>``: opened and closed at once."""
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"closed without being opened: {tag}"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        """What a reader sees; the narrow spaces between numbers and units stay."""
        return re.sub("[ \n]+", " ", " ".join(self.words))
