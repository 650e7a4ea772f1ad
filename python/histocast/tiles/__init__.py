"""Lay a grid on tissue, or take measured spots."""
