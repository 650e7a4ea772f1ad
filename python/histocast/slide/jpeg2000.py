"""What a JPEG 2000 codestream claims, read before a decoder believes it.

A damaged header can make a decoder reserve tens of gigabytes: sizes, tile counts, precincts and layers are
therefore compared with what a slide's block can need. Source: ISO/IEC 15444-1, annex A.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from histocast.slide.reader import UnreadableBlock
from histocast.storage import Bytes

# A 256-px block has five decompositions, one layer and one tile; these bounds are generous and still keep
# what a decoder reserves within a few times the block's pixels.
_MAX_TILES = 256
_MAX_DECOMPOSITIONS = 12
_MAX_LAYERS = 256
_MIN_PRECINCT_EXPONENT = 4


@dataclass(frozen=True)
class Codestream:
    """Size and components of a codestream."""

    width_px: int
    height_px: int
    components: int
    bits: int
    subsampled: bool
    """Whether a component has fewer samples than pixels."""


def read_codestream(data: Bytes) -> Codestream:
    """Return what the main header claims.

    Raises `UnreadableBlock`: it is no codestream, or claims more than any block of a slide needs.
    """
    if data[:4] != b"\xff\x4f\xff\x51":
        raise UnreadableBlock("no JPEG 2000 codestream")
    try:
        return _read_main_header(data[:4096])
    except struct.error as error:
        raise UnreadableBlock("the JPEG 2000 header is incomplete") from error


def _read_main_header(data: Bytes) -> Codestream:
    right, bottom, left, top, tile_width, tile_height, tile_left, tile_top, components = struct.unpack(
        ">8IH", data[8 : 8 + 34]
    )
    if not (right > left and bottom > top and tile_width and tile_height and tile_left <= left and tile_top <= top):
        raise UnreadableBlock("the JPEG 2000 header states an impossible size")
    tiles = -(-(right - tile_left) // tile_width) * -(-(bottom - tile_top) // tile_height)
    if tiles > _MAX_TILES or not 1 <= components <= 4:
        raise UnreadableBlock(f"the JPEG 2000 header states {tiles} tiles and {components} components")
    specs = [struct.unpack(">3B", data[42 + 3 * index : 45 + 3 * index]) for index in range(components)]
    _check_coding_style(data, 4 + struct.unpack(">H", data[4:6])[0])
    return Codestream(
        width_px=right - left,
        height_px=bottom - top,
        components=components,
        bits=max(spec[0] + 1 for spec in specs),
        subsampled=any(spec[1:] != (1, 1) for spec in specs),
    )


def _check_coding_style(data: Bytes, position: int) -> None:
    while True:
        marker, length = struct.unpack(">2H", data[position : position + 4])
        if marker == 0xFF90:  # start of the first tile part
            return
        if marker in (0xFF52, 0xFF53):
            _check_coding_segment(marker, data[position + 4 : position + 2 + length])
        if length < 2:
            raise UnreadableBlock("the JPEG 2000 header is damaged")
        position += 2 + length


def _check_coding_segment(marker: int, segment: Bytes) -> None:
    # COD: Scod, progression, layers, transform, then the SPcod fields; COC: component, Scoc, then the same.
    if marker == 0xFF52:
        style, _, layers, _ = struct.unpack(">BBHB", segment[:5])
        fields = segment[5:]
        if not 1 <= layers <= _MAX_LAYERS:
            raise UnreadableBlock(f"the JPEG 2000 header states {layers} layers")
    else:
        style, fields = segment[1], segment[2:]
    decompositions, block_width, block_height = struct.unpack(">3B", fields[:3])
    if decompositions > _MAX_DECOMPOSITIONS or block_width > 8 or block_height > 8 or block_width + block_height > 8:
        raise UnreadableBlock("the JPEG 2000 header states an impossible coding style")
    if style & 1:
        for precinct in fields[5 + 1 : 5 + 1 + decompositions]:
            if min(precinct & 15, precinct >> 4) < _MIN_PRECINCT_EXPONENT:
                raise UnreadableBlock("the JPEG 2000 header states tiny precincts")
