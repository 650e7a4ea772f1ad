"""Slides of several files, and files with every name a shell could misread, go through the pipeline as through a verb."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest

from pipeline_runs import Launcher
from several_files import write_dicom_series, write_mirax
from stained_sections import paint_stained

pytestmark = pytest.mark.timeout(900)

SIDE_PX = 1024


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A samplesheet of one picture as a MIRAX slide behind a link, and as a DICOM series named by its coarse level."""
    folder = tmp_path / "archive"
    pixels = paint_stained(seed=1, side_px=SIDE_PX)
    slide = write_mirax(folder / "slides" / "case 1.mrxs", pixels)
    (folder / "link.mrxs").symlink_to(slide)
    coarse = np.ascontiguousarray(pixels[::4, ::4])
    series = write_dicom_series(folder / "it's a $HOME [1] {x,y} *? `é` & more", [pixels, coarse])
    write_mirax(slide.with_name("another.mrxs"), pixels)
    (folder / "sheet.csv").write_text(f'sample,slide\nM,link.mrxs\nD,"{series[1].relative_to(folder)}"\n')
    return folder


def test_every_file_of_a_slide_reaches_its_tasks_and_a_changed_one_runs_again(
    launch: Launcher, archive: Path, bundle: Path
) -> None:
    given = ("--input", archive / "sheet.csv", "--bundle", bundle)

    first = launch(*given)

    assert first.code == 0, first.output
    mirax, dicom = (anndata.read_h5ad(first.outdir / sample / f"{sample}.h5ad") for sample in "MD")
    assert mirax.n_obs > 5
    np.testing.assert_array_equal(mirax.obsm["spatial"], dicom.obsm["spatial"])
    np.testing.assert_array_equal(mirax.X, dicom.X)
    # What a container or another machine is given, without the archive's other slides.
    staged = {
        tuple(sorted(path.name for path in folder.iterdir()))
        for folder in (launch.folder / "work").rglob("slide")
        if folder.is_dir()
    }
    assert staged == {("case 1", "case 1.mrxs")}

    data = archive / "slides" / "case 1" / "Data0000.dat"
    data.write_bytes(data.read_bytes() + b"\0")
    changed = launch(*given, "-resume")

    assert changed.code == 0, changed.output
    assert changed.tasks("COMPLETED") == ["ENCODE M", "PREDICT M", "REPORT M", "SUMMARISE", "TILE M"]
    assert changed.tasks("CACHED") == ["ENCODE D", "PREDICT D", "REPORT D", "TILE D"]


def test_a_path_that_nextflow_cannot_stage_ends_the_run_by_its_name(
    launch: Launcher, tmp_path: Path, bundle: Path
) -> None:
    sheet = tmp_path / "my$sheet.csv"
    sheet.write_text("sample,slide\nM,a.tiff\n")

    run = launch("--input", sheet, "--bundle", bundle)

    assert run.code != 0
    assert "Nextflow cannot bring a path with any of $ * ? [ { to a task" in run.output
    assert str(sheet) in run.output
