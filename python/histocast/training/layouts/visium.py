"""Visium: runs of Space Ranger, a folder a sample.

    <folder>/<sample>/outs/filtered_feature_bc_matrix.h5    or the folder of that name
                           spatial/tissue_positions.csv     or tissue_positions_list.csv, .parquet
    <folder>/<sample>/<slide>.tif                           the image Space Ranger was given, one file

Space Ranger does not keep the image at full resolution; it is looked for beside ``outs``, or by ``--slides`` as
``<sample>.*``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from histocast.errors import ErrorCollector
from histocast.training.layouts.section import PublishedSection, SheetOptions, only_file

VISIUM_PITCH_UM = 100.0
POSITIONS = ("tissue_positions.parquet", "tissue_positions.csv", "tissue_positions_list.csv")
SLIDE_SUFFIXES = (".tif", ".tiff", ".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".qptiff", ".jpg", ".jpeg", ".png")


def find_visium(folder: Path, options: SheetOptions, faults: ErrorCollector) -> Iterator[PublishedSection]:
    """Samples with a Space Ranger output; ``patients`` says whose each is, since nothing in a run does."""
    for home in sorted(path for path in folder.iterdir() if path.is_dir()):
        outs = home / "outs" if (home / "outs").is_dir() else home
        sample = home.name
        if not (outs / "spatial").is_dir() or not options.takes(sample):
            continue
        if (outs / "binned_outputs").is_dir():
            faults.add(f"{sample} is a run of Visium HD", expected="Visium, whose spots are 100 um apart")
            continue
        positions = [outs / "spatial" / name for name in POSITIONS]
        table = next((path for path in positions if path.is_file()), None)
        if table is None:
            faults.add(f"spots of {sample}: no file", expected=f"spatial/{' or '.join(POSITIONS)}")
        slide = only_file(
            _slides(home, outs, options.slides, sample),
            faults,
            what=f"slide of {sample}",
            expected=f"one image in {home.name}/, or {sample}.* in --slides",
        )
        patient = options.patients.get(sample)
        if patient is None:
            faults.add(f"{sample}: its patient is not known", expected="a row sample,patient in --patients")
        if table and slide and patient:
            pitch_um = options.pitch_um or VISIUM_PITCH_UM
            yield PublishedSection(sample, patient, slide, outs, table, pitch_um=pitch_um)


def _slides(home: Path, outs: Path, slides: Path | None, sample: str) -> list[Path]:
    if slides is not None:
        return [path for path in slides.glob(f"{sample}.*") if path.suffix.lower() in SLIDE_SUFFIXES]
    return [path for place in {home, outs} for path in place.iterdir() if path.suffix.lower() in SLIDE_SUFFIXES]
