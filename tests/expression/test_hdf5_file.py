"""A disk that becomes full ends the writing of an HDF5 file with an error, wherever it happens, and not with a crash."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from histocast.expression.hdf5_file import create_hdf5

# Files may not grow beyond a limit that moves through the whole file; run apart, since a crash would take the tests along.
PROGRAM = """
import resource, sys
from pathlib import Path
import numpy as np
from anndata.io import write_elem
from histocast.expression.hdf5_file import create_hdf5

def write(path):
    random = np.random.default_rng(0)
    with create_hdf5(path) as (file, check):
        # A row of chunks is more than HDF5 keeps, and is written in parts: it must be read back.
        values = file.create_dataset("X", shape=(200, 6000), dtype="f4", chunks=(64, 64), compression="lzf")
        for start in range(0, 200, 50):
            values[start : start + 50] = random.normal(size=(50, 6000))
        write_elem(file, "names", np.array([f"spot{number}" for number in range(700)], dtype=object))
        write_elem(file, "uns/facts", {"a": 1, "b": {"c": "text " * 400, "d": np.arange(500)}})
        if sys.argv[2] == "early":
            check()

path = Path(sys.argv[1])
write(path)
whole = path.stat().st_size
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
failed = 0
for limit in range(1, whole, max(1, whole // 60)):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        write(path)
    except OSError as error:
        failed += error.errno == 27
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
print(failed)
"""


@pytest.mark.parametrize("checked", ["early", "at the end"])
def test_wherever_the_disk_becomes_full_it_is_an_error(tmp_path: Path, checked: str) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "file.h5"), checked]

    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    assert run.returncode == 0, run.stderr[-2000:]
    assert int(run.stdout) >= 60


def test_without_a_failure_the_file_holds_what_was_written(tmp_path: Path) -> None:
    import h5py

    with create_hdf5(tmp_path / "file.h5") as (file, check):
        file["a"] = [1, 2, 3]
        check()

    with h5py.File(tmp_path / "file.h5") as file:
        assert file["a"][:].tolist() == [1, 2, 3]


def test_a_failure_of_the_caller_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="mine"), create_hdf5(tmp_path / "file.h5"):
        raise RuntimeError("mine")
