"""Find tissue on a thumbnail and measure its quality."""

from histocast.tissue.find import TissueMap, find_tissue

__all__ = ["TissueMap", "find_tissue"]
