"""A published configuration is how a method was built and trained, and one's own options stand above it."""

from __future__ import annotations

import numpy as np
import pytest

from histocast.errors import ConfigError
from histocast.networks.dkan import DkanConfig
from histocast.training.fit_network import label_scale
from histocast.training.registry import read_options

# As METHODS has them: optimiser, learning rate, weight decay, schedule, spots and genes of a step.
TRAINING = {
    "dkan": ("adam", 1e-4, 0.0, "step", 128, None),
    "domainst": ("adam", 1e-4, 0.0, "step", 128, None),
    "alignst": ("adamw", 5e-4, 1e-4, "constant", 64, 64),
}
DATA_SETS = {
    "dkan": ("her2st", "cscc", "stnet"),
    "domainst": ("her2st", "cscc", "stnet"),
    "alignst": ("her2st", "cscc"),
}


@pytest.mark.parametrize(("method", "data_set"), [(method, name) for method in DATA_SETS for name in DATA_SETS[method]])
def test_a_configuration_trains_as_published(method: str, data_set: str) -> None:
    options, _ = read_options(method, {"configuration": data_set}, where="test")
    found = options.training
    shown = (found.optimiser, found.learning_rate, found.weight_decay, found.schedule, found.spots_per_step, found.genes_per_step)  # fmt: skip
    assert shown == TRAINING[method]
    assert found.average == 0.0
    if method == "alignst":
        assert options.standardise_labels == "range"
    else:
        assert (found.epochs, options.seed, options.standardise_labels) == (200, 2021, False)


def test_ones_own_options_stand_above_what_is_published() -> None:
    given = {"configuration": "cscc", "seed": 3, "training": {"epochs": 7}, "model": {"temperature": 0.2}}
    options, config = read_options("dkan", given, where="test")
    assert (options.seed, options.training.epochs, options.training.learning_rate) == (3, 7, 1e-4)
    assert isinstance(config, DkanConfig)
    assert (config.temperature, config.keys) == (0.2, "fused")
    plain, _ = read_options("dkan", {}, where="test")
    assert (plain.seed, plain.standardise_labels, plain.training.optimiser) == (None, True, "adamw")


@pytest.mark.parametrize(("method", "data_set"), [("stnet", "stnet"), ("bleep", "her2st"), ("alignst", "stnet")])
def test_what_was_never_published_is_refused(method: str, data_set: str) -> None:
    with pytest.raises(ConfigError, match=f"configuration '{data_set}' of {method}"):
        read_options(method, {"configuration": data_set}, where="test")


def test_labels_are_brought_to_sd_range_or_left() -> None:
    labels = np.random.default_rng(0).normal(2, 3, size=(50, 4)).astype(np.float32)
    labels[:, 3] = 1.5

    def scaled(how: object) -> np.ndarray:
        offset, scale = label_scale(labels, how=how)
        return (labels - offset) / scale

    np.testing.assert_allclose(scaled(True)[:, :3].std(axis=0), 1.0, rtol=1e-5)
    np.testing.assert_allclose(scaled(True).mean(axis=0), 0.0, atol=1e-5)
    found = scaled("range")
    np.testing.assert_allclose(found.min(axis=0), 0.0, atol=1e-6)
    np.testing.assert_allclose(found.max(axis=0), [1, 1, 1, 0], atol=1e-6)
    np.testing.assert_array_equal(scaled(False), labels)
