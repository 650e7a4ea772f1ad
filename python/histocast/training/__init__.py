"""Recipes, training sets, and how a method is fitted on one fold."""
