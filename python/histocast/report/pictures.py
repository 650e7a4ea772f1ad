"""Images as a page carries them: of bounded size, whatever the slide's."""

from __future__ import annotations

import base64
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from histocast.errors import DataError, MissingInputError

Rgb = NDArray[np.uint8]

JPEG_QUALITIES = (88, 80, 70, 55, 40)
TISSUE, PEN, UNREADABLE = 1, 2, 3

OUTLINE_RGB = (20, 110, 100)
PEN_RGB = (200, 60, 20)
UNREADABLE_RGB = (128, 128, 128)
FRAME_RGB = (40, 48, 60)


def read_rgb(path: Path, *, sample: str) -> Rgb:
    """A picture as RGB [row, column, 3]."""
    _require(path, sample)
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if pixels is None:
        raise DataError(f"{path.name} is not a readable image", where=f"sample {sample}")
    return np.ascontiguousarray(pixels[..., ::-1]).astype(np.uint8, copy=False)


def read_tissue(path: Path, *, sample: str) -> NDArray[np.uint8]:
    """``tissue.png`` [row, column]: 0 background, 1 tissue, 2 pen, 3 unreadable."""
    from PIL import Image, UnidentifiedImageError

    _require(path, sample)
    try:
        with Image.open(path) as image:
            # A palette image yields its indices, which OpenCV would turn into colours.
            return np.asarray(image, np.uint8)
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{path.name} is not a readable image", where=f"sample {sample}") from error


def _require(path: Path, sample: str) -> None:
    if not path.is_file():
        raise MissingInputError(
            f"no {path.name}", expected="what the tile stage writes", where=f"sample {sample}", advice="run tile again"
        )


def fit_within(image: Rgb, *, max_px: int) -> Rgb:
    """The image with its longer side at most ``max_px``."""
    scale = max_px / max(image.shape[:2])
    if scale >= 1:
        return image
    height, width = (max(round(length * scale), 1) for length in image.shape[:2])
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def jpeg_uri(image: Rgb, *, max_bytes: int) -> str:
    """A JPEG data URI of at most ``max_bytes`` of image, at the best quality that fits.

    Colours are kept at full resolution: halved ones would blur the edges of the spots.
    """
    while True:
        for quality in JPEG_QUALITIES:
            options = [
                cv2.IMWRITE_JPEG_QUALITY,
                quality,
                cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
                cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
                cv2.IMWRITE_JPEG_OPTIMIZE,
                1,
            ]
            data = cv2.imencode(".jpg", image[..., ::-1], options)[1].tobytes()
            if len(data) <= max_bytes:
                return "data:image/jpeg;base64," + base64.b64encode(data).decode()
        image = fit_within(image, max_px=max(image.shape[:2]) * 3 // 4)


def png_uri(image: Rgb) -> str:
    """A PNG data URI; for colour bars, which are a few pixels."""
    data = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
    return "data:image/png;base64," + base64.b64encode(data).decode()


def draw_tissue(thumbnail: Rgb, tissue: NDArray[np.uint8], *, frame: tuple[int, int, int, int] | None = None) -> Rgb:
    """The thumbnail with the tissue outlined, pen marks painted, what could not be read grey, and the mapped area framed.

    ``frame``: x, y, width, height in thumbnail pixels.
    """
    height, width = thumbnail.shape[:2]
    mask = cv2.resize(tissue, (width, height), interpolation=cv2.INTER_NEAREST)
    drawn = thumbnail.copy()
    background = mask == 0
    drawn[background] = (drawn[background] * 0.5 + 127).astype(np.uint8)
    drawn[mask == PEN] = PEN_RGB
    drawn[mask == UNREADABLE] = UNREADABLE_RGB
    thickness = max(round(max(height, width) / 450), 1)
    contours, _ = cv2.findContours((mask == TISSUE).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(drawn, contours, -1, OUTLINE_RGB, thickness, cv2.LINE_AA)
    if frame is not None:
        x, y, frame_width, frame_height = frame
        cv2.rectangle(drawn, (x, y), (x + frame_width, y + frame_height), FRAME_RGB, thickness)
    return drawn
