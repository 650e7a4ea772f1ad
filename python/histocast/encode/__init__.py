"""Tiles to features: pixels decoded once, through every encoder of the bundle."""
