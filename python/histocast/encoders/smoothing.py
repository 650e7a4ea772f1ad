"""Gaussian smoothing as matrix products.

A blur along an axis is a banded matrix; on maps of about a hundred pixels the product costs the same at every
width, needs no padding step, and can thin the map in the same stroke. Borders are mirrored about the outer edge
of the first pixel, as ``scipy.ndimage`` calls ``reflect``.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

TRUNCATE = 4.0
"""Standard deviations after which the Gaussian is cut."""


def smoothing_matrix(side_px: int, *, sigma_px: float, step_px: int = 1) -> NDArray[np.float64]:
    """Weights [side_px // step_px, side_px] of a Gaussian, centred on each block of ``step_px`` pixels."""
    radius_px = int(TRUNCATE * sigma_px + 0.5)
    weights = np.zeros((side_px // step_px, side_px))
    for row in range(len(weights)):
        centre_px = row * step_px + (step_px - 1) / 2
        position_px = np.arange(math.ceil(centre_px) - radius_px, math.floor(centre_px) + radius_px + 1)
        gauss = np.exp(-0.5 * ((position_px - centre_px) / sigma_px) ** 2)
        folded_px = position_px % (2 * side_px)
        folded_px = np.where(folded_px >= side_px, 2 * side_px - 1 - folded_px, folded_px)
        np.add.at(weights[row], folded_px, gauss / gauss.sum())
    return weights


class Smoothing(nn.Module):
    """Blur square maps, and thin them by ``step_px``."""

    def __init__(self, side_px: int, *, sigma_px: float, step_px: int = 1) -> None:
        super().__init__()
        matrix = smoothing_matrix(side_px, sigma_px=sigma_px, step_px=step_px).astype(np.float32)
        self.register_buffer("rows", torch.from_numpy(matrix))
        # Kept transposed beside the rows, so that the exported graph does not transpose it on each call.
        self.register_buffer("columns", torch.from_numpy(matrix.T.copy()))
        self.rows: Tensor
        self.columns: Tensor

    def forward(self, maps: Float[Tensor, "tile channel row column"]) -> Float[Tensor, "tile channel row2 column2"]:
        """The maps after the blur."""
        return self.rows @ (maps @ self.columns)
