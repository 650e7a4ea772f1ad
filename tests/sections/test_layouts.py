"""Claims: a published data set, as it is downloaded, becomes a training sheet that 'prepare' takes."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from scipy.sparse import csc_matrix

from histocast import cli
from histocast.errors import DataError, MissingInputError, UsageError
from histocast.sections.layouts import SheetOptions, make_training_sheet
from histocast.sections.read_training_sheet import read_training_sheet
from histocast.sections.section import open_section
from histocast.training.read_recipe import read_recipe, shipped_recipes
from histocast.training.training_set import list_sections
from known_encoders import write_exported_encoder

SIDE, PITCH_PX, MARGIN_PX = 5, 80, 60
GENES = ("RED", "GREEN", "BLUE")
IDS = tuple(f"ENSG{number:011d}" for number in range(1, 4))


def picture(seed: int) -> np.ndarray:
    """Coloured blocks, one a spot, within a white margin."""
    blocks = np.random.default_rng(seed).integers(60, 210, (SIDE, SIDE, 3))
    side = SIDE * PITCH_PX + 2 * MARGIN_PX
    pixels = np.full((side, side, 3), 243, np.uint8)
    inside = slice(MARGIN_PX, side - MARGIN_PX)
    pixels[inside, inside] = np.kron(blocks, np.ones((PITCH_PX, PITCH_PX, 1), np.int64))
    return pixels


def jpeg(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture(seed)).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def places() -> list[tuple[int, int, float, float]]:
    """Column, row, x and y of every spot; the array starts at 3, 7."""
    centre = MARGIN_PX + PITCH_PX / 2
    return [
        (3 + column, 7 + row, centre + column * PITCH_PX, centre + row * PITCH_PX)
        for row in range(SIDE)
        for column in range(SIDE)
    ]


def counts(seed: int) -> np.ndarray:
    """Counts [spot, gene]: the block's colour."""
    pixels = picture(seed)
    return np.array([pixels[int(y), int(x)] // 10 for _, _, x, y in places()]).astype(int)


def counts_table(seed: int, *, genes: tuple[str, ...] = GENES, beyond: bool = False) -> str:
    lines = ["\t" + "\t".join(genes)]
    lines += [
        f"{column}x{row}\t" + "\t".join(map(str, values))
        for (column, row, _, _), values in zip(places(), counts(seed), strict=True)
    ]
    # Arrays are counted whole; spots off the tissue are in no table of spots.
    return "\n".join([*lines, *(["30x30\t1\t0\t2"] if beyond else [])]) + "\n"


def selection() -> str:
    lines = [f"{column}\t{row}\t{column}.01\t{row}.02\t{x}\t{y}\t1" for column, row, x, y in places()]
    return "\n".join(["x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected", *lines]) + "\n"


def put(path: Path, content: str | bytes) -> None:
    """Write a file, packed where its name ends so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_her2st(folder: Path) -> None:
    for number, (sample, image) in enumerate(
        {"A1": "HE_BT1_A1.jpg", "A2": "x.jpg", "B1": "y.jpg", "E1": "z.jpg"}.items()
    ):
        put(folder / "data/ST-cnts" / f"{sample}.tsv.gz", counts_table(number))
        put(folder / "data/ST-spotfiles" / f"{sample}_selection.tsv", selection())
        put(folder / "data/ST-imgs" / sample[0] / sample / image, jpeg(number))


def write_her2st_zenodo(folder: Path) -> None:
    for number, sample in enumerate(("A1", "B1")):
        put(folder / "count-matrices" / f"{sample}.tsv.gz", counts_table(number))
        put(folder / "spot-selections" / f"{sample}_selection.tsv.gz", selection())
        put(folder / "images" / "HE" / f"{sample}.jpg", jpeg(number))


def write_cscc(folder: Path) -> None:
    for number, sample in enumerate(("P2_ST_rep1", "P2_ST_rep2", "P5_ST_rep1")):
        gsm = f"GSM428431{number}"
        put(folder / f"{gsm}_{sample}_stdata.tsv.gz", counts_table(number))
        put(folder / f"{gsm}_spot_data-selection-{sample}.tsv.gz", selection())
        put(folder / f"{gsm}_{sample}.jpg.gz", jpeg(number))
    # The archive holds Visium files of other patients, too.
    put(folder / "GSM4565823_P4_rep1_barcodes.tsv.gz", "AAAC-1\n")


def write_stnet(folder: Path) -> None:
    rows = ["type,replicate,patient,count_matrix,histology_image,spot_coordinates,tumor_annotation"]
    for number, (patient, replicate) in enumerate((("BC23209", "C1"), ("BC23209", "C2"), ("BT23567", "D1"))):
        name, bare = f"{patient}_{replicate}", patient[2:]
        # As published: some files are BT where the table says BC.
        stated = f"BC{bare}_{replicate}"
        rows.append(
            f"Luminal_A,{replicate},{patient},{stated}_stdata.tsv.gz,HE_{stated}.jpg,spots_{stated}.csv.gz,{stated}_Coords.tsv"
        )
        put(folder / f"{stated}_stdata.tsv.gz", counts_table(number, genes=IDS, beyond=True))
        put(folder / f"HE_{name}.jpg", jpeg(number))
        spots = "\n".join([",X,Y", *(f"{column}x{row},{x},{y}" for column, row, x, y in places())])
        put(folder / f"spots_{name}.csv.gz", spots + "\n")
    put(folder / "metadata.csv", "\n".join(rows) + "\n")


def write_hest1k(folder: Path) -> None:
    rows = ["dataset_title,id,organ,patient,st_technology,pixel_size_um_embedded,pixel_size_um_estimated"]
    for number, (sample, organ, patient) in enumerate(
        (("TENX1", "Skin", "patient 1"), ("TENX2", "Skin", ""), ("TENX3", "Breast", "nan"), ("NCBI9", "Skin", "2"))
    ):
        title = "Set of ours, 2024" if sample.startswith("TENX") else "Other"
        rows.append(f'"{title}",{sample},{organ},{patient},Visium,,0.5')
        if sample == "NCBI9":
            continue
        (folder / "st").mkdir(parents=True, exist_ok=True)
        (folder / "wsis").mkdir(exist_ok=True)
        table = anndata.AnnData(
            X=counts(number).astype(np.float32),
            obs=pd.DataFrame(
                {
                    "in_tissue": 1,
                    "array_row": [row for _, row, _, _ in places()],
                    "array_col": [c for c, *_ in places()],
                },
                index=[f"{row:03d}x{column:03d}" for column, row, _, _ in places()],
            ),
            var=pd.DataFrame(index=list(GENES)),
        )
        table.obsm["spatial"] = np.array([(x, y) for _, _, x, y in places()])
        table.write_h5ad(folder / "st" / f"{sample}.h5ad")
        tifffile.imwrite(folder / "wsis" / f"{sample}.tif", picture(number), tile=(128, 128), photometric="rgb")
    put(folder / "HEST_v1_1_0.csv", "\n".join(rows) + "\n")


def write_visium(folder: Path) -> None:
    for number, (sample, positions) in enumerate(
        {"V1": "tissue_positions.csv", "V2": "tissue_positions_list.csv"}.items()
    ):
        outs = folder / sample / "outs"
        barcodes = [f"AAAC{index:04d}-1" for index in range(SIDE**2)]
        lines = [
            f"{barcode},1,{row},{column},{y:.0f},{x:.0f}"
            for barcode, (column, row, x, y) in zip(barcodes, places(), strict=True)
        ]
        if positions == "tissue_positions.csv":
            lines.insert(0, "barcode,in_tissue,array_row,array_col,pxl_row_in_fullres,pxl_col_in_fullres")
        put(outs / "spatial" / positions, "\n".join(lines) + "\n")
        put(outs / "spatial" / "tissue_hires_image.png", b"small")
        matrix = csc_matrix(counts(number).T)
        with h5py.File(outs / "filtered_feature_bc_matrix.h5", "w") as file:
            group = file.create_group("matrix")
            group["data"], group["indices"], group["indptr"] = matrix.data, matrix.indices, matrix.indptr
            group["shape"], group["barcodes"] = matrix.shape, np.array(barcodes, "S")
            features = group.create_group("features")
            features["id"], features["name"] = np.array(IDS, "S"), np.array(GENES, "S")
            features["feature_type"] = np.array(["Gene Expression"] * 3, "S")
        put(folder / sample / "he.jpg", jpeg(number))
    put(folder / "patients.csv", "sample,patient\nV1,P1\nV2,P2\n")


WRITERS: dict[str, Callable[[Path], None]] = {
    "her2st": write_her2st,
    "cscc": write_cscc,
    "stnet": write_stnet,
    "hest1k": write_hest1k,
    "visium": write_visium,
}

EXPECTED = {
    "her2st": ({"A1": "her2st-A", "A2": "her2st-A", "B1": "her2st-B", "E1": "her2st-E"}, 200 / PITCH_PX),
    "cscc": ({"P2_ST_rep1": "cscc-P2", "P2_ST_rep2": "cscc-P2", "P5_ST_rep1": "cscc-P5"}, 150 / PITCH_PX),
    "stnet": (
        {"BC23209_C1": "stnet-BC23209", "BC23209_C2": "stnet-BC23209", "BC23567_D1": "stnet-BC23567"},
        200 / PITCH_PX,
    ),
    "hest1k": (
        {
            "TENX1": "hest-Set-of-ours-2024-patient-1",
            "TENX2": "hest-Set-of-ours-2024",
            "TENX3": "hest-Set-of-ours-2024",
        },
        0.5,
    ),
    "visium": ({"V1": "P1", "V2": "P2"}, 100 / PITCH_PX),
}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr("sys.argv", ["histocast", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code


@pytest.mark.parametrize("layout", sorted(WRITERS))
def test_a_published_folder_goes_through_prepare(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "published"
    WRITERS[layout](folder)
    patients, um_per_px = EXPECTED[layout]
    more = ("--patients", folder / "patients.csv") if layout == "visium" else ()
    run(monkeypatch, "training-sheet", "--layout", layout, "--folder", folder, "--outdir", tmp_path / "sheet", *more)
    rows = read_training_sheet(tmp_path / "sheet" / "training.csv")
    assert {row.sample: row.patient for row in rows} == patients
    for row in rows:
        assert row.mpp == pytest.approx(um_per_px, rel=1e-4)

    recipe = {
        "name": layout,
        "geometry": {"tile_px": 64, "um_per_px": um_per_px, "pitch_um": PITCH_PX * um_per_px},
        "features": ["uni.embedding"],
        "exported": {"uni": "uni"},
        "panel": list(GENES if layout != "stnet" else IDS),
    }
    write_exported_encoder(tmp_path / "uni", tile_px=64, um_per_px=um_per_px)
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    run(
        monkeypatch, "prepare", "--input", tmp_path / "sheet" / "training.csv", "--recipe", tmp_path / "recipe.json",
        "--outdir", tmp_path / "set",
    )  # fmt: skip
    records = {record.sample: record for record in list_sections(tmp_path / "set")}
    assert {sample: record.patient for sample, record in records.items()} == patients
    for number, sample in enumerate(patients):
        assert (records[sample].spots, records[sample].genes) == (SIDE**2, len(GENES))
        assert records[sample].spots_without_tile == (1 if layout == "stnet" else 0)
        with open_section(tmp_path / "set" / sample) as section:
            # Counts follow the picture, so they show whether each met its own tile.
            place = section.store.array_col - 3, section.store.array_row - 7
            x, y = (MARGIN_PX + PITCH_PX * axis[section.measured] + PITCH_PX // 2 for axis in place)
            expected = picture(number)[y, x] // 10
            np.testing.assert_array_equal(section.counts.toarray(), expected)
            assert section.gene_ids == (IDS if layout in ("stnet", "visium") else GENES)


def test_the_zenodo_archives_of_her2st_are_read_too(tmp_path: Path) -> None:
    write_her2st_zenodo(tmp_path / "zenodo")
    rows = make_training_sheet(tmp_path / "zenodo", layout="her2st", outdir=tmp_path / "sheet")
    assert [(row.sample, row.patient) for row in rows] == [("A1", "her2st-A"), ("B1", "her2st-B")]


def test_patients_of_two_data_sets_are_left_out(tmp_path: Path) -> None:
    write_her2st(tmp_path / "her2st")
    write_stnet(tmp_path / "stnet")
    her2st = make_training_sheet(tmp_path / "her2st", layout="her2st", outdir=tmp_path / "a", beside=["stnet"])
    stnet = make_training_sheet(tmp_path / "stnet", layout="stnet", outdir=tmp_path / "b", beside=["her2st"])
    assert "her2st-E" not in {row.patient for row in her2st}
    assert {row.patient for row in stnet} == {"stnet-BC23209"}
    other = make_training_sheet(tmp_path / "her2st", layout="her2st", outdir=tmp_path / "c", beside=["cscc"])
    assert "her2st-E" in {row.patient for row in other}


def test_a_sheet_with_the_same_people_under_two_names_is_refused(tmp_path: Path) -> None:
    write_her2st(tmp_path / "her2st")
    write_stnet(tmp_path / "stnet")
    lines: list[str] = []
    for layout in ("her2st", "stnet"):
        make_training_sheet(tmp_path / layout, layout=layout, outdir=tmp_path / f"sheet-{layout}")
        with (tmp_path / f"sheet-{layout}" / "training.csv").open(newline="") as stream:
            rows = list(csv.reader(stream))
        lines += [",".join(row) for row in (rows if not lines else rows[1:])]
    (tmp_path / "both.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"her2st-E and stnet-BC23567 are the same people"):
        read_training_sheet(tmp_path / "both.csv")
    (tmp_path / "apart.csv").write_text("\n".join(line for line in lines if "her2st-E" not in line) + "\n")
    assert len(read_training_sheet(tmp_path / "apart.csv")) == 6


def test_samples_of_hest_are_chosen_by_their_table(tmp_path: Path) -> None:
    write_hest1k(tmp_path / "hest")
    options = SheetOptions(where={"organ": "skin"})
    rows = make_training_sheet(tmp_path / "hest", layout="hest1k", outdir=tmp_path / "sheet", options=options)
    assert [row.sample for row in rows] == ["TENX1", "TENX2"]
    with pytest.raises(UsageError, match="no column tissue"):
        make_training_sheet(
            tmp_path / "hest",
            layout="hest1k",
            outdir=tmp_path / "sheet",
            options=SheetOptions(where={"tissue": "skin"}),
        )


def test_everything_that_is_missing_is_told_at_once(tmp_path: Path) -> None:
    write_her2st(tmp_path / "her2st")
    (tmp_path / "her2st/data/ST-spotfiles/A2_selection.tsv").unlink()
    (tmp_path / "her2st/data/ST-imgs/B/B1/y.jpg").unlink()
    with pytest.raises(DataError) as caught:
        make_training_sheet(tmp_path / "her2st", layout="her2st", outdir=tmp_path / "sheet")
    assert "spots of A2: no file" in caught.value.message
    assert "image of B1: no file" in caught.value.message
    assert not (tmp_path / "sheet" / "training.csv").exists()
    options = SheetOptions(samples=("A1", "E1"))
    rows = make_training_sheet(tmp_path / "her2st", layout="her2st", outdir=tmp_path / "sheet", options=options)
    assert [row.sample for row in rows] == ["A1", "E1"]


def test_a_visium_run_without_a_patient_is_refused(tmp_path: Path) -> None:
    write_visium(tmp_path / "visium")
    with pytest.raises(DataError, match=r"V1: its patient is not known"):
        make_training_sheet(tmp_path / "visium", layout="visium", outdir=tmp_path / "sheet")


@pytest.mark.parametrize("layout", sorted(WRITERS))
def test_a_folder_of_another_layout_is_refused(layout: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises((MissingInputError, UsageError), match=r"no folder|no file|no such file|no HEST|no section"):
        make_training_sheet(tmp_path / "empty", layout=layout, outdir=tmp_path / "sheet")
    with pytest.raises(MissingInputError, match="no such folder"):
        make_training_sheet(tmp_path / "absent", layout=layout, outdir=tmp_path / "sheet")


@pytest.mark.parametrize(
    "content", ["10x10,1,2\n", ",X,Y\n10-10,1,2\n", ",X,Y\n10x10,a,2\n", ",Y,X\n10x10,1,2\n", ",X,Y\n10x10,1\n"]
)
def test_a_table_of_spots_of_another_form_is_refused(content: str, tmp_path: Path) -> None:
    write_stnet(tmp_path / "stnet")
    put(tmp_path / "stnet" / "spots_BC23209_C1.csv.gz", content)
    with pytest.raises(DataError, match="a column of places such as 10x12"):
        make_training_sheet(tmp_path / "stnet", layout="stnet", outdir=tmp_path / "sheet")


def test_every_data_set_has_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "panel.txt").write_text("RED\nGREEN\n")
    assert set(WRITERS) <= set(shipped_recipes())
    for name in WRITERS:
        assert read_recipe(name, panel=tmp_path / "panel.txt").name == name


def test_real_sections_get_the_resolution_they_have(shared_data: Path, tmp_path: Path) -> None:
    rows = make_training_sheet(shared_data / "her2st", layout="her2st", outdir=tmp_path)
    assert [row.sample for row in rows] == ["C2", "C3", "C4", "C5", "C6"]
    assert {row.patient for row in rows} == {"her2st-C"}
    assert all(0.68 < (row.mpp or 0) < 0.70 for row in rows)


def test_visium_folders_as_users_have_them(tmp_path: Path) -> None:
    """Names that no sample may have, matrices named by their run, Visium HD by the scale that its bins state."""
    write_visium(tmp_path / "visium")
    (tmp_path / "visium" / "V1").rename(tmp_path / "visium" / "case 1 (left)")
    outs = tmp_path / "visium" / "case 1 (left)" / "outs"
    (outs / "filtered_feature_bc_matrix.h5").rename(outs / "run7_filtered_feature_bc_matrix.h5")
    outs = tmp_path / "visium" / "V2" / "outs"
    bins = outs / "binned_outputs" / "square_016um"
    bins.mkdir(parents=True)
    for path in [path for path in outs.iterdir() if path.name != "binned_outputs"]:
        path.rename(bins / path.name)
    (bins / "spatial" / "scalefactors_json.json").write_text('{"microns_per_pixel": 0.25, "bin_size_um": 16.0}')
    patients = {"case 1 (left)": "P1", "V2": "P2"}
    with pytest.raises(DataError, match="--pitch-um with the width of its bins in um: 16"):
        make_training_sheet(
            tmp_path / "visium", layout="visium", outdir=tmp_path / "a", options=SheetOptions(patients=patients)
        )
    options = SheetOptions(patients=patients, pitch_um=16)
    rows = make_training_sheet(tmp_path / "visium", layout="visium", outdir=tmp_path / "sheet", options=options)
    assert [(row.sample, row.patient, row.mpp) for row in rows] == [("V2", "P2", 0.25), ("case-1-left", "P1", 0.2)]
    assert rows[1].counts.endswith("run7_filtered_feature_bc_matrix.h5")


def test_the_newest_table_of_hest_is_that_of_the_highest_version(tmp_path: Path) -> None:
    write_hest1k(tmp_path / "hest")
    table = next((tmp_path / "hest").glob("HEST_v*.csv"))
    table.rename(table.with_name("HEST_v1_10_0.csv"))
    (tmp_path / "hest" / "HEST_v1_9_0.csv").write_text("an old table of another form\n")
    assert make_training_sheet(tmp_path / "hest", layout="hest1k", outdir=tmp_path / "sheet")
