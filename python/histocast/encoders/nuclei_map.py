"""`nuclei`: where nuclei are and how deep inside one each point lies, as fixed arithmetic.

A map of two channels at about a quarter of the tile's resolution, for methods that look at the arrangement of
nuclei (ALIGN-ST's nuclei channel). The probability is a logistic function of smoothed haematoxylin against a
midpoint that follows the surroundings; the distance grows from the rim of a nucleus inward, so that touching
nuclei show as two summits.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from histocast.encoders.smoothing import Smoothing
from histocast.encoders.stain import StainMap
from histocast.errors import ConfigError

SMOOTHING_UM = 1.0
"""Width of the smoothing: below the radius of the smallest nucleus, above chromatin texture."""

MIDPOINT_FLOOR = 0.25
MIDPOINT_SHARE = 0.6
"""The probability is one half where haematoxylin equals the floor plus this share of its mean over the
surroundings: 0.4 in pale stroma, 0.7 among crowded nuclei or in dark cytoplasm, which a fixed midpoint would
take for one large nucleus."""

SURROUNDINGS_UM = 10.0
"""Width of the surroundings: about one nucleus to each side."""

HAEMATOXYLIN_WIDTH = 0.06
"""Change of the amount that moves the log-odds by one."""

DISTANCE_LIMIT_UM = 8.0
"""Depth at which the distance saturates at 1: the radius of a large tumour nucleus."""


class NucleiMap(nn.Module):
    """Tiles uint8 [tile, tile_px, tile_px, 3] RGB to ``map`` float32 [tile, 2, side_px, side_px].

    Channel 0 is the nuclear probability, 0 to 1. Channel 1 is the distance to the background in units of
    `DISTANCE_LIMIT_UM`, 0 to 1: the sum of repeated erosions of the probability, by a cross and a square in
    turn, which makes the unit circle an octagon.

    ``tile_px``: side of a tile.
    ``um_per_px``: resolution of a tile.
    Raises `ConfigError`: a tile is smaller than two pixels of the map.
    """

    def __init__(self, *, tile_px: int, um_per_px: float) -> None:
        super().__init__()
        self.stain = StainMap(tile_px=tile_px, um_per_px=um_per_px)
        if self.stain.side_px < 4:
            raise ConfigError(
                f"tiles of {tile_px} px at {um_per_px:g} um/px",
                expected=f"at least {4 * self.stain.factor} px at this resolution",
                advice="give the bundle larger tiles",
            )
        self.smooth = Smoothing(self.stain.side_px, sigma_px=SMOOTHING_UM / self.stain.um_per_px)
        self.surround = Smoothing(self.stain.side_px, sigma_px=SURROUNDINGS_UM / self.stain.um_per_px)
        self.erosions = max(1, round(DISTANCE_LIMIT_UM / self.stain.um_per_px))
        self.side_px = self.stain.side_px // 2

    def forward(self, tiles: UInt8[Tensor, "tile tile_px tile_px rgb"]) -> Float[Tensor, "tile 2 side_px side_px"]:
        """Probability and distance."""
        haematoxylin = self.stain(tiles)[0][:, :1]
        midpoint = self.surround(haematoxylin) * MIDPOINT_SHARE + MIDPOINT_FLOOR
        probability = torch.sigmoid((self.smooth(haematoxylin) - midpoint) * (1.0 / HAEMATOXYLIN_WIDTH))
        # Erosion is the maximum of the complement, which spares a change of sign at each step.
        background = 1.0 - probability
        depth = probability
        for step in range(1, self.erosions):
            across = nn.functional.max_pool2d(background, (1, 3), 1, (0, 1))
            if step % 2:
                background = torch.maximum(across, nn.functional.max_pool2d(background, (3, 1), 1, (1, 0)))
            else:
                background = nn.functional.max_pool2d(across, (3, 1), 1, (1, 0))
            depth = depth + (1.0 - background)
        maps = torch.cat([probability, depth / self.erosions], dim=1)
        return nn.functional.avg_pool2d(maps, 2)
