"""Resolve gene symbols, describe genes, embed the descriptions.

Three steps that meet through files: `resolve` names genes once and for all by their ids, `describe` writes a text
about each from sources held to those ids, `embed` turns the texts into vectors. Only this package speaks to NCBI
and to language models; prediction needs none of it.
"""

from __future__ import annotations
