"""A folder of `export-encoder`: one graph, and everything that decides what it computes.

encoder.json             the record below
README.md                the same for a reader, with the licence
encoders/<name>.onnx     the graph, and <name>.onnx.data where its weights are more than one file can hold
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from histocast.artifacts import write_atomically, write_json, write_text
from histocast.bundle import EncoderSpec, Spec, TileGeometry, sha256_of_file
from histocast.encoders.encoder_cards import EncoderCard
from histocast.errors import ConfigError, MissingInputError
from histocast.records import first_fault

ENCODER_FILE = "encoder.json"


class ExportedEncoder(Spec):
    """``encoder.json``."""

    schema_version: Literal[1] = 1
    created_by: str
    """Version of histocast that exported it."""
    encoder: EncoderSpec
    um_per_px: float
    """Resolution of the tiles it was exported for."""
    card: EncoderCard
    precision: Literal["fp32", "fp16"]
    weights_sha256: str
    """Of the weights file it was made from."""
    difference: float
    """Largest difference of the graph from torch in float32 on test tiles, relative to 1 + the value's size."""

    @property
    def tile_px(self) -> int:
        """Side of the tiles it takes."""
        return int(self.encoder.inputs[0].shape[1])


def write_exported(folder: Path, record: ExportedEncoder) -> None:
    """Write the record and its README beside the graph."""
    write_text(folder / "README.md", _readme(record))
    write_json(folder / ENCODER_FILE, record)


def _readme(record: ExportedEncoder) -> str:
    card, spec = record.card, record.encoder
    seen_um_per_px = record.tile_px * record.um_per_px / card.input_px
    outputs = ", ".join(f"`{output.name}` {list(output.shape)}" for output in spec.outputs)
    lines = [
        f"# {card.title} as an ONNX encoder",
        "",
        f"**Licence of the weights: {card.licence}.** From {card.source}"
        + (", by your own access; do not pass this folder on to those who have none." if card.gated else "."),
        f"{card.reference}.",
        "",
        f"Input `tiles` uint8 [tile, {record.tile_px}, {record.tile_px}, 3], RGB at {record.um_per_px:g} um/px.",
        f"Outputs: {outputs}, float32. Resizing to {card.input_px} px and normalisation are inside.",
        f"The network sees {seen_um_per_px:g} um/px; its authors extract at {card.um_per_px:g}.",
        "",
        f"Pooling: {card.pooling}. Precision: {record.precision}, within {record.difference:.1e} of torch in float32.",
        f"Weights: sha256 `{record.weights_sha256}`.",
    ]
    return "\n".join(lines) + "\n"


def read_exported(folder: Path) -> ExportedEncoder:
    """Read ``encoder.json``.

    Raises `MissingInputError`: the folder holds none; `ConfigError`: it is not one of this schema.
    """
    path = folder / ENCODER_FILE
    try:
        return ExportedEncoder.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingInputError(
            f"no {ENCODER_FILE}", expected="a folder of 'export-encoder'", where=str(folder)
        ) from error
    except ValidationError as error:
        raise ConfigError(first_fault(error), expected="schema version 1", where=str(path)) from error


def take_exported(folder: Path, *, name: str, geometry: TileGeometry, outdir: Path) -> EncoderSpec:
    """Put an exported encoder into a bundle's folder, by a hard link where the disk allows one.

    ``name``: the encoder that is expected there.
    ``geometry``: the tiles it will get.
    Raises `MissingInputError`: the folder, or a file of it, is absent; `ConfigError`: it is another encoder, takes
    other tiles, or a file was changed.
    """
    record = read_exported(folder)
    spec = record.encoder
    where = str(folder)
    if spec.name != name:
        raise ConfigError(f"encoder {spec.name!r}", expected=repr(name), where=where)
    if (record.tile_px, record.um_per_px) != (geometry.tile_px, geometry.um_per_px):
        raise ConfigError(
            f"an encoder of tiles of {record.tile_px} px at {record.um_per_px:g} um/px",
            expected=f"{geometry.tile_px} px at {geometry.um_per_px:g} um/px, as the recipe says",
            where=where,
            advice=f"export it again with --tile-px {geometry.tile_px} --um-per-px {geometry.um_per_px:g}",
        )
    for file, expected in spec.files().items():
        source, target = folder / file, outdir / file
        digest = sha256_of_file(source) if source.is_file() else None
        if digest is None:
            raise MissingInputError(f"{file} is absent", where=where, advice="export the encoder again")
        if digest != expected:
            raise ConfigError(f"{file} has sha256 {digest}", expected=expected, where=where, advice="export it again")
        _link_or_copy(source, target)
    return spec


def _link_or_copy(source: Path, target: Path) -> None:
    """Gigabytes of weights need not lie on one disk once a section."""
    if target.exists() and target.samefile(source):
        return
    with write_atomically(target) as temporary:
        try:
            os.link(source.resolve(), temporary)
        except OSError:
            shutil.copyfile(source, temporary)
