"""A sample's page is complete, correct, alone in the world, and honest about the slide it shows."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import anndata
import cv2
import numpy as np
import pandas as pd
import pytest

from described_bundle import SEEN, UNSEEN, write_described_bundle
from histocast.artifacts import UNDER_INK
from histocast.bundle import bundle_digest
from histocast.errors import DataError, MissingInputError, OutputError
from histocast.records import ReservationKind, SlideRecord, Verdict
from histocast.report import verdict as bounds_of
from histocast.report.accuracy import protocols, signed
from histocast.report.canvas import Canvas
from histocast.report.colour_scale import ColourScale, colour_table, is_flat, round_step
from histocast.report.page import percent, scale_bar
from histocast.report.pictures import draw_tissue, jpeg_uri, read_tissue
from histocast.report.sample_data import SampleData, choose_diverse, choose_genes, read_sample
from histocast.report.verdict import decide_verdict
from page_parser import Page
from predicted_sample import predict, write_report
from sample_bundle import SlideFiles, write_bundle, write_slide_files


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    write_bundle(folder)
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory, bundle_folder):
    folder = tmp_path_factory.mktemp("slide")
    files = write_slide_files(folder, bundle_digest(bundle_folder), columns=30, rows=24, unreadable=(375, 376))
    predict(files, bundle_folder, folder)
    return folder, files


@pytest.fixture(scope="module")
def page(done) -> Page:
    return write_report(done[1], done[0])


def test_a_page_of_a_run_with_a_cohort_links_back_to_it(done, tmp_path):
    assert write_report(done[1], done[0], outdir=tmp_path, has_cohort=True).links == ["../cohort/cohort.html"]


class TestPage:
    def test_it_needs_nothing_but_itself(self, page):
        assert all(resource.startswith("data:image/") for resource in page.resources)
        assert not page.links
        assert not re.search(r"https?:|url\(|@import|\bimport\b.*from|fetch\(|eval\(|innerHTML", page.source)

    def test_every_image_is_an_image_and_says_what_it_shows(self, page):
        assert len(page.images) == 2 + 9 + 2 + 2
        for image in page.images:
            assert image["alt"]
            data = base64.b64decode(image["src"].split(",", 1)[1])
            assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None

    def test_it_says_what_was_found_and_with_which_reservations(self, page, done):
        data = anndata.read_h5ad(done[0] / "S1.h5ad")
        assert "Predicted, with reservations" in page.text
        assert f"30 genes predicted at {data.n_obs - 2:,} tiles" in page.text
        assert "2 tiles (" in page.text
        assert "could not be read and hold no prediction" in page.text
        assert "The slide as it was read." in page.text

    def test_it_states_scale_accuracy_protocol_and_use(self, page):
        for said in (
            "log1p_cp10k: natural logarithm of 1 + counts per 10,000",
            "0.244",
            "Stain area",
            "50 best predicted (HPG)",
            "leave one section out, one patient",
            "meant to hold 90 % of measured values of patients that were not seen",
            "Research use only. Not for diagnosis.",
            "not measurements",
            "tiny 1.2.0, sha256:",
            "sampled-sha256:5555",
            "region_spots 1024",
        ):
            assert said in page.text, said

    def test_it_is_the_same_page_twice(self, page, done):
        assert write_report(done[1], done[0]).source == page.source

    def test_the_best_genes_come_first(self, page, done):
        genes = anndata.read_h5ad(done[0] / "S1.h5ad").var.sort_values("val_pcc", ascending=False)
        places = [page.text.find(f"{symbol} r = ") for symbol in genes["gene_symbol"]]
        shown = [place for place in places if place >= 0]
        assert len(shown) == 9
        assert places[0] == shown[0]
        assert shown == sorted(shown)

    def test_one_number_is_said_in_one_way(self, page):
        """The headline is the table's figure, and what a table says no sentence says again."""
        assert "Accuracy (mean r) 0.244" in page.text
        assert "Mean r, held out" not in page.text


class TestChosenGenes:
    def test_the_genes_asked_for_are_mapped_in_that_order(self, done, tmp_path):
        page = write_report(done[1], done[0], outdir=tmp_path, report_genes="GENE9, ENSG00000000004,GENE2")
        maps = [image["alt"].split(",")[0] for image in page.images if image["alt"].startswith("Map of predicted")]
        assert maps == ["Map of predicted GENE9", "Map of predicted GENE4", "Map of predicted GENE2"]
        assert "The genes that were asked for" in page.text

    @pytest.mark.parametrize(
        ("names", "said"),
        [
            ("GENE1,gene2", "unknown gene 'gene2'.*write 'GENE2'"),
            ("GENE1,GENE1", "'GENE1' is named twice"),
            (",".join(f"GENE{number}" for number in range(25)), "25 genes.*at most 24"),
        ],
    )
    def test_genes_that_cannot_be_shown_are_refused(self, done, tmp_path, names, said):
        with pytest.raises(DataError, match=f"(?s)--report_genes.*{said}"):
            write_report(done[1], done[0], outdir=tmp_path, report_genes=names)


class TestOtherSlides:
    def test_what_could_not_be_read_is_grey_and_said(self, done, tmp_path):
        folder, files = done
        tissue = cv2.imread(str(files.tissue), cv2.IMREAD_UNCHANGED)
        tissue[:20, :30] = 3
        cv2.imwrite(str(tmp_path / "tissue.png"), tissue)
        record = files.record.model_copy(update={"unreadable_fraction": 0.03})
        page = write_report(files, folder, tissue=tmp_path / "tissue.png", record=record, outdir=tmp_path)
        assert "The slide as it was read; what could not be read is grey." in page.text
        assert "3.0\u202f% of the slide could not be read." in page.text
        drawn = draw_tissue(np.full((*tissue.shape, 3), 200, np.uint8), tissue)
        assert (drawn[:15, :25] == 128).all()

    def test_no_tissue(self, tmp_path, bundle_folder):
        files = write_slide_files(tmp_path, bundle_digest(bundle_folder), empty=True)
        predict(files, bundle_folder, tmp_path)
        page = write_report(files, tmp_path)
        assert "No tissue found" in page.text
        assert "The slide as it was read." in page.text
        assert len(page.images) == 2
        assert "there are no accuracy figures to show" in page.text
        assert not re.search(r"0\.244|Pearson|held out|interval", page.text)
        assert not re.search(r"\bnan\b", page.text, re.IGNORECASE)

    def test_nothing_readable(self, tmp_path, bundle_folder):
        files = write_slide_files(tmp_path, bundle_digest(bundle_folder), unreadable=tuple(range(120)))
        predict(files, bundle_folder, tmp_path)
        page = write_report(files, tmp_path)
        assert "Nothing predicted" in page.text
        assert not re.search(r"\bnan\b", page.text, re.IGNORECASE)

    def test_one_tile(self, tmp_path, bundle_folder):
        files = write_slide_files(tmp_path, bundle_digest(bundle_folder), columns=1, rows=1)
        predict(files, bundle_folder, tmp_path)
        assert "30 genes predicted at 1 tile," in write_report(files, tmp_path).text

    def test_it_stays_below_5_mb_on_the_worst_picture(self, done, tmp_path):
        folder, files = done
        noise = np.random.default_rng(0).integers(0, 256, (2048, 2048, 3), np.uint8)
        cv2.imwrite(str(tmp_path / "noise.png"), noise)
        record = files.record.model_copy(update={"thumbnail_um_per_px": files.record.width_px * 0.5 / 2048})
        page = write_report(files, folder, thumbnail=tmp_path / "noise.png", record=record, outdir=tmp_path)
        assert len(page.source.encode()) < 5_000_000

    def test_tissue_unlike_the_training_is_the_first_reservation(self, done, tmp_path):
        data = anndata.read_h5ad(done[0] / "S1.h5ad")
        data.obs["ood_flag"] = np.arange(data.n_obs) % 2 == 0
        data.write_h5ad(tmp_path / "S1.h5ad")
        page = write_report(done[1], tmp_path)
        assert "50\u202f% of the tiles look unlike the tissue the model was trained on" in page.text

    def test_what_comes_from_a_bundle_is_escaped(self, done, tmp_path):
        data = anndata.read_h5ad(done[0] / "S1.h5ad")
        data.var["gene_symbol"] = '<script>alert("x")</script>'
        known = data.uns["histocast"]
        for card in (known["bundle"], known["scale"], known["calibration"]):
            said = [key for key, value in card.items() if isinstance(value, str) and key != "training_data"]
            card.update(dict.fromkeys(said, '"><img src=http://x/y.png><script>alert(1)</script>'))
        data.write_h5ad(tmp_path / "S1.h5ad")
        page = write_report(done[1], tmp_path)
        assert page.source.count("<script") == 2
        assert page.source.count("</script") == 2
        assert "x/y.png" not in "".join(page.resources)
        assert all(resource.startswith("data:") for resource in page.resources)

    def test_a_bundle_without_measured_accuracy_says_so(self, done, tmp_path):
        data = anndata.read_h5ad(done[0] / "S1.h5ad")
        data.var["val_pcc"] = np.float32(np.nan)
        data.uns["histocast"]["metrics"] = data.uns["histocast"]["metrics"].iloc[:0]
        data.write_h5ad(tmp_path / "S1.h5ad")
        text = write_report(done[1], tmp_path).text
        assert "states no measured accuracy" in text
        assert "how well each is predicted is not known" in text


@pytest.fixture(scope="module")
def described(tmp_path_factory) -> tuple[Path, SlideFiles]:
    folder = tmp_path_factory.mktemp("described")
    write_described_bundle(folder / "bundle")
    files = write_slide_files(folder, bundle_digest(folder / "bundle"))
    predict(files, folder / "bundle", folder)
    return folder, files


class TestUnseenGenes:
    def test_they_are_mapped_apart_and_marked(self, described):
        folder, files = described
        page = write_report(files, folder)
        assert f"{UNSEEN} genes of these the model never saw measured." in page.text
        assert "Genes that the model never saw measured" in page.text
        assert f"{UNSEEN} genes of {SEEN + UNSEEN} took no part in training" in page.text
        assert f"GENE{SEEN} never measured, similar text: GENE0" in page.text
        assert f"GENE{SEEN + UNSEEN - 1} never measured, dissimilar text, nearest: GENE" in page.text
        assert "GENE0 never measured" not in page.text
        assert len(page.images) == 2 + 1 + SEEN + UNSEEN + 1, "no map of an uncertainty that is the same everywhere"
        assert "hardly varies between tiles" in page.text
        assert "Evidence" in page.text
        assert "of a gene that was measured carries an interval" in page.text
        assert not re.search(r"\bnan\b", page.text, re.IGNORECASE)

    def test_a_page_of_such_genes_alone_has_its_scale(self, described, tmp_path):
        data = anndata.read_h5ad(described[0] / "S1.h5ad")
        data[:, SEEN:].copy().write_h5ad(tmp_path / "S1.h5ad")
        page = write_report(described[1], tmp_path)
        assert len(page.images) == 2 + 1 + UNSEEN + 1
        assert "Where genes are predicted to be expressed" not in page.text

    def test_a_page_without_such_genes_does_not_speak_of_them(self, page):
        assert "measured gene" not in page.text
        assert "Evidence" not in page.text


def verdict_of(data: SampleData, record: SlideRecord) -> tuple[str, list[str]]:
    verdict = decide_verdict(data, record)
    assert len({each.text for each in verdict.reservations}) == len(verdict.reservations)
    return verdict.level, [each.kind for each in verdict.reservations]


@pytest.fixture(scope="module")
def sound(done) -> tuple[SampleData, SlideRecord]:
    data = read_sample(done[0] / "S1.h5ad", sample="S1", shown_genes=1, shown_unseen=0)
    spots = data.spots.assign(status="ok", ood_flag=False, blur=0.0, pen_fraction=0.0)
    return replace(data, spots=spots), done[1].record.model_copy(update={"pen_fraction": 0.0})


class TestVerdict:
    """Every reason for a reservation has its kind, and nothing but a sound prediction has none."""

    def test_a_sound_prediction_has_none(self, sound):
        assert verdict_of(*sound) == ("good", [])

    @pytest.mark.parametrize(
        ("kind", "changes"),
        [
            ("ink", {"pen_fraction": 0.01}),
            ("faint_stain", {"stain_absorbance": 0.04}),
            ("no_colour", {"colourless": True}),
            ("unreadable", {"unreadable_fraction": 0.001}),
            ("coarse_scan", {"um_per_px": 0.7}),
            ("contradicting_resolution", {"um_per_px_source": "samplesheet", "file_um_per_px": 0.25}),
        ],
    )
    def test_what_is_known_of_the_slide(self, sound, kind, changes):
        data, record = sound
        assert verdict_of(data, record.model_copy(update=changes)) == ("reserved", [kind])

    @pytest.mark.parametrize(
        "changes",
        [
            {"um_per_px_source": "samplesheet", "file_um_per_px": 0.51},
            {"um_per_px_source": "samplesheet", "file_um_per_px": None},
            {"um_per_px_source": "file", "file_um_per_px": 0.5},
            {"stain_absorbance": 0.2},
        ],
    )
    def test_what_is_no_reason(self, sound, changes):
        data, record = sound
        assert verdict_of(data, record.model_copy(update=changes)) == ("good", [])

    @pytest.mark.parametrize(
        ("kind", "column", "value", "share"),
        [
            ("unusual_tissue", "ood_flag", True, 0.1),
            ("out_of_focus", "blur", 0.9, 0.2),
            ("ink", "pen_fraction", 0.2, 0.01),
            ("unreadable", "status", "unreadable", 0.01),
        ],
    )
    def test_what_is_known_of_the_tiles(self, sound, kind, column, value, share):
        data, record = sound
        spots = data.spots.copy()
        spots[column] = spots[column].astype(object)
        spots.iloc[: round(share * len(spots)), spots.columns.get_loc(column)] = value
        assert verdict_of(replace(data, spots=spots), record) == ("reserved", [kind])

    @pytest.mark.parametrize(
        ("tiles", "level", "kinds"),
        [(0, "empty", ["no_tissue"]), (1, "reserved", ["little_tissue"]), (19, "reserved", ["little_tissue"])],
    )
    def test_an_empty_or_nearly_empty_slide_is_never_without(self, sound, tiles, level, kinds):
        data, record = sound
        assert verdict_of(replace(data, spots=data.spots.iloc[:tiles]), record) == (level, kinds)

    def test_a_slide_of_which_nothing_could_be_read_is_empty(self, sound):
        data, record = sound
        level, kinds = verdict_of(replace(data, spots=data.spots.assign(status="unreadable")), record)
        assert level == "empty"
        assert "unreadable" in kinds

    def test_the_manual_names_every_kind_with_the_bound_that_decides_it(self, root):
        guide = (root / "docs" / "output.md").read_text().partition("### `verdict` of a status")[2]
        rows = [line.split("|")[1:3] for line in guide.partition("| kind |")[2].partition("\n\n")[0].splitlines()[2:]]
        assert {kind for names, _ in rows for kind in re.findall(r"`(\w+)`", names)} == set(get_args(ReservationKind))
        bounds = {
            "little_tissue": f"fewer than {bounds_of.FEW_TILES}",
            "unusual_tissue": f"more than {bounds_of.UNUSUAL_SHARE:.0%}",
            "out_of_focus": f"more than {bounds_of.BLURRED_SHARE:.0%}",
            "ink": f"more than {bounds_of.PEN_SHARE:.1%} of the slide, or {UNDER_INK:.0%} of a tile",
            "faint_stain": f"below {bounds_of.FAINT_ABSORBANCE:g}",
            "coarse_scan": f"more than {bounds_of.COARSER:g} times",
            "contradicting_resolution": f"more than {bounds_of.CONTRADICTION:.0%}",
        }
        for kind, bound in bounds.items():
            text = next(text for names, text in rows if f"`{kind}`" in names)
            assert bound.replace("%", " %") in text, kind
        levels = dict(re.findall(r"`(\w+)`(?:: ([^;|]+))?", guide.partition("| `level` |")[2].partition("\n")[0]))
        assert set(levels) == set(get_args(Verdict.model_fields["level"].annotation))


class TestRefusals:
    def test_expression_of_another_sample(self, done):
        other = done[1].record.model_copy(update={"sample": "S2"})
        with pytest.raises(DataError, match="'S1'"):
            write_report(done[1], done[0], record=other, expression=done[0] / "S1.h5ad")

    def test_no_file(self, done, tmp_path):
        with pytest.raises(MissingInputError, match="sample S1"):
            write_report(done[1], tmp_path)

    @pytest.mark.parametrize("content", [b"", b"not HDF5 at all"])
    def test_not_an_expression_file(self, done, tmp_path, content):
        (tmp_path / "S1.h5ad").write_bytes(content)
        with pytest.raises(DataError, match="sample S1"):
            write_report(done[1], tmp_path)

    def test_anndata_from_elsewhere(self, done, tmp_path):
        anndata.AnnData(np.ones((2, 2), np.float32)).write_h5ad(tmp_path / "S1.h5ad")
        with pytest.raises(DataError, match="run predict again"):
            write_report(done[1], tmp_path)

    def test_a_folder_that_cannot_be_made(self, done, tmp_path):
        (tmp_path / "taken").write_text("")
        with pytest.raises(OutputError):
            write_report(done[1], done[0], outdir=tmp_path / "taken")


class TestCanvas:
    @pytest.mark.parametrize("layout", ["grid", "spots"])
    def test_every_spot_is_painted_at_its_place_in_its_colour(self, done, layout):
        _, files = done
        record = files.record.model_copy(update={"layout": layout})
        data = anndata.read_h5ad(done[0] / "S1.h5ad")
        picture = np.full((150, 190, 3), 255, np.uint8)
        canvas = Canvas.over(data.obsm["spatial"], thumbnail=picture, record=record)
        values = np.arange(data.n_obs, dtype=float)
        values[5] = np.nan
        painted = canvas.paint(values, ColourScale(0, data.n_obs - 1))
        origin_um = np.array(canvas.frame[:2]) * record.thumbnail_um_per_px
        at = ((data.obsm["spatial"] * record.um_per_px - origin_um) / canvas.um_per_px).astype(int)
        expected = colour_table("viridis")[np.round(np.nan_to_num(values) / (data.n_obs - 1) * 255).astype(int)]
        found = painted[at[:, 1], at[:, 0]].astype(int)
        readable = np.isfinite(values)
        assert np.abs(found - expected)[readable].max() <= 3
        assert np.ptp(found[5]) < 20, "a spot without a number is grey"

    def test_a_grid_leaves_no_hole_and_paints_nothing_outside(self, done):
        _, files = done
        centres = np.stack(np.meshgrid(np.arange(12) + 0.5, np.arange(9) + 0.5), axis=-1).reshape(-1, 2) * 200
        canvas = Canvas.over(centres, thumbnail=np.full((150, 190, 3), 255, np.uint8), record=files.record)
        rows, columns = np.nonzero(canvas.spot_of_pixel >= 0)
        block = canvas.spot_of_pixel[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert (block >= 0).all()
        pixel_um = canvas.um_per_px / canvas.supersampling
        assert np.ptp(columns) + 1 == pytest.approx(12 * 100 / pixel_um, abs=2)
        assert np.ptp(rows) + 1 == pytest.approx(9 * 100 / pixel_um, abs=2)

    def test_a_hundred_thousand_spots_fill_the_map(self, done):
        _, files = done
        centres = np.stack(np.meshgrid(np.arange(316) + 0.5, np.arange(316) + 0.5), axis=-1).reshape(-1, 2) * 200
        record = files.record.model_copy(update={"thumbnail_um_per_px": 50.0})
        canvas = Canvas.over(centres, thumbnail=np.full((632, 632, 3), 255, np.uint8), record=record)
        rows, columns = np.nonzero(canvas.spot_of_pixel >= 0)
        assert len(rows) > 0.7 * canvas.spot_of_pixel.size
        assert (canvas.spot_of_pixel[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] >= 0).all()

    @pytest.mark.parametrize("size", [(1, 90), (90, 1), (1, 1)])
    def test_slivers_are_not_drawn_as_slivers(self, done, size):
        _, files = done
        centres = np.stack(np.meshgrid(np.arange(size[0]), np.arange(size[1])), axis=-1).reshape(-1, 2) * 200.0
        canvas = Canvas.over(centres, thumbnail=np.full((100, 100, 3), 255, np.uint8), record=files.record)
        height, width = canvas.background.shape[:2]
        assert max(height, width) <= 1.7 * min(height, width)

    def test_equal_values_have_equal_colours_in_every_map(self):
        scale = ColourScale.over(np.array([[0.0, 5.0], [1.0, 2.0]]))
        np.testing.assert_array_equal(scale.colours(np.array([1.0])), scale.colours(np.array([[1.0]]))[0])


class TestColours:
    def test_palettes_go_from_dark_to_bright(self):
        for palette in ("viridis", "cividis"):
            luma = colour_table(palette) @ np.array([0.2126, 0.7152, 0.0722])
            assert (np.diff(luma) > -1).all()
            assert luma[-1] - luma[0] > 150

    @pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.63, 3.41), (0.2161, 0.2843), (120, 98_000), (-5e-4, -1e-4)])
    def test_ticks_are_round_and_inside(self, low, high):
        ticks = ColourScale(low, high).ticks()
        assert 3 <= len(ticks) <= 7
        assert all(-0.01 <= position <= 100.01 for position, _ in ticks)
        assert len({label for _, label in ticks}) == len(ticks)

    @pytest.mark.parametrize(
        ("values", "flat"),
        [
            (np.linspace(0.96, 0.99, 50), True),
            (np.linspace(0.5, 1.0, 50), False),
            (np.append(np.zeros(500), 0.3), False),
            (np.zeros(50), True),
            (np.append(np.full(500, 1.0), np.nan), True),
            (np.array([np.nan]), True),
        ],
    )
    def test_what_hardly_varies_is_flat_and_other_scales_begin_at_zero(self, values, flat):
        assert is_flat(values) == flat
        scale = ColourScale.from_zero(values)
        assert scale.low == 0
        assert scale.high == pytest.approx(np.nan_to_num(np.nanmax(values, initial=0)) or 1, rel=0.02)

    def test_constant_and_absent_values_still_have_a_scale(self):
        assert ColourScale.over(np.full(9, 2.0)).low < 2.0
        assert ColourScale.over(np.array([np.nan])).high > 0

    def test_steps_and_bars_are_round(self):
        assert [round_step(about) for about in (0.11, 0.9, 3, 51)] == [0.2, 1, 5, 100]
        assert scale_bar(1000, 8.0) == {"percent": 12.5, "label": "1\u202fmm"}


class TestPictures:
    def test_a_palette_mask_is_read_as_indices(self, tmp_path):
        from PIL import Image

        mask = np.array([[0, 1], [2, 1]], np.uint8)
        image = Image.fromarray(mask, "P")
        image.putpalette([255, 255, 255, 30, 90, 80, 200, 60, 20])
        image.save(tmp_path / "tissue.png")
        np.testing.assert_array_equal(read_tissue(tmp_path / "tissue.png", sample="S1"), mask)

    def test_a_mask_of_another_size_is_fitted(self):
        drawn = draw_tissue(np.full((80, 100, 3), 200, np.uint8), np.full((40, 50), 2, np.uint8))
        assert (drawn == (200, 60, 20)).all()

    def test_jpeg_keeps_to_its_size(self):
        noise = np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8)
        assert len(jpeg_uri(noise, max_bytes=90_000)) < 90_000 * 4 / 3 + 100


class TestWords:
    @pytest.mark.parametrize(
        ("share", "said"), [(0, "0"), (0.0001, "under 0.1"), (0.004, "0.4"), (0.0996, "10.0"), (0.5, "50"), (1, "100")]
    )
    def test_percent(self, share, said):
        assert percent(share) == f"{said}\u202f%"

    def test_numbers(self):
        assert signed(-0.126) == "\u22120.13"
        assert signed(float("nan")) == "\u2013"

    def test_genes_are_chosen_by_accuracy_then_by_spread(self):
        genes = pd.DataFrame({"val_pcc": [0.1, np.nan, 0.4, 0.4], "predicted_sd": [9.0, 8.0, 0.1, 0.5]})
        genes["evidence"] = "trained"
        assert choose_genes(genes, count=3).tolist() == [3, 2, 0]
        assert choose_genes(genes.assign(val_pcc=np.nan), count=2).tolist() == [0, 1]
        unseen = genes.assign(evidence=["dissimilar_text", "similar_text", "trained", "trained"])
        assert choose_genes(unseen, count=4).tolist() == [3, 2, 1, 0]

    def test_maps_that_show_the_same_are_left_out_while_others_are_there(self):
        random = np.random.default_rng(5)
        one, two = random.normal(size=(2, 400)).astype(np.float32)
        maps = [one, one * 3 + 1, np.zeros(400, np.float32), -one, two, two + 0.01 * one]
        chosen = [choose_diverse(np.arange(6), lambda gene: maps[gene], count=count).tolist() for count in range(1, 7)]
        assert chosen == [[0], [0, 4], [0, 1, 4], [0, 1, 2, 4], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5]]

    def test_metrics_are_a_table_a_protocol_with_controls_beside_the_model(self):
        facts = {"normalisation": "cp10k", "smoothing": "none", "averaging": "genes"}
        rows = [
            ("pearson", 0.13, "sections", "250", "stain area"),
            ("pearson", 0.24, "sections", "250", "model"),
            ("pearson_hpg50", 0.4, "sections", "50 best", "model"),
            ("mae", 0.5, "sections", "250", "model"),
            ("own figure", 0.38, "patients", "250", "model"),
        ]
        names = ("name", "value", "split", "genes", "subject")
        blocks = protocols(pd.DataFrame([{**dict(zip(names, row, strict=True)), **facts} for row in rows]))
        assert [block["title"] for block in blocks] == ["Protocol 1", "Protocol 2"]
        assert blocks[0]["subjects"] == ["Model", "Stain area"]
        said = {
            kind: [(row["name"], row["note"], row["cells"]) for row in blocks[0][kind]]
            for kind in ("compared", "alone")
        }
        assert said["compared"] == [("Pearson r", "", ["0.240", "0.130"])]
        assert said["alone"] == [
            ("Pearson r, best 50", "50 best", ["0.400", "\u2013"]),
            ("Mean absolute error", "", ["0.500", "\u2013"]),
        ]
        assert not blocks[0]["has_gaps"]
        assert ("Genes", "250") in blocks[0]["facts"]
        assert blocks[1]["alone"][0]["name"] == "own figure"
