"""What a cohort of many slides costs: time and memory of ``histocast cohort``, at once and where a few slides are added.

Slide summaries are made without slides. Their gene values are random along a few directions, as `made_cohort` makes them;
one in every ``--distinct`` is made, and the others are copies of these under names of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from scale import run

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "tests")]
from made_cohort import Made, make_slides, write_run_summary, write_summary_of  # noqa: E402

NAME = "S{:07d}"


def write_run(folder: Path, numbers: range, *, genes: int, distinct: int) -> Path:
    """Write the results of a run of these slides."""
    folder.mkdir()
    random = np.random.default_rng(0)
    template = folder / "template.parquet"
    contents = []
    for number, made in enumerate(make_slides(min(distinct, len(numbers)), genes=genes)):
        write_summary_of(template, Made(NAME.format(number), made.mean), random)
        contents.append(pq.read_table(template))
    template.unlink()
    for number in numbers:
        place = number % len(contents)
        name = NAME.format(number)
        (folder / name).mkdir()
        table = contents[place]
        metadata = {
            key: value.replace(NAME.format(place).encode(), name.encode())
            for key, value in table.schema.metadata.items()
        }
        pq.write_table(table.replace_schema_metadata(metadata), folder / name / f"{name}.slide.parquet")
    sites = ("north", "south", "east")
    rows = [Made(NAME.format(number), metadata={"site": sites[number % 3]}) for number in numbers]
    write_run_summary(folder / "summary.parquet", rows)
    return folder


def measure(folder: Path, *, slides: int, genes: int, added: int, distinct: int) -> dict[str, object]:
    """Gather a cohort, then add some slides to it."""
    first = write_run(folder / "first", range(slides), genes=genes, distinct=distinct)
    second = write_run(folder / "second", range(slides, slides + added), genes=genes, distinct=distinct)
    program = str(Path(sys.executable).parent / "histocast")
    outdir = str(folder / "cohort")
    at_once = run([program, "cohort", str(first), "--outdir", outdir], folder, dict(os.environ))
    size_mb = {path.name: round(path.stat().st_size / 1e6, 1) for path in Path(outdir).iterdir()}
    # Nothing of the first run is there to be read again.
    first.rename(folder / "gone")
    more = run([program, "cohort", outdir, str(second), "--outdir", outdir], folder, dict(os.environ))
    return {"slides": slides, "genes": genes, "at_once": at_once, "added": added, "adding": more, "size_mb": size_mb}


def main() -> None:
    """Print one line of JSON for each number of slides."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--genes", type=int, default=250)
    parser.add_argument("--added", type=int, default=100)
    parser.add_argument("--distinct", type=int, default=2000)
    given = parser.parse_args()
    for slides in given.slides:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(Path(folder), slides=slides, genes=given.genes, added=given.added, distinct=given.distinct)
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
