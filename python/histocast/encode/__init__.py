"""Tiles to features: pixels decoded once, through every encoder of the bundle."""

from histocast.encode.encode import encode_tiles
from histocast.encode.pixels import keep_pixels

__all__ = ["encode_tiles", "keep_pixels"]
