"""Ridge is what its formula says, and its graph computes the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from sklearn.linear_model import Ridge

from histocast.errors import ConfigError
from histocast.networks.correlation import gene_pearson, mean_section_pearson
from histocast.networks.onnx_file import check_against_torch, write_onnx
from histocast.networks.ridge import RidgeFit, RidgeOptions, ScaleMeans, fit_ridge
from histocast.networks.ridge_solution import Decomposition

SPOTS, DIM, GENES = 120, 7, 9
OUTPUTS = ("expression", "sd")


def made_inputs(spots: int = SPOTS, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    mask = random.random((spots, 25)) < 0.7
    mask[:, 12] = True
    mask[0] = np.arange(25) == 12
    target = random.normal(size=(spots, DIM)).astype(np.float32)
    neighbour = random.normal(size=(spots, 25, DIM)).astype(np.float32) * mask[:, :, None]
    neighbour[:, 12] = target
    return {"target": target, "neighbour": neighbour, "neighbour_mask": mask}


def design_of(inputs: dict[str, np.ndarray], options: RidgeOptions) -> np.ndarray:
    return ScaleMeans(options.scales)(*(torch.from_numpy(value) for value in inputs.values())).numpy()


@pytest.fixture(scope="module")
def fitted() -> RidgeFit:
    options = RidgeOptions()
    design = design_of(made_inputs(), options)
    random = np.random.default_rng(1)
    labels = design @ random.normal(size=(design.shape[1], GENES)) + random.normal(size=(SPOTS, GENES))
    section = np.repeat([0, 1, 2, 3], SPOTS // 4)
    return fit_ridge(design, labels, section=section, group=section, options=options)


def test_the_design_is_the_target_and_masked_means_of_its_neighbourhoods() -> None:
    inputs = made_inputs()
    design = design_of(inputs, RidgeOptions())
    for spot in range(SPOTS):
        expected = [inputs["target"][spot]]
        for reach in (1, 2):
            members = [
                inputs["neighbour"][spot, row * 5 + col]
                for row in range(5)
                for col in range(5)
                if abs(row - 2) <= reach and abs(col - 2) <= reach and inputs["neighbour_mask"][spot, row * 5 + col]
            ]
            expected.append(np.mean(members, axis=0))
        np.testing.assert_allclose(design[spot], np.concatenate(expected), atol=1e-5)


def test_weights_equal_those_of_another_implementation() -> None:
    random = np.random.default_rng(2)
    design, labels = random.normal(3, 2, (80, 12)), random.normal(size=(80, GENES))
    standard = (design - design.mean(axis=0)) / design.std(axis=0)
    for alpha in (0.01, 1.0, 100.0):
        reference = Ridge(alpha=alpha * len(design)).fit(standard, labels)
        new = random.normal(3, 2, (20, 12))
        expected = reference.predict((new - design.mean(axis=0)) / design.std(axis=0))
        np.testing.assert_allclose(Decomposition(design, labels).solve(alpha).predict(new), expected, atol=1e-9)


def test_leverage_is_that_of_linear_regression() -> None:
    random = np.random.default_rng(3)
    design = random.normal(size=(60, 5))
    solution = Decomposition(design, random.normal(size=(60, 2))).solve(0.5)
    standard = (design - design.mean(axis=0)) / design.std(axis=0)
    inverse = np.linalg.inv(standard.T @ standard + 0.5 * 60 * np.eye(5))
    expected = np.einsum("sd,de,se->s", standard, inverse, standard)
    np.testing.assert_allclose(solution.leverage(design), expected, atol=1e-10)


def test_a_feature_that_never_varies_changes_nothing() -> None:
    random = np.random.default_rng(4)
    design, labels = random.normal(size=(50, 4)), random.normal(size=(50, 3))
    padded = np.concatenate([design, np.full((50, 1), 7.0)], axis=1)
    expected = Decomposition(design, labels).solve(0.1).predict(design)
    np.testing.assert_allclose(Decomposition(padded, labels).solve(0.1).predict(padded), expected, atol=1e-10)


def test_held_out_predictions_come_from_models_that_had_not_seen_the_group(fitted: RidgeFit) -> None:
    options = RidgeOptions(alphas=(fitted.alpha,))
    random = np.random.default_rng(1)
    design = design_of(made_inputs(), options)
    labels = design @ random.normal(size=(design.shape[1], GENES)) + random.normal(size=(SPOTS, GENES))
    group = np.repeat([0, 1, 2, 3], SPOTS // 4)
    changed = labels.copy()
    changed[group == 2] += 100.0
    before = fit_ridge(design, labels, section=group, group=group, options=options)
    after = fit_ridge(design, changed, section=group, group=group, options=options)
    same = after.heldout_expression[group == 2]
    np.testing.assert_array_equal(before.heldout_expression[group == 2], same)
    assert not np.allclose(before.heldout_expression[group == 1], after.heldout_expression[group == 1])


def test_the_penalty_is_the_best_on_held_out_groups(fitted: RidgeFit) -> None:
    scores = fitted.choices["scores"]
    assert scores[f"{fitted.alpha:g}"] == fitted.score == max(scores.values())
    assert set(scores) == {f"{alpha:g}" for alpha in RidgeOptions().alphas}


def test_sd_grows_for_spots_unlike_the_training_spots(fitted: RidgeFit) -> None:
    inputs = made_inputs()
    far = {**inputs, "target": inputs["target"] * 20}
    near_sd, far_sd = (fitted.module(*(torch.from_numpy(v) for v in values.values()))[1] for values in (inputs, far))
    assert (far_sd.median(dim=0).values > 1.5 * near_sd.median(dim=0).values).all()
    assert (near_sd > 0).all()


def test_the_graph_equals_torch_for_any_number_of_spots(fitted: RidgeFit, tmp_path: Path) -> None:
    path = tmp_path / "fusion.onnx"
    write_onnx(fitted.module, path, inputs=made_inputs(), outputs=OUTPUTS, axis="spot")
    for spots in (1, 2, 700):
        assert check_against_torch(fitted.module, path, inputs=made_inputs(spots, seed=5), outputs=OUTPUTS) < 1e-5


def test_a_graph_of_other_weights_is_refused(fitted: RidgeFit, tmp_path: Path) -> None:
    path = tmp_path / "fusion.onnx"
    write_onnx(fitted.module, path, inputs=made_inputs(), outputs=OUTPUTS, axis="spot")
    with torch.no_grad():
        fitted.module.intercept += 0.01
    try:
        with pytest.raises(ConfigError, match="differs by"):
            check_against_torch(fitted.module, path, inputs=made_inputs(), outputs=OUTPUTS)
    finally:
        fitted.module.intercept -= 0.01


def test_the_graph_holds_no_path_and_is_the_same_twice(fitted: RidgeFit, tmp_path: Path, root: Path) -> None:
    contents = []
    for name in ("one.onnx", "two.onnx"):
        write_onnx(fitted.module, tmp_path / name, inputs=made_inputs(), outputs=OUTPUTS, axis="spot")
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]
    assert str(root).encode() not in contents[0]
    assert b".py" not in contents[0]


def test_a_spot_is_predicted_the_same_whatever_else_is_in_the_call(fitted: RidgeFit) -> None:
    inputs = {name: torch.from_numpy(value) for name, value in made_inputs().items()}
    whole = fitted.module(*inputs.values())[0]
    order = torch.randperm(SPOTS, generator=torch.Generator().manual_seed(0))[:17]
    part = fitted.module(*(value[order] for value in inputs.values()))[0]
    torch.testing.assert_close(part, whole[order], atol=1e-5, rtol=1e-5)


def test_pearson_is_that_of_scipy_and_defined_for_constants() -> None:
    random = np.random.default_rng(6)
    truth, predicted = random.normal(size=(50, 4)), random.normal(size=(50, 4))
    expected = [pearsonr(truth[:, gene], predicted[:, gene]).statistic for gene in range(4)]
    np.testing.assert_allclose(gene_pearson(truth, predicted), expected)
    assert np.isnan(gene_pearson(np.ones((50, 1)), predicted[:, :1]))[0]
    assert gene_pearson(truth[:, :1], np.full((50, 1), 0.1, np.float32))[0] == 0
    section = np.repeat([0, 1], 25)
    halves = [gene_pearson(truth[section == one], predicted[section == one]) for one in (0, 1)]
    np.testing.assert_allclose(mean_section_pearson(truth, predicted, section), np.mean(halves, axis=0))


def test_every_annotated_axis_is_what_it_says() -> None:
    """In a process of its own, because the hook must come before the first import."""
    program = """
from jaxtyping import install_import_hook
with install_import_hook("histocast.networks.ridge", "beartype.beartype"):
    from histocast.networks.ridge import ScaleMeans
import torch
means = ScaleMeans(("target", "3x3", "5x5"))
print(tuple(means(torch.ones(4, 6), torch.ones(4, 25, 6), torch.ones(4, 25, dtype=torch.bool)).shape))
try:
    means(torch.ones(4, 6), torch.ones(3, 25, 6), torch.ones(4, 25, dtype=torch.bool))
except Exception as error:
    print(type(error).__name__)
"""
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=100)
    assert found.stdout.split("\n")[:2] == ["(4, 18)", "TypeCheckError"]
