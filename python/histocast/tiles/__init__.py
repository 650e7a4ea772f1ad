"""Lay a grid on tissue, or take measured spots."""

from histocast.tiles.spots import MeasuredSpots, read_spots
from histocast.tiles.tile import tile_slide

__all__ = ["MeasuredSpots", "read_spots", "tile_slide"]
