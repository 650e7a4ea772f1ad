"""`morphology`: what a pathologist's eye weighs, as fixed arithmetic.

Ninety-odd numbers a tile, in five groups: dye amounts and their spread; the share of the tile above fixed
amounts; gradient strength, its unevenness and its common direction (collagen runs in one direction, a nest of
tumour does not) at five scales; nuclei at two scales as spots of haematoxylin that stand out from their
surroundings; and how unevenly all this lies over the tile. No weights, no training, no state. Filter widths are
in micrometres, so that a bundle's resolution may be chosen freely.

Every number is of order one and bounded, far inside the range of float16.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from histocast.encoders.smoothing import Smoothing
from histocast.encoders.stain import StainMap
from histocast.errors import ConfigError

MIN_FINE_SIDE_PX = 40
"""The fine map is halved three times, and the last one must still hold a window of gradients: 5 pixels."""

LEVELS = 4
COHERENCE_WINDOW_UM = 19.0
"""About two nuclei: wide enough that one nucleus's outline, which has every direction, has none in common."""

HAEMATOXYLIN_STEPS = (0.1, 0.25, 0.4, 0.6, 0.8)
DENSITY_STEPS = (0.05, 0.1, 0.2, 0.35)
"""Amounts whose exceeded share of the tile is a feature: background, stroma, cytoplasm, nuclei, dense nuclei."""

NUCLEUS_SIGMA_UM = (2.0, 4.0)
"""Blob widths: a lymphocyte of 6 um and a tumour nucleus of 12 um respond most at sigma = radius / sqrt(2)."""

SURROUND = 5.0
"""Width of a nucleus's surroundings in widths of the nucleus."""

GRADIENT_CHANNELS = ("haematoxylin", "eosin", "density")
BLOCKS = 7

EPSILON = 1e-6
"""Added to squared amounts of dye, so that a flat tile is flat and not the rounding of its arithmetic."""

VARIATION_FLOOR = 1e-4
"""Added to the squared coefficient of variation for the same reason: of a constant it is 1 - 1 in float32."""


def feature_names() -> tuple[str, ...]:
    """Names of the embedding's numbers, in order."""
    names: list[str] = []
    for scale in ("finest", *(f"level{level}" for level in range(LEVELS))):
        names += [f"{scale}_gradient_{channel}" for channel in GRADIENT_CHANNELS]
        names += [f"{scale}_gradient_cv_{channel}" for channel in GRADIENT_CHANNELS]
        if scale != "finest":
            names += [f"{scale}_coherence_{channel}" for channel in GRADIENT_CHANNELS]
    names += [f"mean_{channel}" for channel in (*GRADIENT_CHANNELS, "residual")]
    for scale in ("fine", "coarse"):
        names += [f"{scale}_sd_{channel}" for channel in (*GRADIENT_CHANNELS, "residual")]
        names += [f"{scale}_skew_haematoxylin", f"{scale}_skew_eosin", f"{scale}_correlation"]
    names += [f"haematoxylin_above_{step:g}" for step in HAEMATOXYLIN_STEPS]
    names += [f"density_above_{step:g}" for step in DENSITY_STEPS]
    for scale in ("small", "large"):
        names += [f"{scale}_blob_{what}" for what in ("energy", "density", "contrast", "haematoxylin", "eosin")]
        names += [f"{scale}_nuclei_{what}" for what in ("share", "haematoxylin", "eosin", "solidity", "size")]
        names += [f"{scale}_surround_haematoxylin", f"{scale}_surround_eosin"]
    names += [f"unevenness_{channel}" for channel in GRADIENT_CHANNELS]
    return tuple(names)


FEATURE_NAMES = feature_names()


def mean_of(maps: Float[Tensor, "tile channel row column"]) -> Float[Tensor, "tile channel"]:
    """Mean over a map."""
    return maps.mean(dim=(2, 3))


class Texture(nn.Module):
    """Gradient statistics of one level: strength, its coefficient of variation, and coherence.

    Coherence is the length of the mean double-angle gradient over the mean squared gradient within windows
    of ``window_px`` (the structure tensor's anisotropy), weighted by gradient: 0 where directions cancel, 1
    where all are parallel. ``window_px`` 0 leaves it out.
    """

    def __init__(self, *, window_px: int) -> None:
        super().__init__()
        self.window_px = window_px

    def forward(
        self, across: Float[Tensor, "tile channel row column"], down: Float[Tensor, "tile channel row column"]
    ) -> Float[Tensor, "tile feature"]:
        """Statistics of the gradient whose components are ``across`` and ``down``."""
        across2, down2 = across * across, down * down
        energy = across2 + down2 + EPSILON
        mean_energy = mean_of(energy)
        strength = mean_of(torch.sqrt(energy))
        variation = torch.sqrt(torch.clamp(mean_energy / (strength * strength) - 1.0, min=0.0) + VARIATION_FLOOR)
        features = [strength * 10.0, variation]
        if self.window_px:
            cosine = nn.functional.avg_pool2d(across2 - down2, self.window_px)
            sine = nn.functional.avg_pool2d(across * down * 2.0, self.window_px)
            features.append(mean_of(torch.sqrt(cosine * cosine + sine * sine)) / mean_energy)
        return torch.cat(features, dim=1)


class Nuclei(nn.Module):
    """Statistics of haematoxylin blobs of one width.

    A blob is a local maximum of the difference of two Gaussians, the scale-space detector of round spots
    (Lindeberg 1998, Int J Comput Vis 30:79-116). The nuclear mask is soft, and relative to the surroundings,
    so that it holds in a pale section and in a crowded one.
    """

    def __init__(self, side_px: int, *, sigma_um: float, um_per_px: float) -> None:
        super().__init__()
        sigma_px = sigma_um / um_per_px
        self.spot = Smoothing(side_px, sigma_px=sigma_px)
        self.ring = Smoothing(side_px, sigma_px=2 * sigma_px)
        self.surround = Smoothing(side_px, sigma_px=SURROUND * sigma_px)
        self.reach_px = max(1, round(1.4 * sigma_px))
        """Half a window within which only one blob is counted: a blob's radius."""
        self.window = (2 * self.reach_px + 1) ** 2

    def forward(
        self, haematoxylin: Float[Tensor, "tile 1 row column"], eosin: Float[Tensor, "tile 1 row column"]
    ) -> Float[Tensor, "tile feature"]:
        """Twelve numbers a tile, named in `feature_names`."""
        spot = self.spot(haematoxylin)
        blob = spot - self.ring(haematoxylin)
        spot_eosin = self.spot(eosin)
        side = 2 * self.reach_px + 1
        highest = nn.functional.max_pool2d(blob, (1, side), 1, (0, self.reach_px))
        highest = nn.functional.max_pool2d(highest, (side, 1), 1, (self.reach_px, 0))
        # A maximum counts in full from 0.06 of contrast on, and not below 0.02, the noise of a JPEG.
        peak = torch.clamp((blob - highest) * 500.0 + 1.0, 0.0, 1.0) * torch.clamp(blob * 25.0 - 0.5, 0.0, 1.0)
        peaks = mean_of(peak)
        mask = torch.clamp((spot - self.surround(haematoxylin)) * 10.0 - 0.5, 0.0, 1.0) * torch.clamp(
            spot * 10.0 - 2.0, 0.0, 1.0
        )
        core = -nn.functional.max_pool2d(-mask, 3, 1, 1)
        share, masked, masked_eosin = mean_of(mask), mean_of(mask * haematoxylin), mean_of(mask * eosin)
        density = peaks * self.window
        features = [
            mean_of(torch.abs(blob)) * 10.0,
            density,
            mean_of(peak * blob) / (peaks + 1e-4) * 10.0,
            mean_of(peak * spot) / (peaks + 1e-4),
            mean_of(peak * spot_eosin) / (peaks + 1e-4),
            share,
            masked / (share + 0.01),
            masked_eosin / (share + 0.01),
            mean_of(core) / (share + 0.01),
            share / (density + 0.02),
            (mean_of(haematoxylin) - masked) / (1.01 - share),
            (mean_of(eosin) - masked_eosin) / (1.01 - share),
        ]
        return torch.cat(features, dim=1)


def fits_morphology(*, tile_px: int, um_per_px: float) -> bool:
    """Whether a tile is large enough to be described: about 40 um a side at 0.5 um/px."""
    side_px: int = StainMap(tile_px=tile_px, um_per_px=um_per_px).side_px
    return side_px >= MIN_FINE_SIDE_PX


class Morphology(nn.Module):
    """Tiles uint8 [tile, tile_px, tile_px, 3] RGB to ``embedding`` float32 [tile, dim], named by `FEATURE_NAMES`.

    ``tile_px``: side of a tile.
    ``um_per_px``: resolution of a tile.
    Raises `ConfigError`: a tile is too small to hold the coarsest scale.
    """

    def __init__(self, *, tile_px: int, um_per_px: float) -> None:
        super().__init__()
        self.stain = StainMap(tile_px=tile_px, um_per_px=um_per_px)
        side_px = self.stain.side_px
        if not fits_morphology(tile_px=tile_px, um_per_px=um_per_px):
            raise ConfigError(
                f"tiles of {tile_px} px at {um_per_px:g} um/px",
                expected=f"at least {MIN_FINE_SIDE_PX * self.stain.factor} px at this resolution",
                advice="give the bundle larger tiles",
            )
        sides_px = [side_px // 2**level for level in range(LEVELS)]
        self.halve = nn.ModuleList(Smoothing(side, sigma_px=1.0, step_px=2) for side in sides_px[:-1])
        windows_um = [self.stain.um_per_px * 2**level for level in range(LEVELS)]
        self.finest = Texture(window_px=0)
        self.texture = nn.ModuleList(Texture(window_px=max(3, round(COHERENCE_WINDOW_UM / um))) for um in windows_um)
        self.nuclei = nn.ModuleList(
            Nuclei(side, sigma_um=sigma_um, um_per_px=um)
            for side, sigma_um, um in zip(sides_px[:2], NUCLEUS_SIGMA_UM, windows_um[:2], strict=True)
        )
        self.block_px = side_px // BLOCKS
        # As maps of several channels, whose clipping and mean are then one operation each.
        self.register_buffer("haematoxylin_steps", torch.tensor(HAEMATOXYLIN_STEPS).reshape(1, -1, 1, 1))
        self.register_buffer("density_steps", torch.tensor(DENSITY_STEPS).reshape(1, -1, 1, 1))
        self.haematoxylin_steps: Tensor
        self.density_steps: Tensor

    def forward(self, tiles: UInt8[Tensor, "tile tile_px tile_px rgb"]) -> Float[Tensor, "tile dim"]:
        """The embedding of each tile."""
        fine, across, down = self.stain(tiles)
        levels = [fine]
        for halve in self.halve:
            levels.append(halve(levels[-1]))
        features = [self.finest(across, down)]
        for texture, level in zip(self.texture, levels, strict=True):
            dyes = level[:, :3]
            slope_across = (dyes[:, :, 1:-1, 2:] - dyes[:, :, 1:-1, :-2]) * 0.5
            slope_down = (dyes[:, :, 2:, 1:-1] - dyes[:, :, :-2, 1:-1]) * 0.5
            features.append(texture(slope_across, slope_down))
        means = mean_of(fine)
        features += [means, self._spread(fine, means), self._spread(levels[1], mean_of(levels[1]))]
        features.append(mean_of(torch.clamp((fine[:, :1] - self.haematoxylin_steps) * 10.0 + 0.5, 0.0, 1.0)))
        features.append(mean_of(torch.clamp((fine[:, 2:3] - self.density_steps) * 20.0 + 0.5, 0.0, 1.0)))
        features += [nuclei(level[:, :1], level[:, 1:2]) for nuclei, level in zip(self.nuclei, levels[:2], strict=True)]
        features.append(self._unevenness(fine[:, :3]))
        return torch.cat(features, dim=1)

    def _spread(
        self, maps: Float[Tensor, "tile channel row column"], means: Float[Tensor, "tile channel"]
    ) -> Float[Tensor, "tile feature"]:
        """Standard deviations, the skewness of both dyes, and their correlation."""
        centred = maps - means[:, :, None, None]
        sd = torch.sqrt(mean_of(centred * centred) + EPSILON)
        dyes = centred[:, :2]
        skewness = torch.clamp(mean_of(dyes * dyes * dyes) / (sd * sd * sd)[:, :2], -5.0, 5.0)
        correlation = mean_of(centred[:, :1] * centred[:, 1:2]) / (sd[:, :1] * sd[:, 1:2])
        return torch.cat([sd, skewness, correlation], dim=1)

    def _unevenness(self, maps: Float[Tensor, "tile channel row column"]) -> Float[Tensor, "tile channel"]:
        """Standard deviation between blocks of a seventh of the tile's side."""
        blocks = nn.functional.avg_pool2d(maps, self.block_px)
        centred = blocks - mean_of(blocks)[:, :, None, None]
        return torch.sqrt(mean_of(centred * centred) + EPSILON)
