"""What LINEAGE writes: what the bundles of a run were made of, gathered from what its stages left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from histocast.artifacts import write_json
from histocast.bundle import Bundle, read_bundle, sha256_of_file
from histocast.errors import DataError
from histocast.records import RunRecord, read_record
from histocast.ro_crate import (
    PIPELINE,
    RUN,
    Crate,
    Entity,
    act,
    add_file,
    as_crate,
    describe_engine,
    describe_pipeline,
    engine_files,
    parameter_values,
    reference,
    references,
    software,
    status_of,
)
from histocast.sections.section import SECTION_FILE, SectionRecord
from histocast.training.recipe import Recipe
from histocast.training.train_fold import TRAIN_FILE, TrainRecord

PROVENANCE_FILE = "provenance.json"


GIVEN = {
    "genes": "Gene panel",
    "gene_text": "Embedded descriptions of genes",
    "unseen_genes": "Genes left out of training",
}
"""Files that a training run may be given besides its recipe, as the parameters are called."""


def write_lineage(
    run: Path,
    *,
    parts: Path,
    evaluation: Path,
    recipe: Recipe,
    outdir: Path,
) -> None:
    """Write ``provenance.json`` of a training run.

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
    bundles = _bundles(sorted(parts.rglob("bundle.json")))
    _refuse_unknown(bundles, {found.sample for found in sections}, where=str(parts))
    crate = describe_training(
        read_record(run, RunRecord),
        sections=[UsedSection(found.sample, found.digests["slide"], found.digests["counts"]) for found in sections],
        given=_given_files(recipe),
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


def _given_files(recipe: Recipe) -> list[GivenFile]:
    """The recipe, which is no file where histocast ships it, and the other files that were given."""
    digests = {key: f"sha256:{sha256}" for key, sha256 in recipe.given.items()}
    files = [GivenFile(key, title, digests[key]) for key, title in GIVEN.items() if key in digests]
    return [GivenFile("recipe", f"Recipe {recipe.name}", digests.get("recipe")), *files]


DESCRIPTION = "Models of spatial gene expression, trained on H&E slides with measured counts. Research only."
LICENCE = "Not stated here: each bundle.json states its bundle's."


@dataclass(frozen=True)
class UsedSection:
    """A section that models were trained on or scored by."""

    sample: str
    slide_digest: str
    counts_digest: str
    """Of what the counts say."""


@dataclass(frozen=True)
class MadeBundle:
    """A bundle that the run exported."""

    folder: str
    """Its place in the results, such as ``ridge/bundle``."""
    bundle: Bundle
    sha256: str
    """Of its ``bundle.json``, which is the bundle's digest."""


@dataclass(frozen=True)
class GivenFile:
    """A file that decided what was trained."""

    key: str
    """``recipe``, ``genes`` or ``gene_text``, as the parameter is called."""
    title: str
    digest: str | None
    """``None`` for a recipe that histocast ships, which the version of histocast decides."""


def describe_training(
    run: RunRecord,
    *,
    sections: Sequence[UsedSection],
    given: Sequence[GivenFile],
    bundles: Sequence[MadeBundle],
    evaluation: Mapping[str, str],
    met: Iterable[Mapping[str, str]],
    ended: datetime,
) -> Crate:
    """Return the crate of a training run: one action for the whole, and one for each bundle.

    ``run``: what the workflow engine knows.
    ``evaluation``: files of the evaluation and their sha256.
    ``met``: versions of the software that trained each model.
    ``ended``: when the last model had been scored.
    """
    graph: dict[str, Entity] = {}
    for path, name in {"pipeline_info/plan.json": "Every model that was trained", **engine_files(run)}.items():
        add_file(graph, path, name)
    for name, sha256 in evaluation.items():
        add_file(graph, f"evaluation/{name}", "How the models meet sections they did not see", sha256=sha256)
    images, libraries = software(met)
    values = parameter_values(run.parameters)
    inputs = [_describe_file(file) for file in given]
    measured = {section.sample: _describe_section(section) for section in sections}
    actions = [_act_on_bundle(graph, made, measured, inputs) for made in bundles]
    data = [entity for pair in measured.values() for entity in pair]
    context = [*images, *values, *libraries, *inputs, *data]
    context += [describe_engine(run), describe_pipeline(run, libraries), *actions]
    graph.update({entity["@id"]: entity for entity in context})
    graph[RUN] = act(run, graph, ended=ended) | {
        "object": references([*inputs, *values, *data]),
        "containerImage": references(images),
    }
    return as_crate(run, graph, actions, ended=ended, description=DESCRIPTION, licence=LICENCE)


def _describe_section(section: UsedSection) -> list[Entity]:
    parts = (("slide", "Slide", section.slide_digest), ("counts", "Counts", section.counts_digest))
    return [
        {
            "@id": f"#{kind}/{section.sample}",
            "@type": "CreativeWork",
            "name": f"{title} of section {section.sample}",
            "identifier": digest,
        }
        for kind, title, digest in parts
    ]


def _describe_file(given: GivenFile) -> Entity:
    entity: Entity = {"@id": f"#{given.key}", "@type": "CreativeWork", "name": given.title}
    return entity | ({"identifier": given.digest} if given.digest else {})


def _act_on_bundle(
    graph: dict[str, Entity], made: MadeBundle, measured: Mapping[str, list[Entity]], inputs: list[Entity]
) -> Entity:
    """The action of one bundle; its files go into the graph."""
    bundle = made.bundle
    title = f"{bundle.name} {bundle.version}"
    files = {name: sha256 for spec in (*bundle.encoders, bundle.fusion) for name, sha256 in spec.files().items()}
    files = {"bundle.json": made.sha256, **files, "genes.parquet": bundle.genes_sha256}
    results = [add_file(graph, f"{made.folder}/{name}", title, sha256=sha256) for name, sha256 in files.items()]
    trained_on = [entity for sample in bundle.training_data["samples"] for entity in measured[sample]]
    return {
        "@id": f"#run/{made.folder}",
        "@type": "CreateAction",
        "name": f"Bundle {title}, by {bundle.fusion.method}",
        "instrument": reference(PIPELINE),
        "object": references([*trained_on, *inputs]),
        "result": references(results),
        "actionStatus": status_of(is_ok=True),
    }
