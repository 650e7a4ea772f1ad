"""The images an OME-XML block describes: sizes, channels, physical pixels, and which directories hold them.

Parsed as XML, by Python's expat, without declarations: a document that declares entities is refused before any of them is
expanded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from xml.parsers import expat

_MOST_ELEMENTS = 200_000
_BESIDES = ("label", "macro", "thumbnail", "overview", "barcode")


class NotOme(Exception):
    """The text is no OME-XML that can be parsed; the message says why."""


@dataclass
class OmeImage:
    """One image of the file."""

    name: str = ""
    size: dict[str, int] = field(default_factory=dict)
    """Pixels, planes, channels and times, by axis: X, Y, Z, C, T."""
    physical: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Stated size of a pixel and its unit, by axis: X, Y."""
    channels: list[str] = field(default_factory=list)
    """What each channel is called."""
    samples: list[int] = field(default_factory=list)
    """Samples per pixel of each channel."""
    planes: list[tuple[int, int, int]] = field(default_factory=list)
    """First directory, first channel, and number of planes of each run of directories."""
    files: set[str] = field(default_factory=set)
    """Identifiers of the files that hold its planes, where they are stated."""

    @property
    def area_px(self) -> int:
        """Pixels of one plane."""
        return self.size.get("X", 0) * self.size.get("Y", 0)

    @property
    def is_beside_the_slide(self) -> bool:
        """Whether it is called label, macro or the like."""
        return any(word in self.name.lower() for word in _BESIDES)

    def directories(self) -> list[int]:
        """Return the directory of each stated plane, channels in order; all from 0 on where none is stated."""
        count = max(1, len(self.channels))
        runs = self.planes or [(0, 0, count)]
        by_channel: dict[int, int] = {}
        for directory, channel, planes in runs:
            for offset in range(min(planes, count)):
                by_channel.setdefault(channel + offset, directory + offset)
        return [by_channel[channel] for channel in sorted(by_channel)]


def parse_ome(xml: str) -> list[OmeImage]:
    """Return the images in their order.

    Raises `NotOme`: it is not well-formed, declares entities or describes no image.
    """
    builder = _Builder()
    parser = expat.ParserCreate(encoding="utf-8", namespace_separator=" ")
    parser.StartElementHandler = builder.start
    parser.StartDoctypeDeclHandler = builder.refuse_declaration
    parser.EntityDeclHandler = builder.refuse_declaration
    try:
        parser.Parse(xml.encode("utf-8", errors="replace"), True)
    except (expat.ExpatError, ValueError) as error:
        raise NotOme(f"its OME-XML cannot be parsed ({type(error).__name__})") from error
    if not builder.images:
        raise NotOme("its OME-XML describes no image")
    return builder.images


class _Builder:
    def __init__(self) -> None:
        self.images: list[OmeImage] = []
        self._elements = 0

    def refuse_declaration(self, *_: object) -> None:
        raise NotOme("its OME-XML declares a document type or entities")

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._elements += 1
        if self._elements > _MOST_ELEMENTS:
            raise NotOme(f"its OME-XML has more than {_MOST_ELEMENTS} elements")
        name = tag.rpartition(" ")[2]
        if name == "Image":
            self.images.append(OmeImage(name=attributes.get("Name", "")))
        elif self.images:
            self._add(self.images[-1], name, attributes)

    def _add(self, image: OmeImage, name: str, attributes: dict[str, str]) -> None:
        if name == "Pixels":
            image.size = {axis: int(attributes[f"Size{axis}"]) for axis in "XYZCT" if f"Size{axis}" in attributes}
            for axis in "XY":
                if stated := attributes.get(f"PhysicalSize{axis}"):
                    image.physical[axis] = (stated, attributes.get(f"PhysicalSize{axis}Unit", "µm"))
        elif name == "Channel":
            image.channels.append(attributes.get("Name", ""))
            image.samples.append(int(attributes.get("SamplesPerPixel", "1")))
        elif name == "TiffData":
            directory, channel = int(attributes.get("IFD", "0")), int(attributes.get("FirstC", "0"))
            # Without a number of planes: one where a directory is stated, else all.
            count = int(attributes.get("PlaneCount", "1" if "IFD" in attributes else str(1 << 16)))
            image.planes.append((directory, channel, count))
        elif name == "UUID" and "FileName" in attributes:
            image.files.add(attributes["FileName"])
