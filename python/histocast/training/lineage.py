"""LINEAGE: what the bundles of a run were made of, gathered from what its stages left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from histocast.artifacts import write_json
from histocast.bundle import read_bundle, sha256_of_file
from histocast.errors import DataError
from histocast.provenance import GivenFile, MadeBundle, UsedSection, describe_training
from histocast.records import RunRecord, read_record
from histocast.training.section import SECTION_FILE, SectionRecord
from histocast.training.train import TRAIN_FILE, TrainRecord

PROVENANCE_FILE = "provenance.json"


@dataclass(frozen=True)
class GivenFiles:
    """What a training run was given besides the sections."""

    recipe: str
    """Its file, or the name of a shipped one."""
    panel: Path | None = None
    gene_text: Path | None = None
    unseen_genes: Path | None = None

    def described(self) -> Iterator[GivenFile]:
        """Each with its digest, where it is a file."""
        file = Path(self.recipe)
        yield GivenFile("recipe", f"Recipe {file.name}", _digest(file) if file.is_file() else None)
        if self.panel:
            yield GivenFile("genes", "Gene panel", _digest(self.panel))
        if self.gene_text:
            yield GivenFile("gene_text", "Embedded descriptions of genes", _digest(self.gene_text))
        if self.unseen_genes:
            yield GivenFile("unseen_genes", "Genes left out of training", _digest(self.unseen_genes))


def write_lineage(
    run: Path,
    *,
    parts: Path,
    evaluation: Path,
    given: GivenFiles,
    outdir: Path,
) -> None:
    """Write ``provenance.json`` of a training run.

    Parameters
    ----------
    run:
        What the workflow engine knows (`RunRecord`).
    parts:
        Folder in which lies, at any depth, the section.json of each section, the train.json of each model and the
        bundle.json of each bundle.
    evaluation:
        Folder of what EVALUATE wrote.
    given:
        What the run was given besides the sections.

    Raises
    ------
    DataError, MissingInputError
        A record cannot be read, or a bundle was trained on a section that has none.
    """
    sections = [read_record(path, SectionRecord) for path in sorted(parts.rglob(SECTION_FILE))]
    models = [read_record(path, TrainRecord) for path in sorted(parts.rglob(TRAIN_FILE))]
    bundles = _bundles(sorted(parts.rglob("bundle.json")))
    _refuse_unknown(bundles, {found.sample for found in sections}, where=str(parts))
    crate = describe_training(
        read_record(run, RunRecord),
        sections=[UsedSection(found.sample, found.digests["slide"], found.digests["counts"]) for found in sections],
        given=list(given.described()),
        bundles=bundles,
        evaluation={path.name: sha256_of_file(path) for path in sorted(evaluation.iterdir())},
        met=[model.software for model in models],
        ended=datetime.now(UTC),
    )
    outdir.mkdir(parents=True, exist_ok=True)
    write_json(outdir / PROVENANCE_FILE, crate)


def _bundles(files: Sequence[Path]) -> list[MadeBundle]:
    found = [(read_bundle(file.parent), sha256_of_file(file)) for file in files]
    return [MadeBundle(f"{bundle.fusion.method}/bundle", bundle, sha256) for bundle, sha256 in found]


def _refuse_unknown(bundles: Sequence[MadeBundle], samples: set[str], *, where: str) -> None:
    for made in bundles:
        if absent := sorted(set(made.bundle.training_data["samples"]) - samples):
            raise DataError(
                f"{made.folder} was trained on {', '.join(absent)}",
                expected=f"a {SECTION_FILE} of each section",
                where=where,
                advice="give the records of the same run",
            )


def _digest(path: Path) -> str:
    return f"sha256:{sha256_of_file(path)}"
