"""What forms of platforms need of parameters besides their descriptions: file pickers, help, icons of groups."""

from __future__ import annotations

from typing import Literal, TypedDict


class Form(TypedDict, total=False):
    """Keys of nf-core's schema of parameters."""

    format: Literal["file-path", "directory-path", "path"]
    """What a file picker offers."""
    help_text: str
    schema: str
    """Of the rows of a table."""


FORMS: dict[str, Form] = {
    "input": {
        "format": "file-path",
        "schema": "assets/schema_input.json",
        "help_text": "Paths in it are relative to its folder. Columns of other names are metadata; those whose names suggest an "
        "identifier of a person are refused (docs/usage.md).",
    },
    "bundle": {
        "format": "directory-path",
        "help_text": "What a bundle is and how one is made: docs/output.md and docs/training.md.",
    },
    "genes": {
        "format": "file-path",
        "help_text": "Fewer genes give smaller files. Symbols, earlier symbols and Ensembl ids are found.",
    },
    "recipe": {"format": "file-path"},
    "gene_text": {"format": "file-path"},
    "unseen_genes": {"format": "file-path"},
    "encoder_weights": {"format": "path"},
    "checkpoints": {"format": "directory-path"},
    "signatures": {"format": "file-path"},
    "outdir": {
        "format": "directory-path",
        "help_text": "One run at a time writes to it. With -resume a later run computes only what changed.",
    },
    "node_cache": {"format": "directory-path"},
    "cohort": {
        "help_text": "It needs the image, or the extra, named cohort. It can be made later of what a run left: histocast cohort "
        "(docs/cohort.md)."
    },
    "formats": {
        "help_text": "QuPath imports GeoJSON onto the slide; Zarr is one zip file that anndata reads; SpatialData "
        "needs the image, or the extra, named cohort or spatialdata (docs/output.md)."
    },
}
"""By parameter."""

ICONS = {
    "run": "fas fa-play",
    "inputs": "fas fa-folder-open",
    "outputs": "fas fa-save",
    "decisions": "fas fa-sliders-h",
    "serving": "fas fa-microchip",
    "resources": "fas fa-server",
}
"""By group of parameters."""
