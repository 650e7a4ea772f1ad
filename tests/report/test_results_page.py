"""The page on what to do with results: every snippet runs, on the results of a made slide."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from histocast.bundle import bundle_digest
from histocast.expression.zarr_file import write_zarr
from predicted_sample import predict, write_report
from sample_bundle import write_bundle, write_slide_files

PAGE = Path(__file__).parents[2] / "docs" / "results.md"


def test_every_snippet_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("scanpy", reason="the extra cohort is not installed")
    folder = tmp_path / "results" / "S1"
    write_bundle(tmp_path / "bundle")
    files = write_slide_files(tmp_path, bundle_digest(tmp_path / "bundle"), columns=20, rows=16)
    predict(files, tmp_path / "bundle", folder)
    write_report(files, folder, geojson=folder / "S1.geojson")
    write_zarr(folder / "S1.zarr.zip", folder / "S1.h5ad", scratch=tmp_path)
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(snippets) >= 6
    names: dict[str, Any] = {}
    for snippet in snippets:
        exec(snippet, names)  # the manual's own code
        assert capsys.readouterr().out
    assert names["same"].shape == names["sample"].shape
    assert names["by_sample"].collect()["len"].to_list() == [int(names["sample"].obs["in_statistics"].sum())]
    assert len(names["tiles"]) == names["sample"].n_obs
