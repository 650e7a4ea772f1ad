"""Claims: both encoders are the arithmetic they say, in torch and in ONNX; in micrometres; bounded; on each tile alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from encoder_reference import morphology, nuclei_map
from tissue_tiles import limit_tiles, nuclei_tile, tissue_like_tiles

torch = pytest.importorskip("torch", reason="encoders are exported with torch, which the predict path lacks")

from torch import Tensor, nn  # noqa: E402

from histocast.bundle import EncoderSpec, sha256_of_file  # noqa: E402
from histocast.encoders.morphology import FEATURE_NAMES, Morphology  # noqa: E402
from histocast.encoders.nuclei_map import NucleiMap  # noqa: E402
from histocast.encoders.write_encoder import RECIPES, EncoderRecipe, export_encoder  # noqa: E402
from histocast.errors import ConfigError, UsageError  # noqa: E402
from histocast.inference.onnx_predictor import check_contract, open_session  # noqa: E402

GEOMETRIES = [(224, 0.69), (224, 0.5), (150, 0.8), (256, 0.25), (67, 1.3)]
"""Blocks of two pixels, twice; of an odd side with a rest; of five; of one pixel."""

REFERENCES = {"morphology": morphology, "nuclei": nuclei_map}
# Float32 against float64; a peak's weight changes by 500 a unit of blob, which rounding reaches.
TOLERANCE = {"morphology": 2e-3, "nuclei": 1e-4}


def run_torch(name: str, tiles: np.ndarray, um_per_px: float) -> np.ndarray:
    module = RECIPES[name].build(tiles.shape[1], um_per_px)
    with torch.inference_mode():
        return module(torch.from_numpy(tiles)).numpy()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, EncoderSpec]]:
    folder = tmp_path_factory.mktemp("bundle")
    return {
        name: (folder, export_encoder(name, tile_px=224, um_per_px=0.69, folder=folder)) for name in sorted(RECIPES)
    }


@pytest.mark.parametrize("name", sorted(REFERENCES))
@pytest.mark.parametrize(("tile_px", "um_per_px"), GEOMETRIES)
def test_torch_equals_the_reference_at_every_geometry(name: str, tile_px: int, um_per_px: float) -> None:
    tiles = np.concatenate([tissue_like_tiles(tile_px, 2, um_per_px=um_per_px), limit_tiles(tile_px)[[0, 1, 7]]])
    expected = np.stack([REFERENCES[name](tile, um_per_px) for tile in tiles])
    np.testing.assert_allclose(run_torch(name, tiles, um_per_px), expected, atol=TOLERANCE[name], rtol=1e-3)


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_onnx_equals_torch_and_the_reference(name: str, exported: dict[str, tuple[Path, EncoderSpec]]) -> None:
    folder, spec = exported[name]
    tissue, limits = tissue_like_tiles(224, 3, um_per_px=0.69), limit_tiles(224)
    session = open_session(folder / str(spec.file), threads=1)
    found_tissue, found_limits = (
        session.run([spec.outputs[0].name], {"tiles": tiles})[0] for tiles in (tissue, limits)
    )
    np.testing.assert_allclose(found_tissue, run_torch(name, tissue, 0.69), atol=1e-4)
    # The mean over a flat map differs by its rounding, and a flat map has no spread to hide it.
    np.testing.assert_allclose(found_limits, run_torch(name, limits, 0.69), atol=2e-3)
    expected = np.stack([REFERENCES[name](tile, 0.69) for tile in tissue])
    np.testing.assert_allclose(found_tissue, expected, atol=TOLERANCE[name], rtol=1e-3)


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_a_real_section_equals_the_reference(name: str, shared_data: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    image = cv2.imread(str(shared_data / "her2st/images/C3.jpg"))[..., ::-1]
    tiles = np.stack([image[top : top + 224, left : left + 224] for top, left in ((4000, 4200), (5200, 3600))])
    expected = np.stack([REFERENCES[name](tile, 0.69) for tile in tiles])
    np.testing.assert_allclose(run_torch(name, tiles, 0.69), expected, atol=TOLERANCE[name], rtol=1e-3)


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_any_number_of_tiles_gives_each_tile_the_same_numbers(
    name: str, exported: dict[str, tuple[Path, EncoderSpec]]
) -> None:
    folder, spec = exported[name]
    session = open_session(folder / str(spec.file), threads=2)
    tiles = np.concatenate([tissue_like_tiles(224, 3, um_per_px=0.69), limit_tiles(224)])
    (together,) = session.run(None, {"tiles": tiles})
    for index in range(len(tiles)):
        (alone,) = session.run(None, {"tiles": tiles[index : index + 1]})
        np.testing.assert_allclose(alone[0], together[index], atol=1e-5)


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_values_stay_far_inside_float16_whatever_the_pixels(name: str) -> None:
    values = run_torch(name, limit_tiles(224), 0.5)
    assert np.isfinite(values).all()
    assert np.abs(values).max() < 100


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_the_file_states_its_contract_and_no_machine(name: str, exported: dict[str, tuple[Path, EncoderSpec]]) -> None:
    folder, spec = exported[name]
    path = folder / str(spec.file)
    assert path == folder / "encoders" / f"{name}.onnx"
    assert spec.sha256 == sha256_of_file(path)
    check_contract(open_session(path, threads=1, optimise=False), spec, where=name)
    assert [file.name for file in path.parent.iterdir() if name in file.name] == [path.name]
    content = path.read_bytes()
    for trace in (b"site-packages", b".py", bytes(Path.cwd()), bytes(folder)):
        assert trace not in content


def test_another_process_exports_the_same_bytes(exported: dict[str, tuple[Path, EncoderSpec]], tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from histocast.encoders.write_encoder import export_encoder;"
        "[export_encoder(name, tile_px=224, um_per_px=0.69, folder=Path(sys.argv[1])) for name in sys.argv[2:]]"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path), *exported], check=True, timeout=200)
    for name, (_, spec) in exported.items():
        assert sha256_of_file(tmp_path / "encoders" / f"{name}.onnx") == spec.sha256


def test_every_annotated_axis_is_what_it_says() -> None:
    """In a process of its own, because the hook must come before the first import."""
    program = """
from jaxtyping import install_import_hook
modules = [f"histocast.encoders.{name}" for name in ("stain", "smoothing", "morphology", "nuclei_map")]
with install_import_hook(modules, "beartype.beartype"):
    from histocast.encoders.morphology import Morphology
    from histocast.encoders.nuclei_map import NucleiMap
import torch
tiles = torch.randint(0, 256, (3, 100, 100, 3), dtype=torch.uint8)
for encoder in (Morphology, NucleiMap):
    encoder(tile_px=100, um_per_px=0.5)(tiles)
try:
    NucleiMap(tile_px=100, um_per_px=0.5)(tiles.float())
except Exception as error:
    print(type(error).__name__)
"""
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=100)
    assert found.stdout.strip() == "TypeCheckError"


def test_every_number_of_the_embedding_has_a_name_of_its_own() -> None:
    assert run_torch("morphology", limit_tiles(224)[:1], 0.5).shape == (1, len(FEATURE_NAMES))
    assert len(set(FEATURE_NAMES)) == len(FEATURE_NAMES) >= 50


def test_more_nuclei_are_a_higher_density_and_larger_ones_a_larger_size() -> None:
    def value(feature: str, count: int, radius_um: float) -> float:
        tile, _ = nuclei_tile(count, radius_um=radius_um)
        return float(run_torch("morphology", tile[None], 0.5)[0, FEATURE_NAMES.index(feature)])

    few, many = value("small_blob_density", 9, 3.0), value("small_blob_density", 36, 3.0)
    assert many / few == pytest.approx(4, rel=0.1)
    assert value("large_nuclei_size", 16, 5.0) > 1.5 * value("large_nuclei_size", 16, 3.5)
    assert value("large_nuclei_share", 16, 5.0) > 1.5 * value("large_nuclei_share", 16, 3.5)


def test_filters_are_in_micrometres() -> None:
    """The same 112 um of tissue at 0.5 and at 0.7 um/px has the same nuclei."""
    names = [f"{scale}_blob_{what}" for scale in ("small", "large") for what in ("contrast", "haematoxylin")]
    names += ["small_nuclei_share", "small_nuclei_haematoxylin", "mean_haematoxylin", "mean_eosin"]
    at = [FEATURE_NAMES.index(name) for name in names]
    fine, _ = nuclei_tile(25, tile_px=224, um_per_px=0.5)
    coarse, _ = nuclei_tile(25, tile_px=160, um_per_px=0.7)
    np.testing.assert_allclose(
        run_torch("morphology", fine[None], 0.5)[0, at], run_torch("morphology", coarse[None], 0.7)[0, at], rtol=0.15
    )


def test_turning_a_tile_leaves_its_colours_and_nuclei() -> None:
    tile = tissue_like_tiles(224, 3, um_per_px=0.5)[2]
    turned = run_torch("morphology", np.stack([tile, tile[::-1], tile.swapaxes(0, 1)]), 0.5)
    kept = [index for index, name in enumerate(FEATURE_NAMES) if "coherence" not in name]
    np.testing.assert_allclose(turned[1:, kept], np.broadcast_to(turned[:1, kept], (2, len(kept))), atol=2e-3)


def test_fibres_are_coherent_and_nuclei_are_not() -> None:
    rows, columns = np.indices((224, 224))
    fibres = np.repeat((200 + 40 * np.sin((rows + 0.5 * columns) / 4))[..., None], 3, axis=-1).astype(np.uint8)
    tiles = np.stack([fibres, nuclei_tile(36)[0]])
    coherence = run_torch("morphology", tiles, 0.5)[:, FEATURE_NAMES.index("level1_coherence_density")]
    assert coherence[0] > 0.9
    assert coherence[1] < 0.5


def test_the_probability_is_high_in_nuclei_and_low_between_them() -> None:
    tile, inside = nuclei_tile(16, radius_um=5.0)
    probability = run_torch("nuclei", tile[None], 0.5)[0, 0]
    share = inside.reshape(56, 4, 56, 4).mean(axis=(1, 3))
    assert probability[share == 1].min() > 0.9
    assert probability[share == 0].mean() < 0.02
    assert ((probability > 0.5) == (share > 0.5)).mean() > 0.98


def test_the_distance_is_that_to_the_background_in_micrometres() -> None:
    from scipy import ndimage

    tile, inside = nuclei_tile(9, radius_um=7.0)
    distance = run_torch("nuclei", tile[None], 0.5)[0, 1] * 8.0
    true_um = ndimage.distance_transform_edt(inside).reshape(56, 4, 56, 4).mean(axis=(1, 3)) * 0.5
    deep = true_um > 1
    assert np.abs(distance - true_um)[deep].mean() < 1.0
    assert np.corrcoef(distance[deep], true_um[deep])[0, 1] > 0.95


def test_touching_nuclei_show_as_two_summits() -> None:
    import cv2
    from tissue_tiles import stain

    mask = np.zeros((224, 224), np.uint8)
    for x in (99, 124):
        cv2.circle(mask, (x, 112), 14, 1, -1)
    tile = stain(0.1 + 0.9 * mask, np.full(mask.shape, 0.15))
    along = run_torch("nuclei", tile[None], 0.5)[0, 1, 28]
    middle = along[27:29].min()
    assert along[:27].max() > 1.3 * middle
    assert along[29:].max() > 1.3 * middle


@pytest.mark.parametrize(("build", "tile_px"), [(Morphology, 63), (NucleiMap, 7)])
def test_tiles_too_small_for_a_scale_are_refused(build: type, tile_px: int) -> None:
    with pytest.raises(ConfigError, match=f"tiles of {tile_px} px"):
        build(tile_px=tile_px, um_per_px=0.5)


def test_an_unknown_encoder_is_named_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="morphology, nuclei"):
        export_encoder("morfology", tile_px=224, um_per_px=0.5, folder=tmp_path)


def test_a_recipe_of_the_callers_own_is_exported_like_the_shipped_ones(tmp_path: Path) -> None:
    class TwoOutputs(nn.Module):
        def forward(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
            pixels = tiles.to(torch.float32)
            return pixels.mean(dim=(1, 2)), pixels.reshape(-1, 4, 16 * 64, 3).amax(dim=2)

    recipe = EncoderRecipe(
        name="two",
        version="3",
        licence="none",
        outputs=("mean", "token"),
        build=lambda *_: TwoOutputs(),
        gated=True,
    )
    spec = export_encoder(recipe, tile_px=64, um_per_px=0.5, folder=tmp_path)
    assert [(output.name, output.shape) for output in spec.outputs] == [
        ("mean", ("tile", 3)),
        ("token", ("tile", 4, 3)),
    ]
    assert (spec.version, spec.licence, spec.gated) == ("3", "none", True)
    check_contract(open_session(tmp_path / str(spec.file), threads=1), spec, where="two")


@pytest.mark.parametrize(("um_per_px", "least_px"), [(0.25, 200), (0.5, 80), (1.0, 41)])
def test_the_smallest_tile_is_described_and_smaller_ones_are_refused(um_per_px: float, least_px: int) -> None:
    encoder = Morphology(tile_px=least_px, um_per_px=um_per_px).eval()
    with torch.no_grad():
        assert torch.isfinite(encoder(torch.full((1, least_px, least_px, 3), 200, dtype=torch.uint8))).all()
    with pytest.raises(ConfigError, match="give the bundle larger tiles"):
        Morphology(tile_px=least_px - 1, um_per_px=um_per_px)
