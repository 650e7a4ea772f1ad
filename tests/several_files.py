"""Small slides of several files that OpenSlide reads: MIRAX, Hamamatsu VMS, and a DICOM series."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

MIRAX_TILE_PX = 256
MIRAX_ID = "F" * 32
DICOM_TILE_PX = 256
WSI_CLASS, JPEG_BASELINE = "1.2.840.10008.5.1.4.1.1.77.1.6", "1.2.840.10008.1.2.4.50"

SLIDEDAT = """[GENERAL]
SLIDE_ID = {id}
IMAGENUMBER_X = {columns}
IMAGENUMBER_Y = {rows}
OBJECTIVE_MAGNIFICATION = 20
CURRENT_SLIDE_VERSION = 1.9
[HIERARCHICAL]
HIER_COUNT = 1
NONHIER_COUNT = 0
INDEXFILE = Index.dat
HIER_0_NAME = Slide zoom level
HIER_0_COUNT = 1
HIER_0_VAL_0_SECTION = LEVEL
[DATAFILE]
FILE_COUNT = 1
FILE_0 = Data0000.dat
[LEVEL]
OVERLAP_X = 0
OVERLAP_Y = 0
MICROMETER_PER_PIXEL_X = {um_per_px}
MICROMETER_PER_PIXEL_Y = {um_per_px}
IMAGE_FILL_COLOR_BGR = 16777215
DIGITIZER_WIDTH = {side}
DIGITIZER_HEIGHT = {side}
IMAGE_FORMAT = JPEG
IMAGE_CONCAT_FACTOR = 0
"""


def as_jpeg(pixels: Pixels, **options: int) -> bytes:
    """An image as JPEG of high quality."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "jpeg", quality=97, subsampling=0, **options)
    return stream.getvalue()


def write_mirax(path: Path, pixels: Pixels, *, um_per_px: float = 0.5) -> Path:
    """Write ``path`` and the folder of its name; sides are multiples of `MIRAX_TILE_PX`."""
    folder, side = path.with_suffix(""), MIRAX_TILE_PX
    folder.mkdir(parents=True)
    path.write_bytes(as_jpeg(pixels[::16, ::16]))
    rows, columns = pixels.shape[0] // side, pixels.shape[1] // side
    data, page = bytearray(b"01.02" + MIRAX_ID.encode()), bytearray()
    for number in range(rows * columns):
        top, left = (side * at for at in divmod(number, columns))
        tile = as_jpeg(pixels[top : top + side, left : left + side])
        page += struct.pack("<4i", number, len(data), len(tile), 0)
        data += tile
    (folder / "Data0000.dat").write_bytes(data)
    head = b"01.02" + MIRAX_ID.encode()
    # Pointers to the hierarchical table and to none other; the table's one level; its list head; the one page.
    table = len(head) + 8
    index = head + struct.pack("<5i", table, 0, table + 4, 0, table + 12)
    (folder / "Index.dat").write_bytes(index + struct.pack("<2i", rows * columns, 0) + page)
    text = SLIDEDAT.format(id=MIRAX_ID, columns=columns, rows=rows, side=side, um_per_px=um_per_px)
    (folder / "Slidedat.ini").write_text(text, encoding="utf-8-sig")
    return path


def element(group: int, number: int, kind: str, value: bytes | str | int) -> bytes:
    """One DICOM element, explicit and little-endian."""
    if isinstance(value, int):
        value = struct.pack("<H" if kind == "US" else "<I", value)
    elif isinstance(value, str):
        value = value.encode()
    value += (b"\0" if kind in ("UI", "OB") else b" ") * (len(value) % 2)
    tag = struct.pack("<HH", group, number) + kind.encode()
    return tag + (struct.pack("<2xI", len(value)) if kind in ("OB", "SQ") else struct.pack("<H", len(value))) + value


def sequence(group: int, number: int, *items: bytes, undefined: bool = False) -> bytes:
    """A DICOM sequence, of stated or of undefined lengths."""
    if not undefined:
        within = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in items)
        return element(group, number, "SQ", within)
    start, end = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF), struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
    head = struct.pack("<HH2s2xI", group, number, b"SQ", 0xFFFFFFFF)
    return head + b"".join(start + item + end for item in items) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def frame_position(top_px: int, left_px: int, *, undefined: bool) -> bytes:
    """The functional group of a frame that lies anywhere."""
    in_mm = [element(0x40, axis, "DS", "0") for axis in (0x72A, 0x73A, 0x74A)]
    in_px = [element(0x48, 0x21E, "SL", left_px + 1), element(0x48, 0x21F, "SL", top_px + 1)]
    return sequence(0x48, 0x21A, b"".join([*in_mm, *in_px]), undefined=undefined)


def dicom_instance(
    pixels: Pixels, *, series: str, number: int, um_per_px: float, positions: int | None = None, undefined: bool = False
) -> bytes:
    """A DICOM file of one level of a slide; with ``positions`` its frames lie anywhere, and so many say where."""
    height, width = pixels.shape[:2]
    side = DICOM_TILE_PX
    padded = np.pad(pixels, ((0, -height % side), (0, -width % side), (0, 0)), constant_values=255)
    frames = [
        as_jpeg(padded[top : top + side, left : left + side])
        for top in range(0, padded.shape[0], side)
        for left in range(0, padded.shape[1], side)
    ]
    frames = [frame + b"\0" * (len(frame) % 2) for frame in frames]
    offsets = np.cumsum([0, *(len(frame) + 8 for frame in frames[:-1])]).astype("<u4").tobytes()
    pieces = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(piece)) + piece for piece in (offsets, *frames))
    instance, spacing_mm = f"{series}.{number}", f"{um_per_px / 1000:g}"
    kind = "ORIGINAL\\PRIMARY\\VOLUME\\NONE" if number == 1 else "DERIVED\\PRIMARY\\VOLUME\\RESAMPLED"
    spacing = element(0x28, 0x30, "DS", f"{spacing_mm}\\{spacing_mm}")
    meta = element(2, 2, "UI", WSI_CLASS) + element(2, 3, "UI", instance) + element(2, 0x10, "UI", JPEG_BASELINE)
    order, groups = "TILED_FULL", b""
    if positions is not None:
        order, columns = "TILED_SPARSE", padded.shape[1] // side
        places = [divmod(frame, columns) for frame in range(positions)]
        items = [frame_position(row * side, column * side, undefined=undefined) for row, column in places]
        groups = sequence(0x5200, 0x9230, *items, *[b""] * (len(frames) - positions), undefined=undefined)
    # A series of another slide, within sequences, is not the file's own.
    other = element(0x20, 0xE, "UI", "9.9.9")
    return b"".join([
        bytes(128), b"DICM", element(2, 0, "UL", len(meta)), meta,
        element(8, 8, "CS", kind), element(8, 0x16, "UI", WSI_CLASS), element(8, 0x18, "UI", instance),
        element(8, 0x60, "CS", "SM"), sequence(8, 0x1115, other, undefined=number == 1),
        element(0x20, 0xD, "UI", f"{series}.0"), element(0x20, 0xE, "UI", series), element(0x20, 0x13, "IS", str(number)),
        element(0x20, 0x9311, "CS", order),
        element(0x28, 2, "US", 3), element(0x28, 4, "CS", "YBR_FULL_422"), element(0x28, 6, "US", 0),
        element(0x28, 8, "IS", str(len(frames))), element(0x28, 0x10, "US", side), element(0x28, 0x11, "US", side),
        element(0x28, 0x100, "US", 8), element(0x28, 0x101, "US", 8), element(0x28, 0x102, "US", 7),
        element(0x28, 0x103, "US", 0), element(0x48, 6, "UL", width), element(0x48, 7, "UL", height),
        sequence(0x48, 0x105, element(0x48, 0x112, "DS", "20")), element(0x48, 0x303, "UL", 1),
        sequence(0x5200, 0x9229, sequence(0x28, 0x9110, spacing)), groups,
        struct.pack("<HH2s2xI", 0x7FE0, 0x10, b"OB", 0xFFFFFFFF), pieces, struct.pack("<HHI", 0xFFFE, 0xE0DD, 0),
    ])  # fmt: skip


def write_dicom_series(
    folder: Path, levels: Sequence[Pixels], *, um_per_px: float = 0.5, series: str = "1.2.3"
) -> list[Path]:
    """Write ``<series>.level0.dcm`` and so on, one file per level."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{series}.level{number}.dcm" for number in range(len(levels))]
    for number, (path, pixels) in enumerate(zip(paths, levels, strict=True)):
        coarser = um_per_px * levels[0].shape[1] / pixels.shape[1]
        path.write_bytes(dicom_instance(pixels, series=series, number=number + 1, um_per_px=coarser))
    return paths


def write_vms(path: Path, pixels: Pixels) -> Path:
    """Write an index of one JPEG and its map, both beside it."""
    height, width = pixels.shape[:2]
    image, overview = path.with_suffix(".jpg"), path.with_name(f"{path.stem}_map.jpg")
    image.write_bytes(as_jpeg(pixels, restart_marker_rows=1))
    overview.write_bytes(as_jpeg(pixels[::8, ::8], restart_marker_rows=1))
    path.write_text(
        "[Virtual Microscope Specimen]\nNoLayers=1\nNoJpegColumns=1\nNoJpegRows=1\n"
        f"ImageFile={image.name}\nMapFile={overview.name}\nMacroImage={overview.name}\n"
        f"PhysicalWidth={width * 500}\nPhysicalHeight={height * 500}\nSourceLens=20\n"
    )
    return path
