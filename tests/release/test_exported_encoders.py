"""Claims: a recipe takes an exported encoder by its folder, and its licence stands in the bundle made with it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histocast import cli
from histocast.artifacts import FEATURES, read_table
from histocast.bundle import read_bundle
from histocast.errors import ConfigError, UsageError
from histocast.evaluation.evaluate_models import evaluate
from histocast.inference import verify_bundle
from histocast.inference.onnx_predictor import OnnxPredictor
from histocast.inference.triton.model_repository import model_name, write_repository
from histocast.inference.triton.repository_options import RepositoryOptions
from histocast.release.export_bundle import export_bundle
from histocast.training.export_encoders import export_encoders
from histocast.training.read_recipe import read_recipe
from histocast.training.train_fold import train
from known_encoders import expected_embedding, write_exported_encoder

SIDE, PITCH_PX, TILE_PX = 8, 120, 112


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sections of coloured noise with counts, an exported encoder, and a recipe that names it."""
    folder = tmp_path_factory.mktemp("exported")
    write_exported_encoder(folder / "uni", tile_px=TILE_PX)
    rows = ["sample,slide,counts,patient,spots,mpp"]
    for number, sample in enumerate(("S1", "S2")):
        generator = np.random.default_rng(number)
        blocks = generator.integers(60, 220, (SIDE, SIDE, 3))
        pixels = np.kron(blocks, np.ones((PITCH_PX, PITCH_PX, 1), np.int64)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{sample}.png")
        grid = [(x, y) for y in range(SIDE) for x in range(SIDE)]
        centres = [f"{x}\t{y}\t{(x + 0.5) * PITCH_PX}\t{(y + 0.5) * PITCH_PX}" for x, y in grid]
        (folder / f"{sample}_spots.tsv").write_text("x\ty\tpixel_x\tpixel_y\n" + "\n".join(centres) + "\n")
        counts = generator.poisson(np.array([blocks[y, x] for x, y in grid]) / 4)
        lines = ["\tRED\tGREEN\tBLUE"]
        lines += [f"{x}x{y}\t" + "\t".join(map(str, row)) for (x, y), row in zip(grid, counts, strict=True)]
        (folder / f"{sample}.tsv").write_text("\n".join(lines) + "\n")
        rows.append(f"{sample},{sample}.png,{sample}.tsv,{sample},{sample}_spots.tsv,0.5")
    (folder / "training.csv").write_text("\n".join(rows) + "\n")
    recipe = {
        "name": "noise",
        "geometry": {"tile_px": TILE_PX, "um_per_px": 0.5, "pitch_um": 60.0},
        "features": ["uni.embedding"],
        "exported": {"uni": "uni"},
        "panel": ["RED", "GREEN", "BLUE"],
        "data_licence": "CC BY-NC-SA 4.0",
    }
    (folder / "recipe.json").write_text(json.dumps(recipe))
    return folder


def test_a_recipe_brings_an_exported_encoder_to_a_bundle(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [
        "prepare",
        "--input",
        made / "training.csv",
        "--recipe",
        made / "recipe.json",
        "--outdir",
        tmp_path / "set",
    ]
    monkeypatch.setattr("sys.argv", ["histocast", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    table, _ = read_table(tmp_path / "set" / "S1" / "features.parquet", FEATURES)
    pixels = np.asarray(Image.open(made / "S1.png"))
    tile_id = table.column("tile_id").to_numpy()
    tops, lefts = (axis * PITCH_PX + (PITCH_PX - TILE_PX) // 2 for axis in divmod(tile_id, SIDE))
    tiles = np.stack([pixels[y : y + TILE_PX, x : x + TILE_PX] for y, x in zip(tops, lefts, strict=True)])
    found = np.stack(table.column("uni.embedding").to_numpy(zero_copy_only=False))
    np.testing.assert_allclose(found, expected_embedding(tiles), atol=2e-3)

    recipe = read_recipe(made / "recipe.json")
    train(tmp_path / "set", recipe=recipe, outdir=tmp_path / "model")
    assert str(made) not in (tmp_path / "model" / "train.json").read_text()
    train(tmp_path / "set", recipe=recipe, fold="S2", outdir=tmp_path / "fold")
    evaluation = evaluate(tmp_path / "set", models=[tmp_path / "fold"], outdir=tmp_path / "scored")
    controls = {"training mean", "mean of all genes", "one depth map", "stain area", "shuffled spots"}
    anchors = {"ridge", "kernel ridge", "extra trees", "average"}
    assert {each.subject for each in evaluation.summaries} == {"model", *controls, *anchors}
    export_bundle(tmp_path / "model", encoders=tmp_path / "set" / "encoders", outdir=tmp_path / "bundle")
    bundle = verify_bundle(tmp_path / "bundle")
    assert sorted(bundle.encoders[0].files()) == ["encoders/uni.onnx", "encoders/uni.onnx.data"]
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "from https://huggingface.co/MahmoodLab/UNI (CC BY-NC-ND 4.0)" in card
    assert "do not pass this bundle on" in card
    stated = "Apache-2.0 (histocast); CC BY-NC-ND 4.0 (encoder uni); CC BY-NC-SA 4.0 (training data)"
    assert bundle.licence == stated
    assert f"| {bundle.fusion.file} | {stated} |" in card
    assert "| encoder uni | CC BY-NC-ND 4.0 |" in card
    assert "| training data | CC BY-NC-SA 4.0 |" in card

    for link in (False, True):
        repository = tmp_path / f"repository-{link}"
        options = RepositoryOptions(backend="python")
        write_repository(tmp_path / "bundle", bundle, repository, options=options, link=link)
        served = repository / model_name("uni", bundle.encoders[0]) / "1"
        assert sorted(file.name for file in served.iterdir()) == ["model.onnx", "model.py", "uni.onnx.data"]
        import onnxruntime

        session = onnxruntime.InferenceSession(served / "model.onnx", providers=["CPUExecutionProvider"])
        np.testing.assert_allclose(session.run(None, {"tiles": tiles})[0], expected_embedding(tiles), atol=1e-5)

    (tmp_path / "bundle" / "encoders" / "uni.onnx.data").write_bytes(b"damaged")
    with pytest.raises(ConfigError, match=r"uni\.onnx\.data has sha256"):
        verify_bundle(tmp_path / "bundle")


def test_the_folder_can_be_given_on_the_command_line(made: Path, tmp_path: Path) -> None:
    content = json.loads((made / "recipe.json").read_text())
    del content["exported"]
    (tmp_path / "recipe.json").write_text(json.dumps(content))
    bare = read_recipe(tmp_path / "recipe.json")
    with pytest.raises(UsageError, match=r"(?s)'uni' needs weights.*export-encoder --name uni"):
        export_encoders(bare, outdir=tmp_path / "encoders")
    given = read_recipe(tmp_path / "recipe.json", exported=[made / "uni"])
    assert export_encoders(given, outdir=tmp_path / "encoders").encoders[0].gated
    # The control stain area is encoded too, whatever a recipe takes.
    assert [each.name for each in export_encoders(given, outdir=tmp_path / "encoders").encoders] == [
        "uni",
        "morphology",
    ]
    with OnnxPredictor(
        tmp_path / "encoders", read_bundle(tmp_path / "encoders"), names=["uni"], threads=1
    ) as predictor:
        tiles = np.full((2, TILE_PX, TILE_PX, 3), 51, np.uint8)
        np.testing.assert_allclose(predictor.infer("uni", {"tiles": tiles})["embedding"], 0.2, atol=1e-6)
