"""Claims: an encoder trained from pixels is trained as it is said, scored, exported and run like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from killed_training import epochs_kept_by_a_killed_training
from made_stripes import GENES, SAMPLES, SIDE, TILE_PX, make_stripes

from histocast.artifacts import FEATURES, PIXELS_FILE, read_table
from histocast.bundle import read_bundle
from histocast.encoders.target_encoder import EncoderOptions, FromPixels, TargetEncoder, Tiles, turned
from histocast.errors import ConfigError, DataError
from histocast.evaluation.evaluate_models import evaluate
from histocast.inference import open_predictor, verify_bundle
from histocast.networks.baselines import StNet, StNetConfig
from histocast.networks.dkan import DkanConfig
from histocast.networks.layers import Spots
from histocast.progress import Meter
from histocast.release.export_bundle import export_bundle
from histocast.stages.encode import Encode
from histocast.stages.predict import Predict
from histocast.stages.prepare_sections import prepare_sections
from histocast.stages.tile import Tile
from histocast.training.loop import LoopOptions, train_network
from histocast.training.read_recipe import read_recipe
from histocast.training.recipe import Recipe
from histocast.training.registry import read_options
from histocast.training.train_fold import train
from histocast.training.train_record import TrainRecord
from histocast.training.trained_encoder import COLUMN, TrainedEncoder, encode_with, with_tokens
from histocast.training.training_regions import Data, TrainingRegion
from histocast.training.training_set import open_training_set

SPOTS = 16


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recipe]:
    """Prepared sections with pixels, beside what they were made of."""
    folder = tmp_path_factory.mktemp("stripes")
    recipe = read_recipe(make_stripes(folder))
    prepare_sections(folder / "training.csv", recipe=recipe, outdir=folder / "set", keep_pixels=True)
    return folder, recipe


@pytest.fixture(scope="module")
def model(stripes: tuple[Path, Recipe]) -> tuple[Path, TrainRecord]:
    """Trained without one section."""
    folder, recipe = stripes
    return folder / "model", train(folder / "set", recipe=recipe, fold="S3", outdir=folder / "model")


def test_it_finds_what_frozen_features_do_not_show(
    stripes: tuple[Path, Recipe], model: tuple[Path, TrainRecord], tmp_path: Path
) -> None:
    folder, recipe = stripes
    blind = recipe.model_copy(update={"options": {**recipe.options, "encoder": {}}, "variant": "frozen"})
    train(folder / "set", recipe=blind, fold="S3", outdir=tmp_path / "blind")
    evaluation = evaluate(folder / "set", models=[model[0], tmp_path / "blind"], outdir=tmp_path / "scored")
    pearson = {
        summary.method: summary.figure("pearson").mean for summary in evaluation.summaries if summary.subject == "model"
    }
    assert pearson["dkan"] > 0.5
    assert pearson["dkan:frozen"] < 0.2


def test_one_network_is_trained_and_judged_on_what_it_left_out(model: tuple[Path, TrainRecord]) -> None:
    folder, record = model
    assert record.choices["networks"] == 1
    assert "the first is held out of the one network" in record.inner_split
    assert record.onnx_difference < 1e-4
    assert record.heldout_pearson > 0.5
    encoder = record.choices["encoder"]
    assert encoder["parameters"] == encoder["trained_parameters"] > 1e6
    bundle = read_bundle(folder)
    assert [(spec.name, spec.file) for spec in bundle.encoders] == [("uni", None), ("trained", "encoders/trained.onnx")]
    assert bundle.fusion.feeds["target"] == bundle.fusion.unstandardised == (COLUMN,)
    assert bundle.fusion.feeds["neighbour"] == ("uni.embedding",)


def test_its_bundle_encodes_and_predicts_like_any_other(
    stripes: tuple[Path, Recipe], model: tuple[Path, TrainRecord], tmp_path: Path
) -> None:
    folder, recipe = stripes
    bundle_folder = tmp_path / "bundle"
    export_bundle(model[0], encoders=folder / "set" / "encoders", outdir=bundle_folder)
    verify_bundle(bundle_folder)
    assert "encoders/trained.onnx" in (bundle_folder / "README.md").read_text()
    out = tmp_path / "S3"
    slide = {"slide": folder / "S3.png", "mpp": 0.5, "bundle": bundle_folder, "outdir": out}
    Tile(sample="S3", spots=folder / "S3_spots.tsv", **slide).run()
    made = {"slide_record": out / "slide.json", "tiles": out / "tiles.parquet"}
    Encode(**made, **slide).run()
    Predict(
        **made,
        features=out / "features.parquet",
        thumbnail=out / "thumbnail.png",
        bundle=bundle_folder,
        outdir=out,
    ).run()
    import anndata

    found = anndata.read_h5ad(out / "S3.h5ad")
    table, _ = read_table(out / "features.parquet", FEATURES)
    tokens = np.stack(table.column(COLUMN).to_numpy(zero_copy_only=False)).astype(np.float32)
    with (
        open_training_set(folder / "set", recipe) as training,
        open_predictor(model[0], read_bundle(model[0]), names=("trained",), threads=1) as predictor,
    ):
        section = training.choose(("S3",))[0]
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        seen = with_tokens(
            section,
            lambda tiles: predictor.infer("trained", {"tiles": tiles})["tokens"],
            shape=(1, 512),
            folder=scratch,
        )
        order = np.argsort(table.column("tile_id").to_numpy())
        np.testing.assert_allclose(tokens[order], seen.store.columns[COLUMN][:, 0], atol=2e-3)
        labels = training.labels(section, "strict")
    predicted = np.asarray(found.X)
    assert list(found.var["gene_symbol"]) == list(GENES)
    assert np.corrcoef(predicted[:, 0], labels[:, 0])[0, 1] > 0.7


def test_pixels_are_those_of_the_tiles_and_are_not_read_whole(stripes: tuple[Path, Recipe]) -> None:
    folder, _ = stripes
    from PIL import Image

    pixels = np.load(folder / "set" / "S1" / PIXELS_FILE, mmap_mode="r")
    assert pixels.shape == (SIDE * SIDE, TILE_PX, TILE_PX, 3)
    image = np.asarray(Image.open(folder / "S1.png"))
    np.testing.assert_array_equal(pixels[SIDE + 2], image[44:76, 84:116])
    tiles = Tiles(pixels, np.array([9, 3, 10]))
    assert isinstance(tiles.pixels, np.memmap)
    np.testing.assert_array_equal(tiles.read(torch.tensor([2, 0])), pixels[[10, 9]])


def test_what_cannot_be_trained_is_refused(stripes: tuple[Path, Recipe], tmp_path: Path) -> None:
    folder, recipe = stripes
    with pytest.raises(ConfigError, match="its graph of spots looks at the targets of a whole region"):
        train(
            folder / "set",
            recipe=recipe.model_copy(update={"method": "alignst", "options": {"encoder": {"name": "resnet18"}}}),
            outdir=tmp_path,
        )
    prepare_sections(folder / "training.csv", recipe=recipe, outdir=tmp_path / "set")
    with pytest.raises(DataError, match=r"(?s)without the pixels.*--keep-pixels"):
        train(tmp_path / "set", recipe=recipe, fold="S3", outdir=tmp_path / "model")
    (tmp_path / "set" / "S1" / PIXELS_FILE).symlink_to(folder / "set" / "S2" / PIXELS_FILE)
    record = (folder / "set" / "S1" / "section.json").read_bytes()
    (tmp_path / "set" / "S1" / "section.json").write_bytes(record)
    with pytest.raises(DataError, match=r"pixels\.npy is not what the section was prepared with"):
        train(tmp_path / "set", recipe=recipe, fold="S3", outdir=tmp_path / "model")


def test_a_published_configuration_names_its_encoder_and_takes_every_patch() -> None:
    options, config = read_options("dkan", {"configuration": "cscc"}, where="test")
    assert (options.encoder.name, options.encoder.tokens_side) == ("resnet18", None)
    assert TargetEncoder(options.encoder, tile_px=224, um_per_px=0.55).tokens == 49
    assert isinstance(config, DkanConfig)
    assert config.trunk.target_encoder == "resnet18"
    options, _ = read_options("domainst", {"configuration": "stnet", "encoder": {"tokens_side": 7}}, where="test")
    assert (options.encoder.name, options.encoder.tokens_side) == ("resnet50_layer2", 7)
    options, _ = read_options(
        "dkan", {"configuration": "cscc", "model": {"trunk": {"target_encoder": "frozen"}}}, where="test"
    )
    assert not options.encoder.trained


def made_tiles() -> np.ndarray:
    tiles: np.ndarray = np.random.default_rng(3).integers(0, 256, (SPOTS, TILE_PX, TILE_PX, 3), dtype=np.uint8)
    return tiles


def made_data(*, held: int = 4) -> Data:
    """One region of noise, with labels that follow nothing."""
    random = torch.Generator().manual_seed(0)
    place = torch.arange(SPOTS)
    spots = Spots(
        target=torch.zeros(SPOTS, 0, 0),
        neighbour=torch.randn(SPOTS, 25, 4, generator=random),
        neighbour_mask=torch.ones(SPOTS, 25, dtype=torch.bool),
        context=torch.randn(SPOTS, 4, generator=random),
        grid_xy=torch.stack([place % 6, place // 6], dim=1),
    )
    region = TrainingRegion(spots, place, np.arange(SPOTS), Tiles(made_tiles(), np.arange(SPOTS)))
    labels = torch.randn(SPOTS, 5, generator=random).numpy()
    return Data([region], labels, np.zeros(SPOTS, np.int64), np.arange(SPOTS) < held)


def made_network(**options: object) -> FromPixels:
    torch.manual_seed(1)
    given = {"name": "resnet50_layer2", "learning_rate": 1e-3, **options}
    encoder = TargetEncoder(EncoderOptions.model_validate(given), tile_px=TILE_PX, um_per_px=0.5)
    network = StNet(StNetConfig(input_dropout=0.0), features=4, genes=5, panel_text=None, target_features=encoder.width)
    return FromPixels(encoder, network)


def run_training(
    network: FromPixels, *, epochs: int, checkpoint: Path | None = None, **options: object
) -> dict[str, torch.Tensor]:
    given = LoopOptions.model_validate({"epochs": epochs, "patience": epochs, "average": 0.0, **options})
    with Meter("train", total=epochs, unit="epochs") as meter:
        train_network(network, made_data(), options=given, seed=3, identity="same", checkpoint=checkpoint, meter=meter)
    weights: dict[str, torch.Tensor] = network.state_dict()
    return weights


def train_to_the_end(checkpoint: Path | None) -> dict[str, torch.Tensor]:
    """What is killed and gone on with: with augmentation, batch norm and dropout-free arithmetic on the CPU."""
    return run_training(made_network(), epochs=10, checkpoint=checkpoint, average=0.5)


def test_a_gradient_reaches_every_part_of_the_encoder_and_it_overfits_a_batch() -> None:
    network = made_network(augment=False)
    data = made_data(held=0)
    region, labels = data.regions[0], torch.from_numpy(data.labels)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(30):
        assert region.tiles is not None
        spots = network.see(region.spots, region.tiles, region.rows)
        found = network.losses(spots, labels, rows=region.rows, genes=torch.arange(5))
        optimiser.zero_grad()
        found.total.backward()
        assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in network.parameters())
        optimiser.step()
        losses.append(float(found.total.detach()))
    assert losses[-1] < 0.05 * losses[0]


def test_frozen_blocks_do_not_change_and_the_others_do() -> None:
    network = made_network(trained_blocks=2)
    before = {name: value.clone() for name, value in network.encoder.state_dict().items()}
    run_training(network, epochs=2)
    after = network.encoder.state_dict()
    frozen = [name for name in before if not name.startswith(("body.blocks.5.", "body.blocks.6."))]
    # Running means of batch norm too.
    assert any("running_mean" in name for name in frozen)
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert all(not torch.equal(before[name], after[name]) for name in before if name not in frozen)
    with pytest.raises(ConfigError, match="at most 7"):
        made_network(trained_blocks=8)


def test_the_encoder_has_a_learning_rate_of_its_own() -> None:
    def moved(rate: float) -> tuple[float, float]:
        network = made_network(learning_rate=rate)
        first = {name: value.detach().clone() for name, value in network.named_parameters()}
        # One step of Adam moves each weight by about its learning rate.
        run_training(network, epochs=1, steps_per_region=1, weight_decay=0.0, schedule="constant")
        steps = {name: float((value.detach() - first[name]).abs().mean()) for name, value in network.named_parameters()}
        return steps["encoder.body.stem.0.weight"], steps["network.head.1.weight"]

    (slow, head), (fast, same) = moved(1e-6), moved(1e-3)
    assert fast / slow == pytest.approx(1000, rel=0.3)
    assert head == pytest.approx(2e-3, rel=0.3) == same


def test_tiles_are_turned_in_all_eight_ways_and_no_other() -> None:
    tile = torch.from_numpy(made_tiles()[:1])
    eight = {bytes(np.rot90(side, turn).tobytes()) for side in (tile[0], tile[0].flip(1)) for turn in range(4)}
    torch.manual_seed(0)
    found = {bytes(one.numpy().tobytes()) for one in turned(tile.expand(200, -1, -1, -1))}
    assert found == eight


def test_killed_training_goes_on_to_the_same_weights_of_the_encoder_too(tmp_path: Path) -> None:
    checkpoint = tmp_path / "0.pt"
    assert 2 <= epochs_kept_by_a_killed_training("test_trained_encoder", "train_to_the_end", checkpoint, epochs=2) < 10
    resumed, unbroken = train_to_the_end(checkpoint), train_to_the_end(None)
    assert resumed.keys() == unbroken.keys()
    assert any(name.startswith("encoder.") for name in resumed)
    assert all(torch.equal(resumed[name], unbroken[name]) for name in resumed)


@pytest.mark.parametrize(("name", "tokens_side", "tokens"), [("resnet18", 1, 1), ("resnet50_layer2", None, 64)])
def test_its_graph_is_what_torch_computes(name: str, tokens_side: int | None, tokens: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = EncoderOptions(name=name, tokens_side=tokens_side)
    encoder = TargetEncoder(options, tile_px=64, um_per_px=0.5)
    # Running means of a network that has seen tiles.
    encoder(torch.randint(0, 256, (8, 64, 64, 3), dtype=torch.uint8))
    tiles = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    spec, difference = TrainedEncoder(encoder, tiles, None).write(tmp_path)
    assert difference <= 1e-4
    assert spec.outputs[0].shape == ("tile", tokens, 512)
    assert encode_with(encoder)(tiles).std() > 0.01


def test_tiles_that_no_stride_divides_are_resized() -> None:
    encoder = TargetEncoder(EncoderOptions(name="resnet18", tokens_side=None), tile_px=112, um_per_px=0.5).eval()
    assert encode_with(encoder)(np.zeros((1, 112, 112, 3), np.uint8)).shape == (1, encoder.tokens, 512) == (1, 16, 512)


class TestWithTimm:
    """Architectures of timm, and the weights it publishes for the two ResNets."""

    @pytest.fixture(autouse=True)
    def _timm(self) -> None:
        pytest.importorskip("timm", reason="other encoders are built by timm, of the extra 'train'")

    @pytest.mark.parametrize(
        ("name", "weights", "tile_px", "shape"),
        [("timm/test_vit", False, 64, (1, 64)), ("timm/test_resnet", True, 64, (4, 96))],
    )
    def test_another_architecture_is_trained_frozen_in_part_and_exported(
        self, name: str, weights: bool, tile_px: int, shape: tuple[int, int], tmp_path: Path
    ) -> None:
        import timm

        file = None
        if weights:
            file = tmp_path / "weights.pth"
            torch.save(timm.create_model(name.removeprefix("timm/"), pretrained=False).state_dict(), file)
        side = None if shape[0] == 1 else 2
        options = EncoderOptions(name=name, tokens_side=side or 1, trained_blocks=1, checkpointing=True)
        encoder = TargetEncoder(options, tile_px=tile_px, um_per_px=0.5, weights=file)
        frozen = [key for key, value in encoder.named_parameters() if not value.requires_grad]
        assert 0 < len(frozen) < len(list(encoder.parameters()))
        tiles = torch.randint(0, 256, (4, tile_px, tile_px, 3), dtype=torch.uint8)
        encoder(tiles).sum().backward()
        assert all((value.grad is None) == (key in frozen) for key, value in encoder.named_parameters())
        spec, difference = TrainedEncoder(encoder, tiles.numpy(), file).write(tmp_path)
        assert difference <= 1e-4
        assert spec.outputs[0].shape == ("tile", *shape) == ("tile", encoder.tokens, encoder.width)

    @pytest.mark.parametrize(
        ("name", "whole", "stages"), [("resnet18", "resnet18", 4), ("resnet50_layer2", "resnet50", 2)]
    )
    def test_published_weights_of_a_resnet_give_its_feature_map(
        self, name: str, whole: str, stages: int, tmp_path: Path
    ) -> None:
        import timm

        torch.manual_seed(0)
        known = timm.create_model(whole, pretrained=False)
        known(torch.rand(8, 3, 64, 64))
        torch.save(known.eval().state_dict(), tmp_path / "weights.pth")
        for stage in range(stages + 1, 5):
            setattr(known, f"layer{stage}", torch.nn.Identity())
        encoder = TargetEncoder(
            EncoderOptions(name=name, tokens_side=None), tile_px=64, um_per_px=0.5, weights=tmp_path / "weights.pth"
        ).eval()
        tiles = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
        mean, sd = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        with torch.no_grad():
            wanted = known.forward_features(((tiles / 255 - mean) / sd).permute(0, 3, 1, 2))
            torch.testing.assert_close(encoder(tiles), wanted.flatten(2).transpose(1, 2), atol=1e-4, rtol=1e-4)
        del known.layer1
        torch.save(known.state_dict(), tmp_path / "weights.pth")
        with pytest.raises(ConfigError, match=r"layer1\.0\.conv1\.weight missing"):
            TargetEncoder(EncoderOptions(name=name), tile_px=64, um_per_px=0.5, weights=tmp_path / "weights.pth")


def test_every_section_was_prepared(stripes: tuple[Path, Recipe]) -> None:
    assert {path.parent.name for path in (stripes[0] / "set").glob("*/section.json")} == set(SAMPLES)
