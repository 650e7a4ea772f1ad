"""Resolve gene symbols, describe genes, embed the descriptions."""
