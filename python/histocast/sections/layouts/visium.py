"""Visium and Visium HD: runs of Space Ranger, one folder per sample.

    <folder>/<sample>/outs/filtered_feature_bc_matrix.h5    or <id>_filtered_feature_bc_matrix.h5, or the folder
                           spatial/tissue_positions.csv     or tissue_positions_list.csv, .parquet
                           binned_outputs/square_<n>um/     Visium HD: the same two in each folder of bins
    <folder>/<sample>/<slide>.tif                           the image Space Ranger was given, one file

Space Ranger does not keep the image at full resolution; it is looked for next to ``outs``, or by ``--slides`` as
``<sample>.*``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from histocast.errors import ErrorCollector, MissingInputError
from histocast.sections.layouts.published_section import PublishedSection, SheetOptions, only_file
from histocast.sections.read_10x import find_matrix

VISIUM_PITCH_UM = 100.0
POSITIONS = ("tissue_positions.parquet", "tissue_positions.csv", "tissue_positions_list.csv")
SLIDE_SUFFIXES = (
    *(".tif", ".tiff", ".btf", ".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".qptiff", ".vms", ".dcm"),
    *(".jpg", ".jpeg", ".png"),
)
_BINS = re.compile(r"^square_0*(\d+)um$")


def find_visium(folder: Path, options: SheetOptions, faults: ErrorCollector) -> Iterator[PublishedSection]:
    """Samples with a Space Ranger output; ``patients`` says whose each is, since nothing in a run does.

    A sample is named like its folder, with ``-`` for what no sample name may hold. Of Visium HD the bins as wide as
    ``pitch_um`` are taken, and the resolution that their ``scalefactors_json.json`` states.
    """
    folder_of: dict[str, Path] = {}
    for home in sorted(path for path in folder.iterdir() if path.is_dir()):
        outs = home / "outs" if (home / "outs").is_dir() else home
        sample = re.sub(r"[^A-Za-z0-9_.-]+", "-", home.name).strip("-.")
        if not {"spatial", "binned_outputs"} & {path.name for path in outs.iterdir()} or not (
            options.takes(sample) or options.takes(home.name)
        ):
            continue
        if folder_of.setdefault(sample.lower(), home) != home:
            faults.add(
                f"{home.name} and {folder_of[sample.lower()].name} are both named {sample}", expected="two names"
            )
        section = _find_section(home, outs, sample, options, faults)
        if section:
            yield section


def _find_section(
    home: Path, outs: Path, sample: str, options: SheetOptions, faults: ErrorCollector
) -> PublishedSection | None:
    pitch_um, um_per_px = options.pitch_um or VISIUM_PITCH_UM, None
    run: Path | None = outs
    if (outs / "binned_outputs").is_dir():
        run = _find_bins(outs / "binned_outputs", sample, options.pitch_um, faults)
        um_per_px = _stated_um_per_px(run, sample, faults) if run else None
    table = counts = None
    if run:
        table = next((path for name in POSITIONS if (path := run / "spatial" / name).is_file()), None)
        if table is None:
            faults.add(f"spots of {sample}: no file", expected=f"spatial/{' or '.join(POSITIONS)}")
        try:
            counts = find_matrix(run)
        except MissingInputError as error:
            faults.add(f"counts of {sample}: {error.found}", expected=error.expected)
    slide = only_file(
        _slides(home, outs, options.slides, {sample, home.name}),
        faults,
        what=f"slide of {sample}",
        expected=f"one image in {home.name}/, or {sample}.* in --slides",
    )
    patient = options.patients.get(sample) or options.patients.get(home.name)
    if patient is None:
        faults.add(f"{sample}: its patient is not known", expected="a row sample,patient in --patients")
    if not (table and counts and slide and patient):
        return None
    return PublishedSection(sample, patient, slide, counts, table, um_per_px=um_per_px, pitch_um=pitch_um)


def _find_bins(folder: Path, sample: str, pitch_um: float | None, faults: ErrorCollector) -> Path | None:
    """The folder of bins as wide as ``pitch_um``."""
    sizes_um = {int(match[1]): path for path in folder.iterdir() if (match := _BINS.match(path.name))}
    chosen = sizes_um.get(int(pitch_um)) if pitch_um and pitch_um == int(pitch_um) else None
    if chosen is None:
        listed = ", ".join(str(size_um) for size_um in sorted(sizes_um)) or "none"
        asked = f"no bins of {pitch_um:g} um" if pitch_um else "a run of Visium HD without --pitch-um"
        faults.add(f"{sample}: {asked}", expected=f"--pitch-um with the width of its bins in um: {listed}")
    return chosen


def _stated_um_per_px(run: Path, sample: str, faults: ErrorCollector) -> float | None:
    """Micrometres per pixel of the full image, as a folder of bins states it."""
    path = run / "spatial" / "scalefactors_json.json"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))["microns_per_pixel"]
        return float(value)
    except (OSError, ValueError, TypeError, KeyError):
        faults.add(
            f"resolution of {sample}: not in {path.name}", expected="spatial/scalefactors_json.json: microns_per_pixel"
        )
        return None


def _slides(home: Path, outs: Path, slides: Path | None, names: set[str]) -> list[Path]:
    places = [path for name in sorted(names) for path in slides.glob(f"{name}.*")] if slides else []
    places += [] if slides else [path for place in {home, outs} for path in place.iterdir()]
    return [path for path in places if path.suffix.lower() in SLIDE_SUFFIXES]
