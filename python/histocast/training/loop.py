"""Train one network: regions in, early stopping on held-out spots, resumable at every epoch.

Spots are frozen features; where the network's target encoder is trained too, the target's pixels are read a step.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from pydantic import Field
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from histocast.encoders.target_encoder import FromPixels
from histocast.errors import ConfigError, DataError
from histocast.networks.correlation import mean_section_pearson
from histocast.networks.layers import Config
from histocast.networks.network import Network
from histocast.progress import Meter, log
from histocast.training.checkpoint import load_checkpoint, save_checkpoint
from histocast.training.training_regions import Data, TrainingRegion, fill_unmeasured, predict_regions, see_region


class LoopOptions(Config):
    """How a network is trained."""

    epochs: int = Field(default=30, ge=1)
    """Most passes over the training regions."""
    patience: int = Field(default=6, ge=1)
    """Epochs without a better held-out Pearson after which training stops."""
    optimiser: Literal["adamw", "adam"] = "adamw"
    learning_rate: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """``step`` is the published one: 0.9 times every 50 epochs."""
    average: float = Field(default=0.98, ge=0, lt=1)
    """Share of the running mean of the weights that a step keeps; it is the mean that is scored and kept. 0 takes
    the weights of the last step, as published."""
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient."""
    steps_per_region: int = Field(default=4, ge=1)
    """Steps on a region in an epoch, each on other spots and genes."""
    spots_per_step: int | None = Field(default=64, ge=2)
    """Spots of a region that a step's losses are taken on; all its spots give context. ``None`` takes all."""
    genes_per_step: int | None = Field(default=64, ge=2)
    """Genes that a step's losses are taken on. ``None`` takes all."""
    precision: Literal["fp32", "bf16"] = "fp32"
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    """The CPU gives the same weights each time, which a GPU does not promise."""
    threads: int = Field(default=1, ge=1)
    """Threads of torch. Matrices of the default sizes gain nothing from a second one, and on a busy machine the
    two wait for each other; wide embeddings want more."""
    members: int = Field(default=4, ge=1)
    """Networks of the ensemble: held-out patients or sections are put into as many groups, and each network
    leaves one group out, on which it stops early."""


@dataclass(frozen=True)
class Epoch:
    """One pass over the training regions."""

    epoch: int
    loss: float
    """Mean over steps, as are its parts."""
    heldout_pearson: float
    learning_rate: float
    parts: dict[str, float]
    """The loss's, by name, before they are weighed."""


def train_network(
    network: Network,
    data: Data,
    *,
    options: LoopOptions,
    seed: int,
    identity: str,
    checkpoint: Path | None,
    meter: Meter,
    watch: Callable[[tuple[Epoch, ...]], None] | None = None,
) -> tuple[Epoch, ...]:
    """Train ``network`` in place, leave it with its best weights, and return the history.

    Random numbers outside are untouched. The same seed gives the same weights on the CPU, whether the training
    was stopped in between or not.

    ``watch``: is given the history after every epoch.
    Raises `ConfigError`: the loss or its gradient is no finite number; `DataError`: no region holds two spots to learn
    from.
    """
    device = _device(options)
    with torch.random.fork_rng(), torch_threads(options.threads):
        torch.manual_seed(seed)
        run = _Run(network.to(device), data, options, device)
        found = load_checkpoint(checkpoint, identity=identity) if checkpoint else None
        if found is not None:
            run.restore(found)
            log(f"going on after epoch {len(run.history)}")
            meter.skip(len(run.history))
        while not run.finished():
            run.epoch()
            meter.advance()
            if checkpoint is not None:
                save_checkpoint(checkpoint, run.state(), identity=identity)
            if watch is not None:
                watch(tuple(run.history))
        # A training that had ended before it was stopped has no epoch left to tell of.
        if watch is not None:
            watch(tuple(run.history))
        meter.skip(options.epochs - len(run.history))
    network.load_state_dict(run.best)
    network.to("cpu").eval()
    return tuple(run.history)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use ``count`` threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Run:
    """One training: everything that changes from epoch to epoch."""

    def __init__(self, network: Network, data: Data, options: LoopOptions, device: torch.device) -> None:
        self.network, self.data, self.options, self.device = network, data, options, device
        made = torch.optim.AdamW if options.optimiser == "adamw" else torch.optim.Adam
        self.optimiser = made(_rates(network, options), lr=options.learning_rate, weight_decay=options.weight_decay)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimiser, self._rate)
        self.labels = torch.from_numpy(fill_unmeasured(data.labels, ~data.heldout))
        self.history: list[Epoch] = []
        mean = get_ema_multi_avg_fn(options.average)  # type: ignore[no-untyped-call]
        self.averaged = AveragedModel(network, multi_avg_fn=mean, use_buffers=True)
        self.best: dict[str, torch.Tensor] = copy.deepcopy(network.state_dict())
        self.best_epoch = 0
        self.training = [
            (
                region,
                torch.from_numpy(np.flatnonzero(~data.heldout[region.place])),
                torch.from_numpy(np.flatnonzero(~np.isnan(data.labels[region.place]).any(axis=0))),
            )
            for region in data.regions
        ]
        if not any(len(usable) > 1 for _, usable, _ in self.training):
            raise DataError(
                f"{sum(len(usable) for _, usable, _ in self.training)} spots to learn from, no two in one region",
                expected="regions of two spots or more besides those held out",
                where="training",
                advice="train on more sections, or set region_spots of the recipe higher",
            )

    def _rate(self, epoch: int) -> float:
        if self.options.schedule == "constant":
            return 1.0
        if self.options.schedule == "step":
            return float(0.9 ** (epoch // 50))
        return 0.05 + 0.95 * (1 + math.cos(math.pi * epoch / self.options.epochs)) / 2

    def finished(self) -> bool:
        done = len(self.history)
        return done >= self.options.epochs or done - self.best_epoch >= self.options.patience

    def epoch(self) -> None:
        """One pass, then a look at the held-out spots."""
        self.network.train()
        order = torch.randperm(len(self.training) * self.options.steps_per_region) % len(self.training)
        steps = [self._step(*self.training[place]) for place in order.tolist() if len(self.training[place][1]) > 1]
        loss, *parts = np.mean([[loss, *parts.values()] for loss, parts in steps], axis=0).tolist()
        rate = float(self.schedule.get_last_lr()[0])
        self.schedule.step()
        score = self.score()
        named = dict(zip(steps[0][1], parts, strict=True))
        self.history.append(Epoch(len(self.history) + 1, loss, score, rate, named))
        if not self.best_epoch or score > self.history[self.best_epoch - 1].heldout_pearson:
            self.best_epoch = len(self.history)
            self.best = copy.deepcopy(self.averaged.module.state_dict())

    def _step(
        self, region: TrainingRegion, usable: torch.Tensor, measured: torch.Tensor
    ) -> tuple[float, dict[str, float]]:
        rows = _draw(usable, self.options.spots_per_step)
        genes = _draw(measured, self.options.genes_per_step)
        # Labels stand at the region's own places; those of halo and held-out spots are never looked at.
        labels = torch.zeros(len(region.spots), self.labels.shape[1])
        labels[region.rows] = self.labels[region.place]
        at = region.rows[rows]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.precision == "bf16"):
            found = self.network.losses(
                see_region(self.network, region, at, device=self.device),
                labels.to(self.device),
                rows=at.to(self.device),
                genes=genes.to(self.device),
            )
        loss = float(found.total.detach())
        parts = {name: float(value.detach()) for name, value in found.parts.items()}
        if not math.isfinite(loss):
            raise self._not_finite(f"the loss is {loss}", parts)
        self.optimiser.zero_grad(set_to_none=True)
        found.total.backward()  # type: ignore[no-untyped-call]
        try:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.options.clip, error_if_nonfinite=True)
        except RuntimeError as error:
            raise self._not_finite("the gradient is not finite", parts) from error
        self.optimiser.step()
        self.averaged.update_parameters(self.network)
        return loss, parts

    def _not_finite(self, what: str, parts: Mapping[str, float]) -> ConfigError:
        named = ", ".join(f"{name} {value:g}" for name, value in parts.items())
        return ConfigError(
            f"{what} in epoch {len(self.history) + 1} ({named})",
            expected="a finite number",
            where="training",
            advice="lower training.learning_rate, or look for features that are not finite",
        )

    def score(self) -> float:
        """Mean over genes of Pearson within sections, on the held-out spots."""
        kept = self.data.heldout
        predicted = predict_regions(cast(Network, self.averaged.module), self.data.held(), device=self.device)
        pearson = mean_section_pearson(self.data.labels[kept], predicted[kept], self.data.section[kept])
        return float(np.nan_to_num(np.nanmean(pearson), nan=-1.0)) if np.isfinite(pearson).any() else -1.0

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "best": self.best,
            "best_epoch": self.best_epoch,
            "history": [asdict(epoch) for epoch in self.history],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.best = state["best"]
        self.best_epoch = state["best_epoch"]
        self.history = [Epoch(**epoch) for epoch in state["history"]]


def _rates(network: Network, options: LoopOptions) -> list[dict[str, Any]]:
    """What is trained, in groups of one learning rate: an encoder has its own, and frozen blocks none."""
    if not isinstance(network, FromPixels):
        return [{"params": list(network.parameters()), "lr": options.learning_rate}]
    own = [value for value in network.encoder.parameters() if value.requires_grad]
    return [
        {"params": list(network.network.parameters()), "lr": options.learning_rate},
        {"params": own, "lr": network.encoder.options.learning_rate},
    ]


def _draw(values: torch.Tensor, count: int | None) -> torch.Tensor:
    if count is None or count >= len(values):
        return values
    return values[torch.randperm(len(values))[:count]]


def _device(options: LoopOptions) -> torch.device:
    available = torch.cuda.is_available()
    if options.device == "cuda" and not available:
        raise ConfigError("no CUDA device", expected="a GPU", advice="set training.device to cpu or auto")
    return torch.device("cuda" if options.device != "cpu" and available else "cpu")
