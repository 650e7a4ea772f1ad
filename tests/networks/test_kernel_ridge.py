"""Kernel ridge is what its formula says, and its graph computes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from sklearn.kernel_ridge import KernelRidge
from test_ridge import GENES, OUTPUTS, SPOTS, design_of, made_inputs

from histocast.networks.kernel_ridge import KernelMap, KernelRidgeFit, KernelRidgeOptions, fit_kernel_ridge
from histocast.networks.onnx_file import check_against_torch, run_torch, write_onnx

OPTIONS = KernelRidgeOptions(alphas=(0.01, 0.1), widths=(0.2, 0.5), components=SPOTS)
GROUP = np.repeat([0, 1, 2, 3], SPOTS // 4)


@pytest.fixture(scope="module")
def design() -> np.ndarray:
    return design_of(made_inputs(), OPTIONS).astype(np.float64)


@pytest.fixture(scope="module")
def labels(design: np.ndarray) -> np.ndarray:
    """No straight line, and with a mean."""
    return 3 + np.sin(design @ np.random.default_rng(1).normal(size=(design.shape[1], GENES)))


@pytest.fixture(scope="module")
def fitted(design: np.ndarray, labels: np.ndarray) -> KernelRidgeFit:
    return fit_kernel_ridge(design, labels, section=GROUP, group=GROUP, options=OPTIONS)


def test_expression_and_sd_are_those_of_other_implementations(
    fitted: KernelRidgeFit, design: np.ndarray, labels: np.ndarray
) -> None:
    """The penalty leaves the mean alone, as ridge does; sklearn's has none, so both are compared on centred components."""
    standard = (design - design.mean(axis=0)) / design.std(axis=0)
    new = made_inputs(30, seed=5)
    asked = (design_of(new, OPTIONS) - design.mean(axis=0)) / design.std(axis=0)
    penalty, dims = fitted.alpha * SPOTS, design.shape[1]

    def centred_kernel(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            return np.exp(-fitted.kernel.width * ((a[:, None] - b[None]) ** 2).mean(axis=2))

        of_first, of_second = kernel(first, standard).mean(axis=1), kernel(standard, second).mean(axis=0)
        return kernel(first, second) - of_first[:, None] - of_second[None] + kernel(standard, standard).mean()

    reference = KernelRidge(alpha=penalty, kernel="precomputed")
    reference.fit(centred_kernel(standard, standard), labels - labels.mean(axis=0))
    expected = reference.predict(centred_kernel(asked, standard)) + labels.mean(axis=0)
    found = run_torch(fitted.module, new, outputs=OUTPUTS)
    # Components below rounding are left out, and the graph computes in single precision.
    np.testing.assert_allclose(found["expression"], expected, atol=2e-3)
    assert dims == fitted.kernel.landmarks.shape[1]

    process = GaussianProcessRegressor(RBF(np.sqrt(dims / 2 / fitted.kernel.width)), alpha=penalty, optimizer=None)
    _, deviation = process.fit(standard, labels[:, 0]).predict(asked, return_std=True)
    growth = (found["sd"][:, 0] / fitted.module.residual_sd[0].item()) ** 2 - 1
    assert np.corrcoef(growth, deviation**2)[0, 1] > 0.95


def test_width_and_penalty_are_the_best_on_groups_whose_labels_were_not_seen(
    fitted: KernelRidgeFit, design: np.ndarray, labels: np.ndarray
) -> None:
    assert fitted.choices["scores"][f"{fitted.kernel.width:g}, {fitted.alpha:g}"] == fitted.score
    assert fitted.score == max(fitted.choices["scores"].values())
    assert len(fitted.choices["scores"]) == 4
    changed = labels.copy()
    changed[GROUP == 2] += 100.0
    one = OPTIONS.model_copy(update={"alphas": (0.1,), "widths": (0.2,)})
    before, after = (fit_kernel_ridge(design, y, section=GROUP, group=GROUP, options=one) for y in (labels, changed))
    unseen = GROUP == 2
    np.testing.assert_array_equal(before.heldout_expression[unseen], after.heldout_expression[unseen])
    assert not np.allclose(before.heldout_expression[~unseen], after.heldout_expression[~unseen])


def test_a_few_landmarks_do_for_many_spots(design: np.ndarray, labels: np.ndarray) -> None:
    few = KernelMap.over(design, width=0.2, options=KernelRidgeOptions(landmarks=40, components=30))
    assert few.landmarks.shape[0] == 40
    components = few(design)
    assert components.shape[1] <= 30
    assert ((components**2).sum(axis=1) < 1 + 1e-9).all()


def test_the_graph_equals_torch_and_is_surest_where_it_was_trained(fitted: KernelRidgeFit, tmp_path: Path) -> None:
    path = tmp_path / "fusion.onnx"
    write_onnx(fitted.module, path, inputs=made_inputs(), outputs=OUTPUTS, axis="spot")
    for spots in (1, 2, 300):
        assert check_against_torch(fitted.module, path, inputs=made_inputs(spots, seed=5), outputs=OUTPUTS) < 1e-4
    inputs = made_inputs()
    far = {**inputs, "target": inputs["target"] * 20}
    near_sd, far_sd = (run_torch(fitted.module, each, outputs=OUTPUTS)["sd"].mean() for each in (inputs, far))
    assert far_sd > 1.1 * near_sd
