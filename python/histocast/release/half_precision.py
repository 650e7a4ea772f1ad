"""A fusion graph that computes in half precision, held to the one it was made of.

Inputs and outputs stay float32, so the contract is the same. Half precision has 11 significant bits: for values of
order one no two ways of computing agree better than some 1e-3 of them.
"""

from __future__ import annotations

from pathlib import Path

from histocast.artifacts import write_atomically
from histocast.networks.onnx_file import DRAWN_SIZES, drawn_inputs, largest_difference, open_graph

TOLERANCE = 5e-3
"""Largest difference to single precision, relative to 1 + the value's size. Measured on models of HER2ST: 3e-4 for DKAN,
5e-4 for DomainST, 1.5e-3 for ridge and 2e-3 for ST-Net's head, which is 4e-4 on features of the usual size. Methods that
choose neighbours by likeness (ALIGN-ST, BLEEP) choose others where two are nearly as alike: 6e-3 to 3e-2, refused."""

SPREADS = (1.0, 10.0)
"""Sizes of features, in sd: what they usually are, and what a stain far from the training slides makes of them. Half
precision ends at 65504, which squares reach first."""


def write_half_precision(source: Path, target: Path) -> float:
    """Write ``source`` in half precision to ``target`` and return the largest difference, relative to 1 + the value.

    Raises `ConfigError`: the two differ by more than `TOLERANCE`.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    converted = convert_float_to_float16(onnx.load(source), keep_io_types=True)
    content = converted.SerializeToString(deterministic=True)
    difference = _compare(source, content)
    with write_atomically(target) as temporary:
        temporary.write_bytes(content)
    return difference


def _compare(source: Path, content: bytes) -> float:
    single, half = open_graph(source), open_graph(content)
    names = [output.name for output in single.get_outputs()]
    worst = 0.0
    for spread in SPREADS:
        for number, sizes in enumerate(DRAWN_SIZES):
            inputs = drawn_inputs(single, sizes, seed=number, spread=spread)
            expected, found = (dict(zip(names, each.run(names, inputs), strict=True)) for each in (single, half))
            difference = largest_difference(
                expected,
                found,
                tolerance=TOLERANCE,
                where=f"{source.name} in half precision",
                advice="take fp32: this graph's answers hang on differences that half precision does not keep",
            )
            worst = max(worst, difference)
    return worst
