"""What a network learns from: regions of spots, their labels, and which of them are held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from histocast.encoders.target_encoder import FromPixels, Tiles
from histocast.networks.layers import Spots
from histocast.networks.measured import over_measured
from histocast.networks.network import Network


@dataclass(frozen=True)
class TrainingRegion:
    """The spots of one call of a network, and the labels of those measured."""

    spots: Spots
    rows: torch.Tensor
    """int64 [measured] places in the region of spots that are measured here (not in its halo)."""
    place: NDArray[np.int64]
    """[measured] place of the same spots among all training spots."""
    tiles: Tiles | None = None
    """Pixels of the targets, for a `FromPixels`."""


@dataclass(frozen=True)
class Data:
    """What a network learns from: regions, labels in units of their sd, and who is held out."""

    regions: Sequence[TrainingRegion]
    labels: NDArray[np.float32]
    """[spot, gene] of all training spots, on the network's scale; NaN for the genes that a section did not measure,
    which take part in no loss there."""
    section: NDArray[np.int64]
    """[spot]."""
    heldout: NDArray[np.bool_]
    """[spot]: takes no part in the losses, and decides when to stop."""

    def held(self) -> Data:
        """The same with those regions alone that hold held-out spots."""
        return replace(self, regions=[region for region in self.regions if self.heldout[region.place].any()])


def predict_regions(network: Network, data: Data, *, device: torch.device | None = None) -> NDArray[np.float32]:
    """Predictions [spot, gene] of all training spots, on the network's scale."""
    network.eval()
    found = np.full(data.labels.shape, np.nan, np.float32)
    with torch.no_grad():
        for region in data.regions:
            if len(region.place):
                values = network(see_region(network, region, region.rows, device=device))
                found[region.place] = values[region.rows].float().cpu().numpy()
    return found


def fill_unmeasured(labels: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Labels with the mean of the ``known`` spots (0 without any) in place of NaN.

    No loss is taken on them: they stand in for the gene where a network reads the whole panel of a spot.
    """
    missing = np.isnan(labels)
    if not missing.any():
        return labels
    mean = np.nan_to_num(over_measured(np.mean, labels[known]))
    return np.where(missing, mean, labels).astype(np.float32)


def see_region(network: Network, region: TrainingRegion, rows: torch.Tensor, *, device: torch.device | None) -> Spots:
    """The region's spots as the network takes them, with the targets of ``rows`` encoded where it does that itself."""
    spots = to_device(region.spots, device)
    return (
        network.see(spots, region.tiles, rows)
        if isinstance(network, FromPixels) and region.tiles is not None
        else spots
    )


def to_device(spots: Spots, device: torch.device | None) -> Spots:
    """The spots' tensors on a device."""
    if device is None or device.type == "cpu":
        return spots
    return Spots(**{name: value.to(device) for name, value in vars(spots).items() if value is not None})
