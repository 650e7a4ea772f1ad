"""Tiles to features: pixels decoded once, through every encoder of the bundle."""

from histocast.encode.encode import encode_tiles

__all__ = ["encode_tiles"]
