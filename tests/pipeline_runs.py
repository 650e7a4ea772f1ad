"""Runs of the pipeline, and what their traces say."""

from __future__ import annotations

import csv
import os
import re
import runpy
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

RUN_LIMIT_S = 800


@dataclass(frozen=True)
class Run:
    """How one run of Nextflow ended."""

    code: int
    output: str
    outdir: Path

    def trace(self) -> list[dict[str, str]]:
        """Rows of the trace of the last run, a task each."""
        last = max((self.outdir / "pipeline_info").glob("trace_*.txt"), key=lambda path: path.stat().st_mtime)
        with last.open(newline="") as stream:
            return list(csv.DictReader(stream, delimiter="\t"))

    def tasks(self, status: str) -> list[str]:
        """``PROCESS sample`` of every task with a status, those left out that always run."""
        names = [
            f"{row['process'].split(':')[-1]} {row['tag']}".removesuffix(" -")
            for row in self.trace()
            if row["status"] == status
        ]
        return sorted(name for name in names if not name.startswith(("CHECK", "PROVENANCE", "LINEAGE", "CONCLUDE")))


class Launcher:
    """Runs the pipeline in one folder, so that a later run can resume an earlier one."""

    def __init__(self, root: Path, folder: Path, nextflow: str) -> None:
        self.root = root
        self.folder = folder
        self.nextflow = nextflow

    def __call__(self, *arguments: str | Path, script: Path | None = None, env: Mapping[str, str] | None = None) -> Run:
        """Run ``nextflow run`` with these arguments; results go to ``results`` within the folder."""
        command = [self.nextflow, "run", script or self.root, "-ansi-log", "false", *arguments]
        done = self.execute(command, env=env)
        return Run(done.returncode, done.stdout, self.folder / "results")

    def execute(
        self, command: list[str | Path], env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run any Nextflow command in the folder."""
        return subprocess.run(
            [str(part) for part in command],
            cwd=self.folder,
            env={
                **os.environ,
                "PATH": f"{self.root / '.venv' / 'bin'}:{os.environ['PATH']}",
                "PYTHONPATH": str(self.root / "python"),
                "NXF_OFFLINE": "true",
                **(env or {}),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=RUN_LIMIT_S,
            check=False,
        )


def arrows_of(diagram: Path) -> set[tuple[str, str]]:
    """Which process feeds which, over the operators between them, from what ``-with-dag x.mmd`` wrote.

    Later versions of Nextflow put names between quotation marks.
    """
    text = diagram.read_text()
    names = {node: name.rpartition(":")[2] for node, name in re.findall(r'(v\d+)\(\["?(.+?)"?\]\)', text)}
    after: dict[str, set[str]] = {}
    for one, other in re.findall(r"(v\d+) -->(?:\|.*?\|)? (v\d+)", text):
        after.setdefault(one, set()).add(other)
    found = set()
    for node, name in names.items():
        reached, open_nodes = set(), after.get(node, set())
        while open_nodes:
            reached |= open_nodes
            passed = {each for each in open_nodes if each not in names}
            open_nodes = {each for one in passed for each in after.get(one, set())} - reached
        found |= {(name, names[each]) for each in reached & names.keys()}
    return {(one, other) for one, other in found if one != other}


def drawn_arrows(root: Path, workflow: str) -> set[tuple[str, str]]:
    """The arrows of ``docs/images/<workflow>.svg``, whose file has to be what its script draws."""
    script = runpy.run_path(str(root / "docs" / "site" / "draw_workflows.py"))
    places, arrows = script["DRAWINGS"][workflow]
    drawn = script["draw"](f"Workflow {workflow}", places, arrows)
    assert (root / "docs" / "images" / f"{workflow}.svg").read_text() == drawn
    return set(arrows)


def write_samplesheet(path: Path, rows: Mapping[str, str | Path]) -> Path:
    """Write a samplesheet of samples and slides."""
    path.write_text("sample,slide\n" + "".join(f"{sample},{slide}\n" for sample, slide in rows.items()))
    return path


def count_by_process(tasks: list[str]) -> Counter[str]:
    """Number of tasks a process, of names as `Run.tasks` gives them."""
    return Counter(name.split()[0] for name in tasks)
