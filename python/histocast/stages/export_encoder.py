"""The verb `export-encoder`: a foundation encoder with one's own weights, as an ONNX graph."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from histocast.stages.stage import Outdir, Stage


class ExportEncoder(Stage):
    """Export a foundation encoder with your own weights.

    Writes encoders/ (ONNX, compared with torch) and encoder.json.
    """

    name: str
    """The encoder: uni, uni2-h, conch, virchow2 ... (docs/training.md)."""
    weights: Path
    """Its weights as published: .safetensors, .bin, .pt or .pth."""
    tile_px: int | None = Field(default=None, ge=1)
    """Side of the tiles it will get; default: the network's own."""
    um_per_px: float | None = None
    """Their resolution; default: the one it is published for."""
    tokens: int = Field(default=0, ge=0)
    """Tokens per side to give besides the embedding; 0 for none."""
    precision: Literal["fp32", "fp16"] = "fp32"
    """fp16 is half as large, and made for GPUs."""
    outdir: Outdir

    def run(self) -> None:
        """Do the work. Raises as `histocast.encoders.foundation_export.export_foundation` does."""
        from histocast.encoders.encoder_cards import find_card
        from histocast.units import check_um_per_px

        # Quick refusals come before torch is imported.
        card = find_card(self.name)
        if self.um_per_px is not None:
            check_um_per_px(self.um_per_px, where="--um-per-px")
        from histocast.encoders.foundation_export import export_foundation

        export_foundation(
            card,
            weights=self.weights,
            outdir=self.outdir,
            tile_px=self.tile_px,
            um_per_px=self.um_per_px,
            tokens_side=self.tokens,
            precision=self.precision,
        )
