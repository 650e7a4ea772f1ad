"""How a network is trained: stopped and gone on with, in half precision, and refused what would spoil it."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from killed_training import epochs_kept_by_a_killed_training

from histocast.errors import ConfigError, DataError
from histocast.networks.baselines import Bleep
from histocast.networks.dkan import Dkan, DkanConfig
from histocast.networks.layers import Spots
from histocast.networks.losses import Losses
from histocast.progress import Meter
from histocast.training.checkpoint import load_checkpoint
from histocast.training.loop import Epoch, LoopOptions, train_network
from histocast.training.registry import DESIGNS, read_options
from histocast.training.training_regions import Data, TrainingRegion
from histocast.training.variants import apply_variant


def made_small(method: str) -> dict[str, object]:
    return {"dim": 16} if method == "alignst" else {"trunk": {"dim": 16}}


def made_data() -> Data:
    random = torch.Generator().manual_seed(0)
    regions, start = [], 0
    for _ in range(3):
        place = torch.arange(30)
        spots = Spots(
            target=torch.randn(30, 1, 8, generator=random),
            neighbour=torch.randn(30, 25, 8, generator=random),
            neighbour_mask=torch.ones(30, 25, dtype=torch.bool),
            context=torch.randn(30, 8, generator=random),
            grid_xy=torch.stack([place % 6, place // 6], dim=1),
            nuclei=torch.rand(30, 2, 16, 16, generator=random),
        )
        regions.append(TrainingRegion(spots, place, np.arange(start, start + 30)))
        start += 30
    labels = torch.randn(90, 12, generator=random).numpy()
    section = np.repeat(np.arange(3), 30)
    return Data(regions, labels, section, section == 2)


def made_network(method: str) -> Any:
    method, _, variant = method.partition(":")
    content: dict[str, Any] = {
        "options": {"model": made_small(method)} if method in ("dkan", "domainst", "alignst") else {}
    }
    _, config = read_options(
        method, (apply_variant(content, method, variant) if variant else content)["options"], where="test"
    )
    torch.manual_seed(1)
    return DESIGNS[method].build(config, features=8, genes=12, panel_text=torch.randn(12, 5))


def learn(network: Any, options: LoopOptions, data: Data | None = None) -> tuple[Epoch, ...]:
    if isinstance(network, Bleep):
        network.remember(torch.randn(60, 12))
    with Meter("train", total=options.epochs, unit="epochs") as meter:
        return train_network(
            network, data or made_data(), options=options, seed=3, identity="", checkpoint=None, meter=meter
        )


def run_training(checkpoint: Path | None, *, epochs: int = 25, data: Data | None = None) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    text = torch.randn(12, 5)
    network = Dkan(DkanConfig(trunk={"dim": 16}), features=8, genes=12, panel_text=text)
    options = LoopOptions(epochs=epochs, patience=epochs)
    with Meter("train", total=epochs, unit="epochs") as meter:
        train_network(
            network, data or made_data(), options=options, seed=3, identity="same", checkpoint=checkpoint, meter=meter
        )
    weights: dict[str, torch.Tensor] = network.state_dict()
    return weights


def test_killed_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    checkpoint = tmp_path / "0.pt"
    assert 3 <= epochs_kept_by_a_killed_training("test_loop", "run_training", checkpoint, epochs=3) < 25
    resumed, unbroken = run_training(checkpoint), run_training(None)
    assert resumed.keys() == unbroken.keys()
    assert all(torch.equal(resumed[name], unbroken[name]) for name in resumed)


def test_a_checkpoint_of_another_training_or_a_damaged_one_is_not_taken(tmp_path: Path) -> None:
    checkpoint = tmp_path / "0.pt"
    run_training(checkpoint, epochs=2)
    assert load_checkpoint(checkpoint, identity="other") is None
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    with pytest.raises(DataError, match="damaged checkpoint"):
        load_checkpoint(checkpoint, identity="same")


def test_training_leaves_random_numbers_and_threads_alone() -> None:
    torch.manual_seed(4)
    wanted = torch.rand(3)
    threads = torch.get_num_threads()
    torch.manual_seed(4)
    state = torch.get_rng_state()
    network = Dkan(DkanConfig(trunk={"dim": 16}), features=8, genes=12, panel_text=torch.zeros(12, 5))
    torch.set_rng_state(state)
    with Meter("train", total=1, unit="epochs") as meter:
        options = LoopOptions(epochs=1)
        train_network(network, made_data(), options=options, seed=3, identity="", checkpoint=None, meter=meter)
    assert torch.equal(torch.rand(3), wanted)
    assert torch.get_num_threads() == threads


def test_a_loss_that_is_not_finite_stops_the_training_and_says_where() -> None:
    data = made_data()
    data.regions[0].spots.target[4] = float("nan")
    with pytest.raises(ConfigError, match=r"the loss is nan in epoch 1 \(supervised nan"):
        run_training(None, epochs=2, data=data)


def test_a_gradient_that_is_not_finite_stops_the_training_before_it_harms_a_weight() -> None:
    """The root has a finite value at 0, and no finite slope."""

    class Rooted(Dkan):
        def losses(self, *inputs: object, **named: object) -> Losses:
            found = super().losses(*inputs, **named)
            return Losses(found.total + (next(self.parameters()).sum() * 0.0).sqrt(), found.parts)

    network = Rooted(DkanConfig(trunk={"dim": 16}), features=8, genes=12, panel_text=torch.zeros(12, 5))
    with pytest.raises(ConfigError, match=r"the gradient is not finite in epoch 1 \(supervised \d"):
        learn(network, LoopOptions(epochs=1))
    assert all(torch.isfinite(value).all() for value in network.parameters())


@pytest.mark.parametrize("clip", [1e-3, 1e6])
def test_a_step_is_no_longer_than_the_clip_allows(clip: float) -> None:
    network = made_network("dkan")
    learn(network, LoopOptions(epochs=1, clip=clip))
    norm = float(torch.linalg.vector_norm(torch.cat([value.grad.flatten() for value in network.parameters()])))
    # Of the last step: clipped to the bound itself, and far above it where the bound is out of reach.
    assert norm == pytest.approx(1e-3, rel=1e-3) if clip == 1e-3 else norm > 0.01


def test_a_region_without_two_spots_to_learn_from_is_refused() -> None:
    data = made_data()
    data.heldout[:] = True
    data.heldout[[0, 30, 60]] = False
    with pytest.raises(DataError, match="3 spots to learn from, no two in one region"):
        run_training(None, epochs=1, data=data)


@pytest.mark.parametrize("method", ["dkan", "dkan:one-key", "domainst", "alignst:nuclei", "stnet", "bleep"])
def test_half_precision_learns_as_single_precision_does(method: str) -> None:
    histories = []
    for precision in ("fp32", "bf16"):
        network = made_network(method)
        histories.append(learn(network, LoopOptions(epochs=3, precision=precision)))
        assert {value.dtype for value in network.parameters()} == {torch.float32}
    full, half = ([epoch.loss for epoch in history] for history in histories)
    assert full != half, "nothing was computed in half precision"
    # bfloat16 keeps 8 bits: a loss is within a hundredth or two.
    np.testing.assert_allclose(half, full, rtol=0.05)
    assert half[-1] < half[0]


def test_time_left_counts_what_was_done_now() -> None:
    """After a resume, epochs of the run before say nothing of how long one takes."""
    meter = Meter("train", total=100, unit="epochs")
    meter._started_s = time.monotonic() - 50.0
    meter.skip(90)
    assert re.fullmatch(r"train: 90 of 100 epochs in 50\.\d s", meter._line())
    meter.advance(5)
    assert re.fullmatch(r"train: 95 of 100 epochs in 50\.\d s \(10\.0 s each, 50 s left\)", meter._line())
    meter.advance(5)
    assert meter._line().endswith(" (5.0 s each)")


def test_held_out_labels_change_no_weight() -> None:
    first, second = made_data(), made_data()
    second.labels[second.heldout] = np.random.default_rng(9).normal(size=(30, 12))
    assert not np.array_equal(first.labels, second.labels)

    def after_one(data: Data) -> dict[str, torch.Tensor]:
        return run_training(None, epochs=1, data=data)

    one, other = after_one(first), after_one(second)
    assert all(torch.equal(one[name], other[name]) for name in one)
