"""What is published of many sections: means, their intervals, choices and orders."""

from __future__ import annotations

import numpy as np
import pytest

from histocast.evaluation.figures import Figure, Place, best_by_rank_sum, bootstrap_interval, make_figure, natural_key
from histocast.evaluation.summary import MODEL, SubjectSummary, order_summaries
from histocast.evaluation.tables import name_subjects

# Patient A has six sections, the others one each: the mean over sections is far from that over patients.
OF = {"A": [0.1] * 6, "B": [0.5], "C": [0.6], "D": [0.7], "E": [0.8], "F": [0.9]}
UNITS = [unit for unit, values in OF.items() for _ in values]
VALUES = [value for values in OF.values() for value in values]


def places(units: list[str]) -> list[Place]:
    return [Place(fold=unit, sample=f"{unit}{number}", patient=unit) for number, unit in enumerate(units)]


def test_an_interval_belongs_to_the_mean_it_stands_beside() -> None:
    figure = make_figure("pearson", VALUES, places(UNITS), by_patient=True)
    assert figure.mean == pytest.approx(4.1 / 11)
    # Drawn again in a few lines: patients with all their sections, pooled.
    random = np.random.default_rng(1)
    draws = [np.mean(np.concatenate([OF[unit] for unit in random.choice(list(OF), 6)])) for _ in range(5000)]
    assert figure.low == pytest.approx(np.percentile(draws, 2.5), abs=0.02)
    assert figure.high == pytest.approx(np.percentile(draws, 97.5), abs=0.02)
    # Drawing means of patients gives the interval of another number, their mean of 0.6.
    low, _ = bootstrap_interval(np.array([0.1, 0.5, 0.6, 0.7, 0.8, 0.9]), list("ABCDEF"))
    assert low is not None
    assert figure.low is not None
    assert low - figure.low > 0.1


def test_sections_without_a_figure_and_single_patients_are_no_ground_for_an_interval() -> None:
    values = np.array([0.1, np.nan, 0.3])
    assert bootstrap_interval(values, ["A", "B", "A"]) == (None, None)
    assert bootstrap_interval(values[:1], ["A"]) == (None, None)
    low, high = bootstrap_interval(values, ["A", "B", "C"])
    assert (low, high) == pytest.approx((0.1, 0.3))
    nothing = make_figure("ssim", [float("nan")], places(["A"]), by_patient=False)
    assert (nothing.mean, nothing.sd, nothing.fold_mean, nothing.by_fold) == (None, None, None, {"A": None})


def test_folds_have_their_own_mean_and_sd() -> None:
    figure = make_figure("pearson", VALUES, places(UNITS), by_patient=True)
    of_fold = [values[0] for values in OF.values()]
    assert figure.by_fold == pytest.approx(dict(zip(OF, of_fold, strict=True)))
    assert figure.fold_mean == pytest.approx(0.6)
    assert figure.fold_sd == pytest.approx(np.std(of_fold))
    assert figure.sd == pytest.approx(np.std(VALUES))


def test_published_genes_are_ranked_over_folds_and_not_over_sections() -> None:
    # Gene 0 is best on the three sections of fold A by little, gene 1 on fold B by ranks: sections would outvote it.
    pearson = np.array([[0.5, 0.4, 0.45], [0.5, 0.4, 0.45], [0.5, 0.4, 0.45], [0.1, 0.9, 0.2], [0.1, 0.9, 0.2]])
    folds = ["A", "A", "A", "B", "C"]
    assert best_by_rank_sum(pearson, folds, count=1).tolist() == [1]
    assert best_by_rank_sum(pearson, ["A", "B", "C", "D", "E"], count=1).tolist() == [0]
    missing = np.array([[np.nan, 0.1], [0.3, 0.2]])
    assert best_by_rank_sum(missing, ["A", "B"], count=1).tolist() == [0]
    assert best_by_rank_sum(missing[:1], ["A"], count=1).tolist() == [1]


def test_names_are_sorted_as_people_do() -> None:
    assert sorted(["C10", "C2", "B1", "10", "9", "C2b"], key=natural_key) == ["9", "10", "B1", "C2", "C2b", "C10"]
    figure = make_figure("pearson", [0.1, 0.2], [Place("C10", "C10", "P"), Place("C2", "C2", "P")], by_patient=False)
    assert list(figure.by_sample) == list(figure.by_fold) == ["C2", "C10"]


def summary(method: str, subject: str, pearson: float) -> SubjectSummary:
    figure = Figure(metric="pearson", mean=pearson, sd=0, low=None, high=None, by_sample={"C2": pearson})
    return SubjectSummary(method=method, protocol="strict", subject=subject, figures=(figure,))


def test_tables_list_methods_then_controls_best_first_and_say_whose_a_control_is() -> None:
    found = [
        summary("ridge", MODEL, 0.27),
        summary("ridge", "shuffled spots", -0.003),
        summary("ridge", "training mean", 0.0),
        summary("ridge", "ridge", 0.2701),
        summary("dkan", MODEL, 0.28),
        summary("dkan", "shuffled spots", -0.001),
        summary("dkan", "training mean", 0.0),
        summary("dkan", "ridge", 0.2701),
        summary("dkan", "shuffled text", 0.06),
    ]
    named = list(name_subjects(found))
    assert named == ["dkan", "ridge", "shuffled text (dkan)", "training mean", "shuffled spots (dkan)", "shuffled spots (ridge)"]  # fmt: skip
    assert [each.method for each in order_summaries(found) if each.subject == MODEL] == ["dkan", "ridge"]
    assert name_subjects(found)["training mean"].method == "dkan"
    alone = [each for each in found if each.method == "dkan"]
    assert list(name_subjects(alone)) == ["dkan", "ridge", "shuffled text", "training mean", "shuffled spots"]


def test_a_control_that_is_not_its_namesake_says_so() -> None:
    found = [summary("ridge", MODEL, 0.2), summary("ridge", "ridge", 0.27)]
    assert list(name_subjects(found)) == ["ridge", "ridge beside ridge"]
