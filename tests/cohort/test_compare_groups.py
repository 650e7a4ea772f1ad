"""The manual's recipe for two groups of slides finds a difference that is there, and none that is not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_ind_from_stats

from histocast.cohort.gather_cohort import gather_cohort
from made_cohort import Made, write_results

GENES, DIFFERENT = 40, 8
BETWEEN_PATIENTS = 0.2
PATIENTS = 10


@pytest.fixture(scope="module")
def recipe() -> Any:
    """The code of the manual after it has read the cohort, as a function of it."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "cohort.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert 'anndata.read_h5ad("cohort/cohort.h5ad")' in code

    def run(cohort: anndata.AnnData) -> pd.DataFrame:
        names: dict[str, Any] = {"given": cohort}
        lines = code.replace('anndata.read_h5ad("cohort/cohort.h5ad")', "given").replace("print(", "(")
        exec(lines, names)  # the manual's own code
        return names["found"]

    return run


def make_patients(random: np.random.Generator, *, difference: float) -> tuple[np.ndarray, list[dict[str, str]]]:
    """Mean expression [slide, gene] of a slide of each patient, half of them treated, and the metadata."""
    means = 1.5 + BETWEEN_PATIENTS * random.normal(size=(PATIENTS, GENES))
    means[: PATIENTS // 2, :DIFFERENT] += difference
    groups = ["treated"] * (PATIENTS // 2) + ["control"] * (PATIENTS // 2)
    return means, [{"patient": f"P{number}", "group": group} for number, group in enumerate(groups)]


def as_cohort(means: np.ndarray, metadata: list[dict[str, str]]) -> anndata.AnnData:
    obs = pd.DataFrame([{f"meta.{name}": value for name, value in row.items()} for row in metadata])
    var = pd.DataFrame(
        {"gene_symbol": [f"GENE{n}" for n in range(GENES)], "val_pcc": 0.3}, index=map(str, range(GENES))
    )
    return anndata.AnnData(means.astype(np.float32), obs=obs.set_index(obs.index.astype(str)), var=var)


@pytest.mark.usefixtures("without_map")
def test_ten_slides_of_two_groups_with_a_known_difference(tmp_path, recipe):
    random = np.random.default_rng(4)
    for name, difference in (("differ", 5 * BETWEEN_PATIENTS), ("same", 0.0)):
        means, metadata = make_patients(random, difference=difference)
        slides = [Made(f"S{n}", mean, row) for n, (mean, row) in enumerate(zip(means, metadata, strict=True))]
        write_results(tmp_path / name, slides)
        outdir = tmp_path / f"{name}_cohort"
        gather_cohort([str(tmp_path / name)], outdir=outdir, scratch=tmp_path)
        found = recipe(anndata.read_h5ad(outdir / "cohort.h5ad"))
        assert np.flatnonzero(found["q"] < 0.05).tolist() == (list(range(DIFFERENT)) if difference else [])


def test_over_many_cohorts_the_recipe_keeps_its_rate_and_counting_spots_does_not(recipe):
    random = np.random.default_rng(5)
    false, found, by_spots = 0, 0, 0
    for _ in range(100):
        means, metadata = make_patients(random, difference=0.0)
        false += (recipe(as_cohort(means, metadata))["q"] < 0.05).any()
        # As if the 1,000 spots of each slide were observations of their own, which differ within a slide by 0.4.
        one, other = means[: PATIENTS // 2].mean(axis=0), means[PATIENTS // 2 :].mean(axis=0)
        spread, spots = np.hypot(0.4, BETWEEN_PATIENTS), 1000 * PATIENTS // 2
        by_spots += (ttest_ind_from_stats(one, spread, spots, other, spread, spots).pvalue < 0.05 / GENES).any()
        different, metadata = make_patients(random, difference=4 * BETWEEN_PATIENTS)
        found += (recipe(as_cohort(different, metadata))["q"] < 0.05)[:DIFFERENT].sum()
    assert false <= 5
    assert by_spots == 100
    assert found / (100 * DIFFERENT) > 0.95
