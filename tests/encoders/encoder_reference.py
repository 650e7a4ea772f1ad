"""`morphology` and `nuclei` once more, one tile at a time, in float64, by numpy, scipy and scikit-image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.color import separate_stains
from skimage.measure import block_reduce

Map = NDArray[np.float64]

DYES = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])


def separate(tile: NDArray[np.uint8]) -> Map:
    """Haematoxylin, eosin, mean density and residual: [channel, row, column] at full resolution."""
    dyes = DYES / np.linalg.norm(DYES, axis=1, keepdims=True)
    third = np.cross(dyes[0], dyes[1])
    matrix = np.linalg.inv(np.stack([*dyes, third / np.linalg.norm(third)]))
    # scikit-image takes the logarithm to base 1e-6 of values in 0..1, so that log10 is six times as large.
    grey = (tile.astype(np.float64) + 1) / 256
    amounts = 6 * separate_stains(grey, matrix)
    # It cuts negative amounts off, which linear statistics must not: compared only where it does not.
    density = -np.log10(grey)
    signed = density @ matrix
    np.testing.assert_allclose(np.maximum(signed, 0), amounts, atol=1e-12)
    return np.stack([signed[..., 0], signed[..., 1], density.mean(axis=-1), signed[..., 2]])


def fine_map(tile: NDArray[np.uint8], factor: int) -> tuple[Map, Map, Map]:
    """Means of blocks, and the differences of their halves, across and down, of the first three channels."""
    full = separate(tile)
    size = max(factor, 2)
    side = (full.shape[1] - size) // factor + 1
    half = size // 2
    mean, across, down = (np.empty((count, side, side)) for count in (4, 3, 3))
    for row in range(side):
        for column in range(side):
            block = full[:, row * factor : row * factor + size, column * factor : column * factor + size]
            mean[:, row, column] = block[:, :factor, :factor].mean(axis=(1, 2))
            dyes = block[:3]
            across[:, row, column] = dyes[:, :, -half:].mean(axis=(1, 2)) - dyes[:, :, :half].mean(axis=(1, 2))
            down[:, row, column] = dyes[:, -half:].mean(axis=(1, 2)) - dyes[:, :half].mean(axis=(1, 2))
    return mean, across, down


def blur(maps: Map, sigma_px: float) -> Map:
    """Gaussian over the last two axes."""
    return ndimage.gaussian_filter(maps, sigma_px, axes=(-2, -1), mode="reflect", truncate=4)


def halve(maps: Map) -> Map:
    """Gaussian of one pixel, centred between pairs of pixels, of which each pair keeps one."""
    offsets = np.arange(-3, 5) - 0.5
    kernel = np.exp(-0.5 * offsets**2)
    kernel /= kernel.sum()
    for axis in (-2, -1):
        maps = ndimage.correlate1d(maps, kernel, axis=axis, mode="reflect", origin=-1)
    even = maps.shape[-1] // 2 * 2
    return maps[:, :even:2, :even:2]


def pool(maps: Map, window: int) -> Map:
    """Means of whole windows."""
    side = maps.shape[-1] // window * window
    return block_reduce(maps[:, :side, :side], (1, window, window), np.mean)


def texture(across: Map, down: Map, window: int) -> list[float]:
    """Gradient strength, its variation, and coherence where there is a window."""
    energy = across**2 + down**2 + 1e-6
    strength = np.sqrt(energy).mean(axis=(1, 2))
    mean_energy = energy.mean(axis=(1, 2))
    features = [*(10 * strength), *np.sqrt(np.maximum(mean_energy / strength**2 - 1, 0) + 1e-4)]
    if window:
        length = np.hypot(pool(across**2 - down**2, window), pool(2 * across * down, window))
        features += [*(length.mean(axis=(1, 2)) / mean_energy)]
    return features


def spread(maps: Map) -> list[float]:
    """Standard deviations, skewness of the dyes, correlation of the dyes."""
    sd = np.sqrt(maps.var(axis=(1, 2)) + 1e-6)
    centred = maps - maps.mean(axis=(1, 2), keepdims=True)
    skew = [np.clip((centred[dye] ** 3).mean() / sd[dye] ** 3, -5, 5) for dye in (0, 1)]
    return [*sd, *skew, (centred[0] * centred[1]).mean() / (sd[0] * sd[1])]


def nuclei_statistics(haematoxylin: Map, eosin: Map, sigma_px: float) -> list[float]:
    """Blobs and the soft nuclear mask."""
    spot, ring, around = (blur(haematoxylin[None], sigma_px * width)[0] for width in (1, 2, 5))
    blob = spot - ring
    reach = max(1, round(1.4 * sigma_px))
    side = 2 * reach + 1
    highest = ndimage.maximum_filter(blob, side, mode="constant", cval=-np.inf)
    peak = np.clip(1 - (highest - blob) * 500, 0, 1) * np.clip((blob - 0.02) / 0.04, 0, 1)
    mask = np.clip((spot - around) * 10 - 0.5, 0, 1) * np.clip(spot * 10 - 2, 0, 1)
    core = ndimage.minimum_filter(mask, 3, mode="constant", cval=np.inf)
    density, share = peak.mean() * side**2, mask.mean()
    return [
        10 * np.abs(blob).mean(),
        density,
        10 * (peak * blob).mean() / (peak.mean() + 1e-4),
        (peak * spot).mean() / (peak.mean() + 1e-4),
        (peak * blur(eosin[None], sigma_px)[0]).mean() / (peak.mean() + 1e-4),
        share,
        (mask * haematoxylin).mean() / (share + 0.01),
        (mask * eosin).mean() / (share + 0.01),
        core.mean() / (share + 0.01),
        share / (density + 0.02),
        ((1 - mask) * haematoxylin).mean() / (1.01 - share),
        ((1 - mask) * eosin).mean() / (1.01 - share),
    ]


def morphology(tile: NDArray[np.uint8], um_per_px: float) -> Map:
    """The embedding of one tile: [dim]."""
    factor = max(1, round(1.2 / um_per_px))
    fine, across, down = fine_map(tile, factor)
    levels = [fine]
    for _ in range(3):
        levels.append(halve(levels[-1]))
    features = texture(across, down, 0)
    for number, level in enumerate(levels):
        slope_across = (level[:3, 1:-1, 2:] - level[:3, 1:-1, :-2]) / 2
        slope_down = (level[:3, 2:, 1:-1] - level[:3, :-2, 1:-1]) / 2
        features += texture(slope_across, slope_down, max(3, round(19 / (um_per_px * factor * 2**number))))
    features += [*fine.mean(axis=(1, 2)), *spread(levels[0]), *spread(levels[1])]
    features += [np.clip((fine[0] - step) * 10 + 0.5, 0, 1).mean() for step in (0.1, 0.25, 0.4, 0.6, 0.8)]
    features += [np.clip((fine[2] - step) * 20 + 0.5, 0, 1).mean() for step in (0.05, 0.1, 0.2, 0.35)]
    for number, sigma_um in enumerate((2.0, 4.0)):
        sigma_px = sigma_um / (um_per_px * factor * 2**number)
        features += nuclei_statistics(levels[number][0], levels[number][1], sigma_px)
    blocks = pool(fine[:3], fine.shape[-1] // 7)
    features += [*np.sqrt(blocks.var(axis=(1, 2)) + 1e-6)]
    return np.array(features)


def nuclei_map(tile: NDArray[np.uint8], um_per_px: float) -> Map:
    """Probability and distance of one tile: [2, row, column]."""
    factor = max(1, round(1.2 / um_per_px))
    fine_um = um_per_px * factor
    haematoxylin = fine_map(tile, factor)[0][0]
    midpoint = 0.25 + 0.6 * blur(haematoxylin[None], 10 / fine_um)[0]
    probability = 1 / (1 + np.exp(-(blur(haematoxylin[None], 1 / fine_um)[0] - midpoint) / 0.06))
    cross = ndimage.generate_binary_structure(2, 1)
    eroded, depth = probability, probability.copy()
    steps = max(1, round(8 / fine_um))
    for step in range(1, steps):
        footprint = cross if step % 2 else np.ones((3, 3), bool)
        eroded = ndimage.minimum_filter(eroded, footprint=footprint, mode="constant", cval=np.inf)
        depth += eroded
    return pool(np.stack([probability, depth / steps]), 2)
