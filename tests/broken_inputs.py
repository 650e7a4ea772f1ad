"""Files that no verb can use, and a verb run on them as a user runs it, in this process."""

from __future__ import annotations

import gzip
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from histocast import cli

# Exits that histocast means: done, a wrong call, data, absence, output, configuration.
MEANT = {0, 64, 65, 66, 73, 78}


def write_broken(folder: Path) -> dict[str, Path]:
    """Files of every kind that no verb can use, by kind."""
    kinds = {
        "absent": None,
        "empty": b"",
        "random": np.random.default_rng(0).bytes(3000),
        "text": b"neither,nor\n1,2\n",
        "empty_object": b"{}",
        "other_json": json.dumps({"schema_version": 99, "samples": [{"sample": None}], "encoders": 7}).encode(),
        "deep_json": b"[" * 100_000,
        "nul": b"sample,slide,counts,patient\nS1,a\0b,c,d\n",
        "cut_gzip": gzip.compress(b"a\tb\n" * 1000)[:40],
        "utf16": "sample,slide\n".encode("utf-16"),
    }
    for name, content in kinds.items():
        if content is not None:
            (folder / name).write_bytes(content)
    pq.write_table(pa.table({"gene_id": [None, "ENSG1"], "n": [1.5, float("nan")]}), folder / "parquet")
    (folder / "cut_parquet").write_bytes((folder / "parquet").read_bytes()[:-20])
    with h5py.File(folder / "hdf5.h5ad", "w") as file:
        file["X"] = np.zeros((2, 2))
        file["obs"] = 7
    (folder / "folder").mkdir()
    nested = folder / "full_folder"
    for name in ("bundle.json", "section.json", "train.json", "evaluation.json", "encoder.json", "genes.parquet"):
        (nested / "S1").mkdir(parents=True, exist_ok=True)
        (nested / name).write_bytes(b"{}")
        (nested / "S1" / name).write_bytes(b"\xff\xfe")
    return {path.name: path for path in [*folder.iterdir(), folder / "absent"]}


def break_in_place(path: Path, broken: Mapping[str, Path]) -> Iterator[str]:
    """Put each broken file in the place of a good one, which keeps its name; yield the kind, and restore it in the end.

    Besides, the good file is cut to half, and its bytes are changed in the middle.
    """
    good = path.read_bytes()
    middle = len(good) // 2
    changed = {
        "cut": good[:middle],
        "changed": good[:middle] + bytes(255 - byte for byte in good[middle : middle + 40]) + good[middle + 40 :],
    }
    try:
        for kind, source in [*broken.items(), *((kind, None) for kind in changed)]:
            _remove(path)
            if source is None:
                path.write_bytes(changed[kind])
            elif source.is_dir():
                path.mkdir()
            elif source.is_file():
                shutil.copyfile(source, path)
            yield kind
    finally:
        _remove(path)
        path.write_bytes(good)


def _remove(path: Path) -> None:
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _arguments(arguments: Sequence[str]) -> Iterator[None]:
    before, sys.argv = sys.argv, ["histocast", *arguments]
    try:
        yield
    finally:
        sys.argv = before


def run(
    arguments: Sequence[str], capsys: pytest.CaptureFixture[str], main: Callable[[], None] = cli.main
) -> tuple[int, str]:
    """Exit code of a command line, and what it said on standard error."""
    with _arguments(arguments), pytest.raises(SystemExit) as ending:
        main()
    return int(ending.value.code or 0), capsys.readouterr().err
