"""A foundation encoder from its weights file to a folder that `prepare` and bundles take."""

import gc
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from histocast import __version__
from histocast.bundle import EncoderSpec, sha256_of_file
from histocast.encoders.encoder_cards import EncoderCard
from histocast.encoders.exported_encoder import ExportedEncoder, write_exported
from histocast.encoders.foundation import FoundationEncoder, Precision
from histocast.encoders.weights_file import load_weights
from histocast.encoders.write_encoder import LARGEST_FILE_BYTES, EncoderRecipe, write_encoder
from histocast.errors import ConfigError
from histocast.inference.onnx_predictor import check_contract, open_session
from histocast.progress import log

TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "fp16": 2e-2}
"""Largest difference from torch in float32, relative to 1 + the value's size. A value of an embedding is of order
one; float16 keeps three digits of it, and some forty layers each lose a little."""


def export_foundation(
    card: EncoderCard,
    *,
    weights: Path,
    outdir: Path,
    tile_px: int | None = None,
    um_per_px: float | None = None,
    tokens_side: int = 0,
    precision: Precision = "fp32",
    largest_file_bytes: int = LARGEST_FILE_BYTES,
) -> ExportedEncoder:
    """Write ``outdir/encoders/<name>.onnx``, ``outdir/encoder.json`` and a README, verified against torch.

    Memory: the weights in float32 twice at most, once in torch and once, after that, in onnxruntime.

    ``weights``: the file as published: ``.safetensors``, or what torch saved.
    ``tile_px``, ``um_per_px``: tiles it will get; by default what the card says the network was made for. Other tiles
        are resized.
    ``tokens_side``: tokens a side to give besides the embedding; 0 for none.
    Raises `MissingInputError`: there is no such weights file; `DataError` or `ConfigError`: the weights cannot be read,
    or are not those of this encoder; or the graph differs from torch by more than `TOLERANCE`.
    """
    tile_px, um_per_px = tile_px or card.input_px, um_per_px or card.um_per_px
    with torch.device("meta"):
        module = FoundationEncoder(card, tile_px=tile_px, tokens_side=tokens_side)
    load_weights(module, weights)
    digest = sha256_of_file(weights)
    log(f"export-encoder {card.name}: {sum(tensor.numel() for tensor in module.parameters()) / 1e6:.1f} M parameters")
    tiles = example_tiles(tile_px)
    with torch.inference_mode():
        found = module.eval()(torch.from_numpy(tiles))
    expected = [value.numpy() for value in (found if isinstance(found, tuple) else (found,))]
    if precision == "fp16":
        module.use_half_precision()
    spec = _write(module, f"{digest[:12]}-{precision}", tile_px, outdir, largest_file_bytes)
    # Before onnxruntime holds the same weights.
    del module, found
    gc.collect()
    record = ExportedEncoder(
        created_by=__version__,
        encoder=spec,
        um_per_px=um_per_px,
        card=card,
        precision=precision,
        weights_sha256=digest,
        difference=largest_difference(outdir, spec, tiles, expected, tolerance=TOLERANCE[precision]),
    )
    write_exported(outdir, record)
    log(f"export-encoder {card.name}: within {record.difference:.1e} of torch; licence of the weights: {card.licence}")
    return record


def _write(module: FoundationEncoder, version: str, tile_px: int, outdir: Path, largest_file_bytes: int) -> EncoderSpec:
    card = module.card
    recipe = EncoderRecipe(
        name=card.name,
        version=version,
        licence=card.licence,
        outputs=module.outputs,
        build=lambda *_: module,
        gated=card.gated,
        source=card.source,
    )
    return write_encoder(recipe, module, tile_px=tile_px, folder=outdir, largest_file_bytes=largest_file_bytes)


def example_tiles(tile_px: int) -> NDArray[np.uint8]:
    """Tiles [tile, row, column, rgb] to compare on: coloured noise as fine as nuclei, plain noise, and a gradient."""
    generator = np.random.default_rng(0)
    blocks = generator.integers(60, 250, (-(-tile_px // 8), -(-tile_px // 8), 3))
    coarse = np.kron(blocks, np.ones((8, 8, 1), np.int64))[:tile_px, :tile_px]
    fine = generator.integers(0, 256, (tile_px, tile_px, 3))
    ramp = np.linspace(0, 255, tile_px)
    gradient = np.stack(
        [np.tile(ramp, (tile_px, 1)), np.tile(ramp[:, None], (1, tile_px)), np.full((tile_px,) * 2, 180)]
    )
    tiles: NDArray[np.uint8] = np.stack([coarse, fine, gradient.transpose(1, 2, 0)]).astype(np.uint8)
    return tiles


def largest_difference(
    folder: Path,
    spec: EncoderSpec,
    tiles: NDArray[np.uint8],
    expected: list[NDArray[np.float32]],
    *,
    tolerance: float,
) -> float:
    """Run the graph on all tiles at once and on one alone, and return the largest relative difference.

    Raises `ConfigError`: it is above ``tolerance``, or not a number.
    """
    session = open_session(folder / str(spec.file), threads=torch.get_num_threads())
    check_contract(session, spec, where=f"encoder {spec.name!r}")
    names = [output.name for output in spec.outputs]
    worst = 0.0
    for count in (len(tiles), 1):
        results = session.run(names, {"tiles": tiles[:count]})
        for name, found, whole in zip(names, results, expected, strict=True):
            stated = whole[:count]
            difference = float(np.max(np.abs(found - stated) / (1.0 + np.abs(stated))))
            # Written so that NaN, which compares false to everything, is refused too.
            if not difference <= tolerance:
                raise ConfigError(
                    f"output {name!r} differs from torch by {difference:g}",
                    expected=f"at most {tolerance:g}",
                    where=f"encoder {spec.name!r}",
                    advice="export it in fp32, or report this with the versions of torch and onnxruntime",
                )
            worst = max(worst, difference)
    return worst
