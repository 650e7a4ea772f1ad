"""Is a bundle what it says it is? Asked once, before the first slide."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa

from histocast.artifacts import GENES, open_parquet
from histocast.bundle import Bundle, GraphSpec, read_bundle, verify_files
from histocast.errors import ConfigError, DataError
from histocast.fusion.panel import GENES_PER_CALL
from histocast.inference.graph_files import graph_path
from histocast.inference.graph_memory import least_call_bytes
from histocast.inference.onnx_predictor import PIECE_TILES, check_contract, open_session
from histocast.inference.predictor import graphs_of

EXPRESSION_OUTPUTS = ("expression", "sd")

MAX_CALL_BYTES = 4 << 30
"""Of tensors that enter and leave a graph at once: a region of 1,024 spots with 20,000 genes takes 0.2 GiB."""

MAX_WITHIN_BYTES = 64 << 30
"""Of tensors that a graph makes and holds at once: DKAN at its published size takes 12.7 GiB for 1,024 spots and 250 genes."""


def verify_bundle(folder: Path) -> Bundle:
    """Read a bundle and hold everything it ships to what it states.

    Digests first, then the inputs, outputs and memory of every graph in the folder, then the panel. Graphs are loaded
    without being optimised, and none is run.

    ``folder``: the bundle's folder.
    Returns: what its ``bundle.json`` says.
    Raises `MissingInputError`: the folder holds no ``bundle.json``, or a file it names is absent; `ConfigError`: a file
    lies outside or has another digest, an encoder takes tiles of another size, a call takes too much memory, a graph
    another contract, or the panel another length or a gene twice.
    """
    bundle = read_bundle(folder)
    verify_files(folder, bundle)
    verify_names(bundle)
    verify_tiles(bundle)
    for name, graph in graphs_of(bundle).items():
        verify_memory(bundle, f"graph {name!r} takes and gives", of_tensors(bundle, graph), most=MAX_CALL_BYTES)
    for name, graph in graphs_of(bundle).items():
        if graph.file is None and not (folder / f"encoders/{name}.onnx").is_file():
            # A server has it, and says so itself; in process the predict stage asks for it.
            continue
        path = graph_path(folder, name, graph)
        made = least_call_bytes(path, longest_axes(bundle))
        verify_memory(bundle, f"graph {name!r} makes within itself", made, most=MAX_WITHIN_BYTES)
        session = open_session(path, threads=1, optimise=False)
        check_contract(session, graph, where=f"bundle {bundle.name}, graph {name!r}")
    verify_genes(folder / "genes.parquet", bundle)
    return bundle


def verify_names(bundle: Bundle) -> None:
    """Refuse two graphs of one name: columns and calls are told apart by it.

    Raises `ConfigError`: two encoders share a name, or one is called as the fusion graph is.
    """
    names = [encoder.name for encoder in bundle.encoders]
    if len(graphs_of(bundle)) != len(names) + 1:
        raise ConfigError(
            f"encoders {names}", expected="names that differ, and none 'fusion'", where=f"bundle {bundle.name}"
        )


def verify_tiles(bundle: Bundle) -> None:
    """Compare the input of each encoder with the size of a tile; check_contract holds its graph to that input.

    Raises `ConfigError`: an encoder takes other than RGB tiles of the bundle's size.
    """
    side = bundle.geometry.tile_px
    for encoder in bundle.encoders:
        shapes = [list(tensor.shape) for tensor in encoder.inputs if tensor.name == "tiles" and tensor.dtype == "uint8"]
        expected = ["tile", side, side, 3]
        if len(encoder.inputs) != 1 or shapes != [expected]:
            found = ", ".join(f"{tensor.name} {tensor.dtype} {list(tensor.shape)}" for tensor in encoder.inputs)
            raise ConfigError(
                f"input {found or 'of nothing'}",
                expected=f"tiles uint8 {expected}, as geometry.tile_px",
                where=f"bundle {bundle.name}, encoder {encoder.name!r}",
                advice="export the encoder for tiles of that size",
            )


def longest_axes(bundle: Bundle) -> dict[str, int]:
    """The most that named axes hold in one call on CPUs."""
    return {"tile": PIECE_TILES, "spot": bundle.fusion.region_spots, "gene": min(bundle.gene_count, GENES_PER_CALL)}


def of_tensors(bundle: Bundle, graph: GraphSpec) -> int:
    """Bytes of the tensors that enter and leave a graph in one call."""
    longest = longest_axes(bundle)
    return sum(
        math.prod(axis if isinstance(axis, int) else longest.get(axis, 1) for axis in tensor.shape)
        * np.dtype(tensor.dtype).itemsize
        for tensor in (*graph.inputs, *graph.outputs)
    )


def verify_memory(bundle: Bundle, does: str, found_bytes: int, *, most: int) -> None:
    """Bound the memory of one call of a graph, which a task has to have.

    Raises `ConfigError`: it is more.
    """
    if found_bytes > most:
        raise ConfigError(
            f"{does} {found_bytes / 2**30:.3g} GiB in one call",
            expected=f"at most {most / 2**30:g} GiB",
            where=f"bundle {bundle.name}",
            advice="export the bundle with smaller regions, fewer genes or shorter features",
        )


def verify_genes(path: Path, bundle: Bundle) -> None:
    """Compare the panel with the bundle's gene count and the gene axis of its fusion graph.

    Raises `ConfigError`: ``genes.parquet`` is no panel, has another length, or holds a gene twice; or the graph
    predicts another number of genes.
    """
    where = f"bundle {bundle.name}, genes.parquet"
    try:
        file, _ = open_parquet(path, GENES)
    except DataError as error:
        raise ConfigError(
            error.found, expected=error.expected, where=where, advice="export the bundle again"
        ) from error
    with file:
        genes: pa.Table = file.read(columns=["gene_id"])
    if genes.num_rows != bundle.gene_count:
        raise ConfigError(
            f"{genes.num_rows} genes", expected=f"{bundle.gene_count}, as bundle.json states", where=where
        )
    times = Counter(genes.column("gene_id").to_pylist())
    if repeated := [gene for gene, count in times.items() if count > 1]:
        raise ConfigError(f"gene ids that stand twice: {', '.join(repeated[:5])}", expected="each once", where=where)
    for output in bundle.fusion.outputs:
        axis = output.shape[-1]
        if output.name in EXPRESSION_OUTPUTS and isinstance(axis, int) and axis != bundle.gene_count:
            raise ConfigError(
                f"{output.name!r} of the fusion graph has {axis} genes",
                expected=f"{bundle.gene_count}, as genes.parquet",
                where=f"bundle {bundle.name}",
            )
