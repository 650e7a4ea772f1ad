"""Claims: every card builds the published network, and its export is what torch computes from the weights given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="encoders are exported with torch, which the predict path lacks")
pytest.importorskip("timm", reason="foundation encoders are built by timm, of the extra 'train'")

from safetensors.torch import save_file  # noqa: E402

from histocast.bundle import TileGeometry  # noqa: E402
from histocast.encoders.encoder_cards import EncoderCard, card_names, find_card  # noqa: E402
from histocast.encoders.exported_encoder import read_exported, take_exported  # noqa: E402
from histocast.encoders.foundation import FoundationEncoder, Pixels  # noqa: E402
from histocast.encoders.foundation_export import TOLERANCE, example_tiles, export_foundation  # noqa: E402
from histocast.encoders.weights_file import load_weights, read_tensors  # noqa: E402
from histocast.errors import ConfigError, DataError, MissingInputError, UsageError  # noqa: E402
from histocast.inference.onnx_predictor import open_session  # noqa: E402

# Name, tokens before the patches, patches a side, width of a token, dim of the embedding: as published.
PUBLISHED = {
    "uni": (1, 14, 1024, 1024),
    "uni2-h": (9, 16, 1536, 1536),
    "conch": (1, 28, 768, 512),
    "virchow2": (5, 16, 1280, 2560),
    "gigapath": (1, 14, 1536, 1536),
    "h-optimus-0": (5, 16, 1536, 1536),
    "h-optimus-1": (5, 16, 1536, 1536),
    "resnet50": (0, 7, 2048, 2048),
    "phikon": (1, 14, 768, 768),
    "phikon-v2": (1, 14, 1024, 1024),
}


def shallow(name: str, depth: int = 1) -> EncoderCard:
    """The card with the same blocks, fewer of them; ResNet50 as it is."""
    card = find_card(name)
    return card if name == "resnet50" else card.model_copy(update={"arguments": {**card.arguments, "depth": depth}})


def random_weights(card: EncoderCard) -> dict[str, Any]:
    """Random tensors under the names and in the shapes of the published file, none of them without effect."""
    with torch.device("meta"):
        encoder = FoundationEncoder(card, tile_px=card.input_px)
    generator = torch.Generator().manual_seed(0)
    prefix = "trunk." if card.pooler else ""
    tensors = {prefix + key: value for key, value in encoder.network.state_dict().items()}
    if encoder.pool is not None and encoder.norm is not None:
        tensors |= {f"attn_pool_contrast.{key}": value for key, value in encoder.pool.state_dict().items()}
        tensors |= {f"ln_contrast.{key}": value for key, value in encoder.norm.state_dict().items()}
    weights = {}
    for key, value in tensors.items():
        if not value.is_floating_point():
            weights[card.key_prefix + key] = torch.zeros(value.shape, dtype=value.dtype)
            continue
        scale = 0.5 if key.endswith("gamma") else (value[0].numel() if value.ndim > 1 else 10) ** -0.5
        noise = torch.randn(value.shape, generator=generator) * scale
        gain = value.ndim == 1 and key.endswith(("norm.weight", "running_var", "bn1.weight", "ln_k.weight"))
        weights[card.key_prefix + key] = noise.abs() + 0.5 if gain or "running_var" in key else noise
    return weights


def run_graph(folder: Path, tiles: np.ndarray) -> list[np.ndarray]:
    spec = read_exported(folder).encoder
    return open_session(folder / str(spec.file), threads=2).run(None, {"tiles": tiles})


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_card_builds_the_published_network(name: str) -> None:
    """At full depth, without memory for its weights."""
    card = find_card(name)
    prefix, side, width, dim = PUBLISHED[name]
    with torch.device("meta"):
        encoder = FoundationEncoder(card, tile_px=card.input_px, tokens_side=side).eval()
        parameters = sum(tensor.numel() for tensor in encoder.parameters())
        features = encoder.network.forward_features(torch.zeros(2, 3, card.input_px, card.input_px))
    assert parameters / 1e6 == pytest.approx(card.parameters_m, rel=0.01)
    if name == "resnet50":
        assert features.shape == (2, width, side, side)
    else:
        assert features.shape == (2, prefix + side * side, width)
    assert (card.prefix_tokens, card.grid_side, card.dim) == (prefix, side, dim)
    assert set(card_names()) == set(PUBLISHED)
    assert card.licence
    assert card.source.startswith("https://huggingface.co/")


def test_the_largest_have_the_published_number_of_parameters_to_the_last() -> None:
    def count(name: str) -> int:
        with torch.device("meta"):
            return sum(tensor.numel() for tensor in FoundationEncoder(find_card(name), tile_px=224).parameters())

    assert count("gigapath") == 1_134_953_984
    assert count("uni2-h") == 681_394_176


@pytest.mark.parametrize("name", ["uni", "uni2-h", "virchow2", "gigapath", "h-optimus-0", "conch", "resnet50"])
def test_an_export_is_what_torch_computes(name: str, tmp_path: Path) -> None:
    """`export_foundation` compares embedding and tokens with torch; here the embedding is pooled once more."""
    card = shallow(name)
    weights = random_weights(card)
    if name == "conch":
        weights |= {
            "text.cls_emb": torch.zeros(4),
            "logit_scale": torch.zeros(()),
            "visual.proj_contrast": torch.ones(2),
        }
    torch.save(weights, tmp_path / "weights.bin")
    tile_px = 224
    record = export_foundation(
        card, weights=tmp_path / "weights.bin", outdir=tmp_path / "out", tile_px=tile_px, tokens_side=card.grid_side
    )
    assert record.difference <= TOLERANCE["fp32"]
    tiles = example_tiles(tile_px)[:2]
    embedding, tokens = run_graph(tmp_path / "out", tiles)
    _, side, width, dim = PUBLISHED[name]
    assert (embedding.shape, tokens.shape) == ((2, dim), (2, side**2, width))
    assert embedding.std() > 0.01
    assert np.abs(embedding[0] - embedding[1]).max() > 1e-3
    expected, expected_tokens = by_hand(card, weights, tiles)
    # Where a tile is resized, Pillow rounds colours to whole values and the graph does not.
    atol = 2e-4 if card.input_px == tile_px else 0.05
    np.testing.assert_allclose(embedding, expected, atol=atol, rtol=1e-3)
    np.testing.assert_allclose(tokens, expected_tokens, atol=atol, rtol=1e-3)


def by_hand(card: EncoderCard, weights: dict[str, Any], tiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The published recipe: PIL's resize, normalisation, timm's network, and the pooling its model card shows."""
    import timm
    from PIL import Image
    from timm.layers import SwiGLUPacked

    layers = {"SwiGLUPacked": SwiGLUPacked, "SiLU": torch.nn.SiLU}
    arguments = {
        key: layers.get(value, value) if isinstance(value, str) else value for key, value in card.arguments.items()
    }
    network = timm.create_model(card.architecture, pretrained=False, **arguments).eval()
    start = card.key_prefix + ("trunk." if card.pooler else "")
    network.load_state_dict(
        {key.removeprefix(start): value for key, value in weights.items() if key.startswith(start)}
        if start
        else weights
    )
    side = card.input_px
    images = tiles
    if tiles.shape[1] != side:
        images = np.stack(
            [np.asarray(Image.fromarray(tile).resize((side, side), Image.Resampling.BICUBIC)) for tile in tiles]
        )
    pixels = (
        torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - torch.tensor(card.mean)[:, None, None]
    ) / torch.tensor(card.std)[:, None, None]
    with torch.inference_mode():
        features = network.forward_features(pixels)
        if card.name == "resnet50":
            return network(pixels).numpy(), features.flatten(2).transpose(1, 2).numpy()
        patches = features[:, PUBLISHED[card.name][0] :]
        if card.name == "virchow2":
            return torch.cat([features[:, 0], features[:, 5:].mean(1)], dim=-1).numpy(), patches.numpy()
        if card.name == "conch":
            return conch_pooling(weights, features).numpy(), patches.numpy()
        return network(pixels).numpy(), patches.numpy()


def conch_pooling(weights: dict[str, Any], features: Any) -> Any:
    """Attention of one query with 8 heads over layer-normalised tokens, written out, then the last norm."""
    pool = {key.removeprefix("visual.attn_pool_contrast."): value for key, value in weights.items()}
    norm = torch.nn.functional.layer_norm
    keys = norm(features, (768,), pool["ln_k.weight"], pool["ln_k.bias"])
    query = norm(pool["query"], (512,), pool["ln_q.weight"], pool["ln_q.bias"])
    bias = pool["attn.in_proj_bias"].chunk(3)
    q, k, v = (
        (values @ pool[f"attn.{part}_proj_weight"].T + shift).unflatten(-1, (8, 64)).transpose(-2, -3)
        for values, part, shift in zip((query, keys, keys), "qkv", bias, strict=True)
    )
    found = torch.softmax(q @ k.transpose(-1, -2) / 8, dim=-1) @ v
    found = found.transpose(-2, -3).flatten(-2) @ pool["attn.out_proj.weight"].T + pool["attn.out_proj.bias"]
    return norm(found[:, 0], (512,), weights["visual.ln_contrast.weight"], weights["visual.ln_contrast.bias"])


@pytest.mark.parametrize("name", ["phikon", "phikon-v2"])
def test_files_of_transformers_give_what_transformers_computes(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers writes the file this test reads")
    torch.manual_seed(0)
    if name == "phikon":
        config = transformers.ViTConfig(num_hidden_layers=2, layer_norm_eps=1e-12)
        model = transformers.ViTModel(config, add_pooling_layer=False).eval()
    else:
        config = transformers.Dinov2Config(
            hidden_size=1024, num_hidden_layers=2, num_attention_heads=16, image_size=224, patch_size=16
        )
        model = transformers.Dinov2Model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    model.save_pretrained(tmp_path / "published")
    weights = tmp_path / "published" / "model.safetensors"
    names = set(read_tensors(weights))
    assert {"embeddings.cls_token", "encoder.layer.1.attention.attention.query.weight"} <= names
    export_foundation(shallow(name, 2), weights=weights, outdir=tmp_path / "out")
    tiles = example_tiles(224)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    pixels = torch.from_numpy(((tiles / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32))
    with torch.inference_mode():
        expected = model(pixel_values=pixels).last_hidden_state[:, 0].numpy()
    (embedding,) = run_graph(tmp_path / "out", tiles)
    np.testing.assert_allclose(embedding, expected, atol=1e-4, rtol=1e-4)


def test_half_precision_keeps_its_own_tolerance_and_half_the_bytes(uni: Path, tmp_path: Path) -> None:
    weights = uni / "weights.safetensors"
    record = export_foundation(shallow("uni"), weights=weights, outdir=tmp_path, precision="fp16")
    assert 1e-6 < record.difference <= TOLERANCE["fp16"]
    sizes = [(folder / "encoders" / "uni.onnx").stat().st_size for folder in (tmp_path, uni)]
    assert sizes[0] < 0.51 * sizes[1]
    assert [output.dtype for output in record.encoder.outputs] == ["float32"]
    assert record.encoder.version != read_exported(uni).encoder.version


def test_weights_too_large_for_one_file_lie_beside_the_graph(uni: Path, tmp_path: Path) -> None:
    record = export_foundation(
        shallow("uni"), weights=uni / "weights.safetensors", outdir=tmp_path, largest_file_bytes=2**20
    )
    assert (tmp_path / "encoders" / "uni.onnx").stat().st_size < 2**20
    assert sorted(record.encoder.files()) == ["encoders/uni.onnx", "encoders/uni.onnx.data"]
    tiles = example_tiles(224)
    np.testing.assert_array_equal(run_graph(tmp_path, tiles)[0], run_graph(uni, tiles)[0])
    for trace in (b"site-packages", b".py", bytes(tmp_path)):
        assert trace not in (tmp_path / "encoders" / "uni.onnx").read_bytes()
    taken = tmp_path / "set"
    spec = take_exported(tmp_path, name="uni", geometry=GEOMETRY, outdir=taken)
    np.testing.assert_array_equal(
        open_session(taken / str(spec.file), threads=1).run(None, {"tiles": tiles[:1]})[0], run_graph(uni, tiles[:1])[0]
    )
    (tmp_path / "encoders" / "uni.onnx.data").write_bytes(b"other")
    with pytest.raises(ConfigError, match=r"uni\.onnx\.data has sha256"):
        take_exported(tmp_path, name="uni", geometry=GEOMETRY, outdir=tmp_path / "again")


GEOMETRY = TileGeometry(tile_px=224, um_per_px=0.5, pitch_um=112)


@pytest.fixture(scope="module")
def uni(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One block of UNI, exported; its weights lie beside."""
    folder = tmp_path_factory.mktemp("uni")
    save_file(random_weights(shallow("uni")), folder / "weights.safetensors")
    export_foundation(shallow("uni"), weights=folder / "weights.safetensors", outdir=folder)
    return folder


def test_the_folder_says_whose_weights_they_are(uni: Path) -> None:
    record = read_exported(uni)
    assert (record.encoder.licence, record.encoder.gated) == ("CC BY-NC-ND 4.0", True)
    assert record.encoder.source == "https://huggingface.co/MahmoodLab/UNI"
    readme = (uni / "README.md").read_text()
    assert "CC BY-NC-ND 4.0" in readme
    assert "do not pass this folder on" in readme
    assert "sha256" not in json.loads((uni / "encoder.json").read_text())["card"]


def test_another_geometry_or_encoder_is_refused(uni: Path, tmp_path: Path) -> None:
    coarse = TileGeometry(tile_px=224, um_per_px=0.69, pitch_um=200)
    with pytest.raises(ConfigError, match=r"--tile-px 224 --um-per-px 0\.69"):
        take_exported(uni, name="uni", geometry=coarse, outdir=tmp_path)
    with pytest.raises(ConfigError, match="encoder 'uni'"):
        take_exported(uni, name="virchow2", geometry=GEOMETRY, outdir=tmp_path)
    with pytest.raises(MissingInputError, match=r"no encoder\.json"):
        take_exported(tmp_path, name="uni", geometry=GEOMETRY, outdir=tmp_path)


def test_weights_that_do_not_fit_are_named_tensor_by_tensor(uni: Path, tmp_path: Path) -> None:
    weights = read_tensors(uni / "weights.safetensors")
    changed = {key: value for key, value in weights.items() if key not in ("norm.bias", "blocks.0.attn.qkv.weight")}
    changed |= {"head.weight": torch.zeros(2, 1024), "pos_embed": torch.zeros(1, 257, 1024)}
    torch.save({"state_dict": changed}, tmp_path / "changed.pth")
    with torch.device("meta"):
        encoder = FoundationEncoder(shallow("uni"), tile_px=224)
    with pytest.raises(ConfigError) as caught:
        load_weights(encoder, tmp_path / "changed.pth")
    message = caught.value.message
    assert "2 missing: blocks.0.attn.qkv.weight, norm.bias" in message
    assert "1 unexpected: head.weight" in message
    assert "pos_embed [1, 257, 1024] in place of [1, 197, 1024]" in message
    assert "https://huggingface.co/MahmoodLab/UNI" in message


def test_a_file_of_transformers_that_lacks_a_part_is_refused(tmp_path: Path) -> None:
    card = shallow("phikon")
    save_file(
        {"vit.encoder.layer.0.attention.attention.query.weight": torch.zeros(768, 768)}, tmp_path / "w.safetensors"
    )
    with torch.device("meta"):
        encoder = FoundationEncoder(card, tile_px=224)
    with pytest.raises(ConfigError, match=r"(?s)missing: cls_token, pos_embed.*of Phikon"):
        load_weights(encoder, tmp_path / "w.safetensors")


class Trap:
    """What a malicious file would run."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.mkdir, ("trapped",)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("pointer.bin", b"version https://git-lfs.github.com/spec/v1\n"),
        ("cut.safetensors", b"\x10\0\0\0"),
        ("cut.bin", b"PK\x03\x04"),
    ],
)
def test_a_file_that_holds_no_tensors_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="not a whole file of tensors"):
        read_tensors(tmp_path / name)


def test_nothing_in_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Trap()}, tmp_path / "trap.bin")
    with pytest.raises(DataError, match="not a whole file of tensors"):
        read_tensors(tmp_path / "trap.bin")
    assert not (tmp_path / "trapped").exists()
    torch.save({"epoch": 3}, tmp_path / "other.bin")
    with pytest.raises(DataError, match="no table of tensors"):
        read_tensors(tmp_path / "other.bin")
    with pytest.raises(MissingInputError):
        read_tensors(tmp_path / "absent.bin")


def test_the_resize_is_the_one_of_pillow() -> None:
    from PIL import Image

    tile = example_tiles(300)[0]
    with torch.device("cpu"):
        pixels = Pixels(find_card("uni").model_copy(update={"mean": (0, 0, 0), "std": (1, 1, 1)}), tile_px=300)
    found = pixels(torch.from_numpy(tile[None]))[0].permute(1, 2, 0).numpy() * 255
    expected = np.asarray(Image.fromarray(tile).resize((224, 224), Image.Resampling.BICUBIC), np.float64)
    # Pillow rounds to whole values after each axis.
    assert np.abs(found - expected).max() < 1.5


def test_tokens_that_do_not_divide_the_patches_are_refused() -> None:
    with torch.device("meta"), pytest.raises(UsageError, match="a divisor of 14"):
        FoundationEncoder(shallow("uni"), tile_px=224, tokens_side=4)


def test_an_unknown_card_is_named_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="conch, gigapath"):
        find_card("uni3")
