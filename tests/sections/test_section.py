"""A section keeps its counts with their spots, and notices when files are exchanged."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pytest

from histocast.bundle import Bundle
from histocast.errors import DataError, MissingInputError
from histocast.records import SlideRecord, read_record
from histocast.sections.match_spots import check_pitch
from histocast.sections.section import SectionRecord, open_section, prepare_section
from histocast.training.training_set import list_sections, open_training_set
from made_sections import OTHERS, PANEL, made_counts, made_recipe, spot_names, write_counts, write_stages

GENES = PANEL + OTHERS


@pytest.fixture
def stages(tmp_path: Path) -> Path:
    write_stages(tmp_path / "stages", sample="S1", seed=0, unreadable=(3, 40))
    return tmp_path / "stages"


def test_counts_meet_their_spots_whatever_their_order(stages: Path, tmp_path: Path, encoder_bundle: Bundle) -> None:
    counts = made_counts(np.random.default_rng(0).normal(size=(99, 96)), seed=1)
    order = np.random.default_rng(2).permutation(99)
    # Four spots were not counted, one that was counted has no tile, and one is empty.
    kept = order[(order != 7) & (order != 8) & (order != 50) & (order != 98)]
    shuffled = counts[kept]
    shuffled[0] = 0
    names = [spot_names()[spot] for spot in kept]
    table = write_counts(tmp_path / "c.tsv", np.vstack([shuffled, counts[:1]]), spots=[*names, "99x99"])
    record = prepare_section(stages, patient="P", counts=table, bundle=encoder_bundle, outdir=tmp_path / "set")
    assert (record.spots, record.spots_without_tile, record.tiles_without_counts) == (95, 1, 4)
    assert (record.empty_spots, record.genes) == (1, len(GENES))
    assert record.gene_id_source == "symbol"
    assert record.total_counts == shuffled.sum()
    with open_section(tmp_path / "set" / "S1") as section:
        # Not: the four uncounted, the two unreadable, the empty one.
        assert len(section) == 92 + sum(spot in (3, 40) for spot in (kept[0],))
        assert len(section.store) == 99
        for row, spot in enumerate(section.measured):
            np.testing.assert_array_equal(section.counts[row].toarray()[0], counts[spot])


def test_raw_counts_of_all_genes_are_kept_as_anndata(made_set: Path) -> None:
    data = anndata.read_h5ad(made_set / "A1" / "counts.h5ad")
    assert data.shape == (99, len(GENES))
    assert list(data.var["gene_symbol"]) == list(GENES)
    assert data.X.dtype == np.int32
    assert list(data.obs_names) == spot_names()


def test_features_of_an_open_section_lie_on_the_scratch_disk(
    made_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HISTOCAST_SCRATCH", str(tmp_path))
    with open_section(made_set / "A1"):
        assert list(tmp_path.rglob("*.bin"))
    assert not list(tmp_path.iterdir())


def test_counts_of_another_section_are_refused(stages: Path, tmp_path: Path, encoder_bundle: Bundle) -> None:
    table = write_counts(tmp_path / "c.tsv", np.ones((2, len(GENES)), int), spots=["AACGT-1", "TTGCA-1"])
    with pytest.raises(DataError, match="none of which has a tile"):
        prepare_section(stages, patient="P", counts=table, bundle=encoder_bundle, outdir=tmp_path / "set")


@pytest.mark.parametrize(
    ("counted", "spots", "message"),
    [
        (range(40), range(40), "40% of the tiles in tissue have counts"),
        (range(99), [*range(40), *range(1000, 1059)], "40% of the spots with counts have a tile"),
    ],
)
def test_a_section_whose_spots_hardly_match_is_refused(
    counted: range, spots: list[int], message: str, stages: Path, tmp_path: Path, encoder_bundle: Bundle
) -> None:
    names = [spot_names()[spot] if spot < 99 else f"{spot}x0" for spot in spots]
    table = write_counts(tmp_path / "c.tsv", made_counts(np.zeros((99, 96)), seed=1)[list(counted)], spots=names)
    with pytest.raises(DataError, match=message):
        prepare_section(stages, patient="P", counts=table, bundle=encoder_bundle, outdir=tmp_path / "set")


@pytest.mark.parametrize(("ratio", "refused"), [(0.15, True), (0.5, True), (0.85, False), (1.2, False), (2.0, True)])
def test_the_pitch_of_a_section_is_compared_with_the_recipes(
    ratio: float, refused: bool, stages: Path, encoder_bundle: Bundle
) -> None:
    slide = read_record(stages / "slide.json", SlideRecord)
    geometry = encoder_bundle.geometry.model_copy(update={"pitch_um": slide.pitch_um / ratio})
    if not refused:
        check_pitch(slide, geometry)
        return
    with pytest.raises(DataError, match=rf"{ratio:.2g} times the recipe's .*\n.*\n.*not of tissue_hires_image"):
        check_pitch(slide, geometry)


def test_labels_that_are_no_numbers_are_refused_by_name(made_set: Path) -> None:
    with open_training_set(made_set, made_recipe()) as training_set:
        section = training_set.sections[0]
        # As sections prepared before two spots could not share a place have them.
        rows, columns = section.store.array_row.copy(), section.store.array_col.copy()
        rows[:2] = columns[:2] = 0
        section = replace(section, store=replace(section.store, array_row=rows, array_col=columns))
        with (
            np.errstate(invalid="ignore"),
            pytest.raises(DataError, match=f"sample {section.record.sample}: . of .* labels that are no numbers"),
        ):
            training_set.labels(section, "paper")


def test_an_exchanged_file_is_noticed(stages: Path, tmp_path: Path, encoder_bundle: Bundle) -> None:
    counts = made_counts(np.zeros((99, 96)), seed=1)
    table = write_counts(tmp_path / "c.tsv", counts, spots=spot_names())
    prepare_section(stages, patient="P", counts=table, bundle=encoder_bundle, outdir=tmp_path / "set")
    write_stages(tmp_path / "set" / "S1", sample="S1", seed=5)
    with pytest.raises(DataError, match=r"features\.parquet is not what"), open_section(tmp_path / "set" / "S1"):
        pass


def test_exchanged_counts_are_noticed(made_set: Path, tmp_path: Path) -> None:
    shutil.copytree(made_set / "A1", tmp_path / "A1")
    data = anndata.read_h5ad(tmp_path / "A1" / "counts.h5ad")
    data.X[0, 0] += 1
    data.write_h5ad(tmp_path / "A1" / "counts.h5ad")
    with pytest.raises(DataError, match=r"counts\.h5ad is not what"), open_section(tmp_path / "A1"):
        pass


def test_a_section_carries_what_made_it_and_no_path(made_set: Path, encoder_bundle: Bundle) -> None:
    record = read_record(made_set / "B1" / "section.json", SectionRecord)
    assert record.encoders == encoder_bundle.encoders
    assert record.digests["slide"].startswith("sampled-sha256:")
    assert str(made_set) not in (made_set / "B1" / "section.json").read_text()


def test_sections_of_other_encoders_do_not_mix(made_set: Path, tmp_path: Path, encoder_bundle: Bundle) -> None:
    other = encoder_bundle.model_copy(
        update={"encoders": (encoder_bundle.encoders[0].model_copy(update={"sha256": "0" * 64}),)}
    )
    for sample, bundle in (("S1", encoder_bundle), ("S2", other)):
        write_stages(tmp_path / sample, sample=sample, seed=0)
        table = write_counts(tmp_path / "c.tsv", made_counts(np.zeros((99, 96)), 1), spots=spot_names())
        prepare_section(tmp_path / sample, patient="P", counts=table, bundle=bundle, outdir=tmp_path / "set")
    with pytest.raises(DataError, match="S2 was made with other tiles or encoders than S1"):
        list_sections(tmp_path / "set")
    with pytest.raises(MissingInputError, match="no prepared section"):
        list_sections(tmp_path / "S1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"panel": ("GENE1", "NOGENE")}, "1 panel genes were not measured: NOGENE"),
        ({"geometry": {"tile_px": 224, "um_per_px": 0.5, "pitch_um": 200.0}}, "tiles of 224 px at 0.69"),
        ({"features": ("morphology.embedding", "uni.embedding")}, "no features uni.embedding"),
    ],
)
def test_a_recipe_that_does_not_fit_the_set_is_refused(
    changes: dict[str, object], message: str, made_set: Path
) -> None:
    with pytest.raises(DataError, match=message), open_training_set(made_set, made_recipe(**changes)):
        pass
