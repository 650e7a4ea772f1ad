"""Weights of a foundation encoder from the file its authors published: ``.safetensors``, or what torch saved.

A file of torch is read with ``weights_only=True``: it can hold tensors and nothing that runs. Files of transformers
name and split their tensors in another way than timm; the names of transformers are translated here.
"""

import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from histocast.encoders.encoder_cards import EncoderCard
from histocast.encoders.foundation import FoundationEncoder
from histocast.errors import ConfigError, DataError, MissingInputError

SHOWN_KEYS = 5

_BLOCK = r"^encoder\.layer\.(\d+)\."
TRANSLATIONS = tuple(
    (re.compile(pattern), to)
    for pattern, to in (
        (r"^embeddings\.cls_token$", "cls_token"),
        (r"^embeddings\.position_embeddings$", "pos_embed"),
        (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"^layernorm\.", "norm."),
        (_BLOCK + r"(?:layernorm_before|norm1)\.", r"blocks.\1.norm1."),
        (_BLOCK + r"(?:layernorm_after|norm2)\.", r"blocks.\1.norm2."),
        (_BLOCK + r"attention\.output\.dense\.", r"blocks.\1.attn.proj."),
        (_BLOCK + r"(?:intermediate\.dense|mlp\.fc1)\.", r"blocks.\1.mlp.fc1."),
        (_BLOCK + r"(?:output\.dense|mlp\.fc2)\.", r"blocks.\1.mlp.fc2."),
        (_BLOCK + r"layer_scale([12])\.lambda1$", r"blocks.\1.ls\2.gamma"),
    )
)
"""From the names of transformers' ``vit`` and ``dinov2`` to timm's."""

_PART = re.compile(_BLOCK + r"attention\.attention\.(query|key|value)\.(weight|bias)$")
PARTS = ("query", "key", "value")
"""Three tensors in transformers, one in timm, in this order."""


def load_weights(encoder: FoundationEncoder, path: Path) -> None:
    """Fill an encoder that was built on the device ``meta``; nothing is copied that need not be.

    Raises `MissingInputError`: there is no such file; `DataError`: it is no file of tensors; `ConfigError`: its tensors
    are not those of the encoder: names those that are missing, unexpected or of another shape.
    """
    card = encoder.card
    given = _relevant(read_tensors(path), card)
    if card.naming == "transformers":
        given = dict(_translated(given))
    parts = dict(_parts(encoder))
    expected = {prefix + name: value for prefix, part in parts.items() for name, value in part.state_dict().items()}
    # Counts batches seen in training, which older files leave out and inference has no use for.
    for key in expected:
        if key.endswith("num_batches_tracked"):
            given.setdefault(key, torch.tensor(0))
    _refuse_misfit(given, expected, card, path)
    for prefix, part in parts.items():
        names = part.state_dict()
        part.load_state_dict({name: _single(given[prefix + name]) for name in names}, assign=True)
    encoder.requires_grad_(False)


def _single(value: Tensor) -> Tensor:
    return value.to(torch.float32) if value.is_floating_point() else value


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a weights file by name.

    Raises `MissingInputError`: there is no such file; `DataError`: it is no file of tensors, or they lie deeper in it.
    """
    if not path.is_file():
        raise MissingInputError("no such file", expected="weights: .safetensors, .bin, .pt or .pth", where=str(path))
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise _unreadable(path, error) from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    # What a pickle that is none raises depends on its bytes.
    except (
        RuntimeError,
        pickle.UnpicklingError,
        EOFError,
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ) as error:
        raise _unreadable(path, error) from error
    if isinstance(content, dict):
        for wrapper in ("state_dict", "model"):
            if isinstance(content.get(wrapper), dict):
                content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise DataError("no table of tensors", expected="a state dict", where=str(path))
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def _is_zip(path: Path) -> bool:
    """Only what torch wrote since 1.6 can be mapped."""
    with path.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(
        f"not a whole file of tensors: {str(error).partition(chr(10))[0]}",
        expected="weights: .safetensors, .bin, .pt or .pth",
        where=str(path),
        advice="fetch the file again; a small text file in its place is a pointer of Git LFS",
    )


def _relevant(tensors: Mapping[str, Tensor], card: EncoderCard) -> dict[str, Tensor]:
    """Tensors the encoder may have use for, without the prefix."""
    found = {}
    for key, value in tensors.items():
        bare = key.removeprefix(card.key_prefix)
        if not any(key.startswith(start) or bare.startswith(start) for start in card.ignored_keys):
            found[bare] = value
    return found


def _translated(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if match := _PART.match(key):
            block, part, kind = match.groups()
            parts.setdefault(f"blocks.{block}.attn.qkv.{kind}", {})[part] = value
            continue
        name = key
        for pattern, to in TRANSLATIONS:
            name, times = pattern.subn(to, key)
            if times:
                break
        yield name, value
    for name, found in parts.items():
        # Without all three the tensor is missing, and is named so.
        if set(found) == set(PARTS):
            yield name, torch.cat([found[part] for part in PARTS])


def _parts(encoder: FoundationEncoder) -> Iterator[tuple[str, nn.Module]]:
    """What holds weights, by the beginning of its tensors' names in the file."""
    if encoder.pool is None or encoder.norm is None:
        yield "", encoder.network
    else:
        # As CONCH names them.
        yield from (("trunk.", encoder.network), ("attn_pool_contrast.", encoder.pool), ("ln_contrast.", encoder.norm))


def _refuse_misfit(given: Mapping[str, Tensor], expected: Mapping[str, Tensor], card: EncoderCard, path: Path) -> None:
    missing = [key for key in expected if key not in given]
    unexpected = [key for key in given if key not in expected]
    shaped = [
        f"{key} {list(given[key].shape)} in place of {list(tensor.shape)}"
        for key, tensor in expected.items()
        if key in given and given[key].shape != tensor.shape
    ]
    faults = [
        f"{len(keys)} {what}: {', '.join(keys[:SHOWN_KEYS])}{' ...' if len(keys) > SHOWN_KEYS else ''}"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", shaped))
        if keys
    ]
    if faults:
        raise ConfigError(
            "tensors " + "; ".join(faults),
            expected=f"the {len(expected)} tensors of {card.title}",
            where=str(path),
            advice=f"give the weights published at {card.source}, or the card of the encoder they belong to",
        )
