"""What the page of a cohort holds: every slide, the genes that fit, and nothing that identifies anybody."""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histocast.cohort import cohort_page
from histocast.cohort.gather_cohort import gather_cohort
from histocast.errors import UsageError
from made_cohort import Made, make_slides, write_results

GENES = 40


def scene_of(folder: Path) -> dict[str, Any]:
    page = (folder / "cohort.html").read_text()
    return json.loads(re.search(r'id="cohort-data">(.*?)</script>', page).group(1))


def words(packed: str) -> list[str]:
    return json.loads(zlib.decompress(base64.b64decode(packed)))


@pytest.fixture
def gathered(tmp_path, without_map, monkeypatch) -> Path:
    """Twelve slides, one of which is without tissue, in a page that holds but a few genes and pictures."""
    slides = make_slides(11, genes=GENES, metadata=lambda number: {"site": "abc"[number % 3]})
    slides.append(Made("none", None, {"site": "a"}))
    write_results(tmp_path / "results", slides)
    monkeypatch.setattr(cohort_page, "GENE_BYTES", 300)
    monkeypatch.setattr(cohort_page, "PICTURE_BYTES", 1000)
    gather_cohort([str(tmp_path / "results")], outdir=tmp_path / "cohort", scratch=tmp_path)
    return tmp_path / "cohort"


def test_what_does_not_fit_is_left_out_and_said_so(gathered):
    scene = scene_of(gathered)
    assert scene["count"] == 12
    assert 2 < len(scene["values"]) < GENES
    assert sum(len(each["packed"]["data"]) for each in scene["values"]) <= 300
    assert f"Values of {GENES - len(scene['values'])} genes" in (gathered / "cohort.html").read_text()
    assert 1 <= len(scene["pictures"]["rows"]) < 12
    assert sum(map(len, scene["pictures"]["jpeg"])) <= 1000


def test_genes_that_differ_most_and_are_predicted_best_come_first(gathered):
    import anndata

    data = anndata.read_h5ad(gathered / "cohort.h5ad")
    importance = data.var["slides_sd"] * data.var["val_pcc"]
    expected = importance.sort_values(ascending=False).index
    shown = [each["name"] for each in scene_of(gathered)["values"]]
    assert shown == list(expected[: len(shown)])


def test_words_are_sorted_as_people_sort_them(gathered):
    names = words(scene_of(gathered)["columns"][0]["words"])
    assert names == ["none", "S0", "S1", "S2", "S3", "S4", "S5", "S6", "S7", "S8", "S9", "S10"]


@pytest.mark.parametrize("pages", ["/home/somebody", "file:///x", "s3://lab/results"])
def test_pages_that_are_named_by_where_they_lie_are_refused(tmp_path, pages):
    with pytest.raises(UsageError, match="not relative"):
        gather_cohort([], outdir=tmp_path, scratch=tmp_path, pages=pages)


def test_a_mean_that_nothing_is_known_of_is_packed_as_missing():
    made = cohort_page._number("x", "x", np.full(3, np.nan))
    assert made["packed"]["digits"] == 0
