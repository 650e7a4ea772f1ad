"""``provenance.json`` of a training run: the same crate, with sections, recipe and gene texts in, and bundles out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from histocast.bundle import Bundle
from histocast.provenance.entities import Entity, add_file, parameter_values, reference, references, software
from histocast.provenance.run_entities import (
    PIPELINE,
    RUN,
    Crate,
    act,
    as_crate,
    describe_engine,
    describe_pipeline,
    engine_files,
    status_of,
)
from histocast.records import RunRecord

DESCRIPTION = "Models of spatial gene expression, trained on H&E slides with measured counts. Research only."
LICENCE = "Not stated here: each bundle.json states its bundle's."


@dataclass(frozen=True)
class UsedSection:
    """A section that models were trained on or judged by."""

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

    Parameters
    ----------
    run:
        What the workflow engine knows.
    evaluation:
        Files of the evaluation and their sha256.
    met:
        Versions of the software that trained each model.
    ended:
        When the last model had been judged.
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
