"""What LINEAGE writes: what the bundles of a run were made of, gathered from what its stages left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from histocast.artifacts import write_json
from histocast.bundle import Bundle, read_bundle, sha256_of_file
from histocast.errors import DataError
from histocast.records import RunRecord, read_record
from histocast.ro_crate import Entity, act, add_file, describe_crate, run_files
from histocast.sections.section import SECTION_FILE, SectionRecord
from histocast.training.recipe import Recipe
from histocast.training.train_record import TRAIN_FILE, TrainRecord

PROVENANCE_FILE = "provenance.json"

ABOUT = {
    "description": "Models of spatial gene expression, trained on H&E slides with measured counts. Research only.",
    "license": "Not stated here: each bundle.json states its bundle's.",
}

GIVEN = {
    "genes": "Gene panel",
    "gene_text": "Embedded descriptions of genes",
    "unseen_genes": "Genes left out of training",
}
"""Files that a training run may be given besides its recipe, as the parameters are called."""


def write_lineage(run: Path, *, parts: Path, evaluation: Path, recipe: Recipe, outdir: Path) -> None:
    """Write ``provenance.json`` of a training run: one action for the whole, and one for each bundle.

    ``run``: what the workflow engine knows (`RunRecord`).
    ``parts``: folder in which lies, at any depth, the section.json of each section, the train.json of each model and
        the bundle.json of each bundle.
    ``evaluation``: folder of what EVALUATE wrote.
    ``recipe``: of any model of the run, with the digests of what the run was given.
    Raises `DataError` or `MissingInputError`: a record cannot be read, or a bundle was trained on a section that has
    none.
    """
    sections = [read_record(path, SectionRecord) for path in sorted(parts.rglob(SECTION_FILE))]
    models = [read_record(path, TrainRecord) for path in sorted(parts.rglob(TRAIN_FILE))]
    record = read_record(run, RunRecord)
    measured = {section.sample: _describe_section(section) for section in sections}
    inputs = list(_describe_given(recipe))
    graph = run_files(record, {"pipeline_info/plan.json": "Every model that was trained"})
    for path in sorted(evaluation.iterdir()):
        meaning = "How the models meet sections they did not see"
        add_file(graph, f"evaluation/{path.name}", meaning, sha256=sha256_of_file(path))
    actions = [
        _act_on_bundle(graph, read_bundle(file.parent), sha256_of_file(file), measured, inputs, where=str(parts))
        for file in sorted(parts.rglob("bundle.json"))
    ]
    crate = describe_crate(
        record,
        graph,
        met=[model.software for model in models],
        used=[*inputs, *(entity for pair in measured.values() for entity in pair)],
        actions=actions,
        ended=datetime.now(UTC),
        whole={},
        about=ABOUT,
    )
    outdir.mkdir(parents=True, exist_ok=True)
    write_json(outdir / PROVENANCE_FILE, crate)


def _describe_section(section: SectionRecord) -> list[Entity]:
    return [
        {
            "@id": f"#{kind}/{section.sample}",
            "@type": "CreativeWork",
            "name": f"{kind.capitalize()} of section {section.sample}",
            "identifier": section.digests[kind],
        }
        for kind in ("slide", "counts")
    ]


def _describe_given(recipe: Recipe) -> Iterable[Entity]:
    """The recipe, which is no file where histocast ships it, and the other files that were given."""
    for key, title in {"recipe": f"Recipe {recipe.name}", **GIVEN}.items():
        digest = {"identifier": f"sha256:{recipe.given[key]}"} if key in recipe.given else {}
        if digest or key == "recipe":
            yield {"@id": f"#{key}", "@type": "CreativeWork", "name": title, **digest}


def _act_on_bundle(
    graph: dict[str, Entity],
    bundle: Bundle,
    sha256: str,
    measured: Mapping[str, Sequence[Entity]],
    inputs: Sequence[Entity],
    *,
    where: str,
) -> Entity:
    """The action of one bundle, whose ``bundle.json`` has this digest; its files go into the graph."""
    folder, samples = f"{bundle.fusion.method}/bundle", bundle.training_data["samples"]
    if absent := sorted(set(samples) - set(measured)):
        raise DataError(
            f"{folder} was trained on {', '.join(absent)}",
            expected=f"a {SECTION_FILE} of each section",
            where=where,
            advice="give the records of the same run",
        )
    title = f"{bundle.name} {bundle.version}"
    files = {name: digest for spec in (*bundle.encoders, bundle.fusion) for name, digest in spec.files().items()}
    files = {"bundle.json": sha256, **files, "genes.parquet": bundle.genes_sha256}
    return act(
        f"#run/{folder}",
        f"Bundle {title}, by {bundle.fusion.method}",
        used=[*(entity for sample in samples for entity in measured[sample]), *inputs],
        made=[add_file(graph, f"{folder}/{name}", title, sha256=digest) for name, digest in files.items()],
        error=None,
    )
