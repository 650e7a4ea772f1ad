"""Lay a grid on tissue, or take measured spots."""

from histocast.tiles.spots import MeasuredSpots, read_spots

__all__ = ["MeasuredSpots", "read_spots"]
