"""Colour deconvolution of H&E, written so that it costs one convolution.

Beer and Lambert: a dye's amount is linear in optical density, ``od = -log10((value + 1) / 256)`` per colour
channel, so the amounts of two known dyes and of what neither explains are a 3 x 3 matrix times the density.
The dyes' densities are those of Ruifrok and Johnston (2001), "Quantification of histochemical staining by color
deconvolution", Anal Quant Cytol Histol 23:291-299. They are fixed: nothing is estimated from a tile, so that a
tile's numbers do not depend on its neighbours in a batch, and a slide without nuclei does not get any.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn

HAEMATOXYLIN_OD = (0.65, 0.70, 0.29)
EOSIN_OD = (0.07, 0.99, 0.11)

CHANNELS = ("haematoxylin", "eosin", "density", "residual")
"""Of a fine map: dye amounts, mean optical density of the three colours, and what neither dye explains."""

FINE_UM = 1.2
"""Resolution in um/px the fine map comes closest to: a nucleus of 6 um is then 4 to 5 pixels wide, and a
224-pixel tile at 0.5 to 0.7 um/px becomes 112 pixels, a quarter of the work."""


def channel_matrix() -> NDArray[np.float64]:
    """Weights [channel, rgb] from optical density to `CHANNELS`."""
    haematoxylin = np.array(HAEMATOXYLIN_OD) / np.linalg.norm(HAEMATOXYLIN_OD)
    eosin = np.array(EOSIN_OD) / np.linalg.norm(EOSIN_OD)
    third = np.cross(haematoxylin, eosin)
    dyes = np.stack([haematoxylin, eosin, third / np.linalg.norm(third)])
    amounts = np.linalg.inv(dyes).T
    return np.stack([amounts[0], amounts[1], np.full(3, 1 / 3), amounts[2]])


def fine_factor(um_per_px: float) -> int:
    """Input pixels a side of one pixel of the fine map."""
    return max(1, round(FINE_UM / um_per_px))


def block_kernels(factor: int) -> NDArray[np.float64]:
    """Kernels [3, row, column]: mean of a block, its right minus left half, its lower minus upper half.

    The differences of a block of one pixel reach to the next pixel, so that the finest contrast is seen at
    any resolution.
    """
    side = max(factor, 2)
    mean = np.zeros((side, side))
    mean[:factor, :factor] = 1 / factor**2
    half = side // 2
    across = np.zeros((side, side))
    across[:, :half] = -1 / (half * side)
    across[:, side - half :] = 1 / (half * side)
    return np.stack([mean, across, across.T])


class StainMap(nn.Module):
    """Tiles to dye amounts on the fine grid, and the finest differences within its blocks.

    One strided convolution over interleaved RGB does the deconvolution, the averaging and the differences,
    and no transposed copy of the tile is made.

    ``tile_px``: side of a tile.
    ``um_per_px``: resolution of a tile.
    """

    def __init__(self, *, tile_px: int, um_per_px: float) -> None:
        super().__init__()
        self.factor = fine_factor(um_per_px)
        self.tile_px = tile_px
        self.um_per_px = um_per_px * self.factor
        """Resolution of the fine map."""
        blocks = block_kernels(self.factor)
        self.side_px = (tile_px - blocks.shape[1]) // self.factor + 1
        """Side of the fine map; a remainder of less than one block is left out."""
        channels = channel_matrix()
        # [kernel, channel, row, column, rgb], then columns and colours interleaved as they are in memory.
        weight = -np.einsum("kyx,cd->kcyxd", blocks, channels) / math.log(10)
        weight = np.concatenate([weight[0], weight[1, :3], weight[2, :3]])
        weight = weight.reshape(len(weight), 1, blocks.shape[1], blocks.shape[2] * 3)
        bias = np.concatenate([channels.sum(axis=1) * math.log10(256), np.zeros(6)])
        self.register_buffer("weight", torch.from_numpy(weight.astype(np.float32)))
        self.register_buffer("bias", torch.from_numpy(bias.astype(np.float32)))
        self.weight: Tensor
        self.bias: Tensor

    def forward(
        self, tiles: UInt8[Tensor, "tile tile_px tile_px rgb"]
    ) -> tuple[
        Float[Tensor, "tile channel row column"],
        Float[Tensor, "tile dye row column"],
        Float[Tensor, "tile dye row column"],
    ]:
        """Maps of `CHANNELS`, then the horizontal and the vertical differences of the first three of them."""
        interleaved = torch.log(tiles.to(torch.float32) + 1.0).reshape(-1, 1, self.tile_px, self.tile_px * 3)
        maps = nn.functional.conv2d(interleaved, self.weight, self.bias, stride=(self.factor, self.factor * 3))
        return maps[:, :4], maps[:, 4:7], maps[:, 7:10]
