"""What the crates of all runs have in common: their two roots, the pipeline, the workflow engine, its files."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import RootModel

from histocast.provenance.entities import TERMS, Entity, reference, references
from histocast.records import RunRecord

CONTEXT = ["https://w3id.org/ro/crate/1.1/context", f"{TERMS}/context"]
SPECIFICATION = "https://w3id.org/ro/crate/1.1"
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"

RUN, PIPELINE, ENGINE = "#run", "#pipeline", "#nextflow"

_ENGINE_FILES = {
    "trace_{}.txt": "Tasks with their resources",
    "report_{}.html": "Report of the workflow engine",
    "timeline_{}.html": "Timeline of the tasks",
    "dag_{}.html": "Diagram of the processes",
}


class Crate(RootModel[dict[str, Any]]):
    """An RO-Crate's metadata document."""


def engine_files(run: RunRecord) -> dict[str, str]:
    """Files of every run that no task of histocast makes, with what they are; Nextflow's own have the run's suffix."""
    suffix = run.parameters.get("trace_report_suffix")
    files = {f"pipeline_info/{name.format(suffix)}": meaning for name, meaning in _ENGINE_FILES.items() if suffix}
    return {"pipeline_info/params.json": "Parameters of the run", **files}


def as_crate(
    run: RunRecord,
    graph: dict[str, Entity],
    actions: Sequence[Entity],
    *,
    ended: datetime,
    description: str,
    licence: str,
) -> Crate:
    """Put the entities that make a document an RO-Crate before the others.

    Parameters
    ----------
    graph:
        Every other entity by ``@id``, the run itself and its actions among them.
    actions:
        The parts of the run.
    """
    files = [entity for entity in graph.values() if entity["@type"] == "File"]
    roots: list[Entity] = [
        {
            "@id": "ro-crate-metadata.json",
            "@type": "CreativeWork",
            "conformsTo": reference(SPECIFICATION),
            "about": reference("./"),
        },
        {
            "@id": "./",
            "@type": "Dataset",
            "name": f"histocast run {run.run_name}",
            "description": description,
            "datePublished": ended.isoformat(timespec="seconds"),
            "license": licence,
            "conformsTo": reference(PROFILE),
            "hasPart": references(files),
            "mentions": [reference(RUN), *references(actions)],
        },
        {"@id": PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"},
    ]
    return Crate({"@context": CONTEXT, "@graph": [*roots, *graph.values()]})


def act(run: RunRecord, graph: dict[str, Entity], *, ended: datetime, is_ok: bool = True) -> Entity:
    """Return the action of the whole run, which made every file of the graph."""
    return {
        "@id": RUN,
        "@type": "CreateAction",
        "name": f"histocast {run.pipeline_version}, run {run.run_name}",
        "identifier": run.session_id,
        "instrument": reference(PIPELINE),
        "startTime": run.started,
        "endTime": ended.isoformat(timespec="seconds"),
        "actionStatus": status_of(is_ok=is_ok),
        "result": references(entity for entity in graph.values() if entity["@type"] == "File"),
    }


def status_of(*, is_ok: bool) -> Entity:
    """Return how an action ended."""
    return reference(f"http://schema.org/{'Completed' if is_ok else 'Failed'}ActionStatus")


def describe_engine(run: RunRecord) -> Entity:
    """Return the workflow engine."""
    return {
        "@id": ENGINE,
        "@type": "ComputerLanguage",
        "name": "Nextflow",
        "version": run.nextflow_version,
        "url": reference("https://www.nextflow.io/"),
    }


def describe_pipeline(run: RunRecord, libraries: Sequence[Entity]) -> Entity:
    """Return the pipeline, with the libraries that its tasks met."""
    place = f"in containers of {run.container_engine}" if run.container_engine else "without containers"
    return {
        "@id": PIPELINE,
        "@type": ["SoftwareSourceCode", "ComputationalWorkflow"],
        "name": run.pipeline,
        "version": run.pipeline_version,
        **({"identifier": run.revision} if run.revision else {}),
        "programmingLanguage": reference(ENGINE),
        "softwareRequirements": references(libraries),
        "description": f"Tasks ran {place}, with the profiles: {run.profile}",
    }
