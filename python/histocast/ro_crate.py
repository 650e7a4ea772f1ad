"""The RO-Crate of a run: entities, which name one another by ``@id``, and what the crates of all runs have in common."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

from pydantic import RootModel

from histocast.records import RunRecord
from histocast.software import IMAGE, IMAGE_DIGEST

Entity = dict[str, Any]

MEDIA_TYPES = {
    "h5ad": "application/x-hdf5",
    "parquet": "application/vnd.apache.parquet",
    "html": "text/html",
    "svg": "image/svg+xml",
    "geojson": "application/geo+json",
    "zip": "application/zip",
    "json": "application/json",
    "txt": "text/tab-separated-values",
    "md": "text/markdown",
}
BYTES = "application/octet-stream"

TERMS = "https://w3id.org/ro/terms/workflow-run"


def reference(identifier: str) -> Entity:
    """Return what stands for an entity elsewhere."""
    return {"@id": identifier}


def references(entities: Iterable[Entity]) -> list[Entity]:
    """Return what stands for each of these."""
    return [reference(entity["@id"]) for entity in entities]


PARTS = ("File", "Dataset")
"""Types of what a folder of results holds."""


def add_file(graph: dict[str, Entity], path: str, name: str, *, sha256: str | None = None) -> Entity:
    """Add a file of the results, or a folder (``path/``), its path relative to theirs, and return it.

    ``sha256`` of a folder is that of `histocast.bundle.sha256_of_folder`.
    """
    entity: Entity = {"@id": quote(path), "@type": "File", "name": name}
    if path.endswith("/"):
        entity |= {"@type": "Dataset", **({"identifier": f"sha256:{sha256}"} if sha256 else {})}
    else:
        kind = MEDIA_TYPES.get(path.rpartition(".")[2], BYTES)
        entity |= {"encodingFormat": kind, **({"sha256": sha256} if sha256 else {})}
    graph[entity["@id"]] = entity
    return entity


def container_image(image: str, found: str | None = None) -> Entity:
    """Return an image by its parts: ``[registry/]name[:tag][@sha256:digest]``.

    ``image``: as the configuration names it.
    ``found``: the digest that its name does not say: ``sha256:...``, or ``sampled-sha256:...`` of an image's file.
    """
    named, _, pinned = image.partition("@")
    path, _, tag = named.rpartition(":") if ":" in named.rpartition("/")[2] else (named, "", "")
    first, _, rest = path.partition("/")
    # As container engines tell a registry from a user: by a dot, a port, or this name.
    has_registry = bool(rest) and ("." in first or ":" in first or first == "localhost")
    digest = pinned or found or ""
    entity: Entity = {
        "@id": f"#image/{quote(f'{image}@{found}' if found else image)}",
        "@type": "ContainerImage",
        "name": rest if has_registry else path,
        "additionalType": reference(f"{TERMS}#{'SIFImage' if path.endswith('.sif') else 'DockerImage'}"),
    }
    parts = {"registry": first if has_registry else "", "tag": tag, "identifier": digest}
    parts["sha256"] = digest.removeprefix("sha256:") if digest.startswith("sha256:") else ""
    return entity | {key: value for key, value in parts.items() if value}


def parameter_values(parameters: Mapping[str, str | float | int | bool | None]) -> list[Entity]:
    """Return every parameter that has a value, secrets hidden."""
    return [
        {
            "@id": f"#parameter/{name}",
            "@type": "PropertyValue",
            "name": name,
            "value": redact(value) if isinstance(value, str) else value,
        }
        for name, value in parameters.items()
        if value is not None
    ]


def software(versions: Iterable[Mapping[str, str]]) -> tuple[list[Entity], list[Entity]]:
    """Return the images, and every version of every library, that any task met: machines of one run need not be alike."""
    met = list(versions)
    images = {(by_name[IMAGE], by_name.get(IMAGE_DIGEST, "")) for by_name in met if IMAGE in by_name}
    libraries = {pair for by_name in met for pair in by_name.items() if pair[0] not in (IMAGE, IMAGE_DIGEST)}
    described = [
        {
            "@id": f"#software/{quote(name)}-{quote(version)}",
            "@type": "SoftwareApplication",
            "name": name,
            "softwareVersion": version,
        }
        for name, version in sorted(libraries)
    ]
    return [container_image(image, digest or None) for image, digest in sorted(images)], described


CONTEXT = ["https://w3id.org/ro/crate/1.1/context", f"{TERMS}/context"]
SPECIFICATION = "https://w3id.org/ro/crate/1.1"
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"

RUN, PIPELINE, ENGINE = "#run", "#pipeline", "#nextflow"

COMPLETED, FAILED = ({"@id": f"http://schema.org/{how}ActionStatus"} for how in ("Completed", "Failed"))

_HEAD_FILES = {
    "pipeline_info/params.json": "Parameters of the run",
    "pipeline_info/workflow.svg": "Diagram of the processes",
}
_ENGINE_FILES = {
    "trace_{}.txt": "Tasks with their resources",
    "report_{}.html": "Report of the workflow engine",
    "timeline_{}.html": "Timeline of the tasks",
}


class Crate(RootModel[dict[str, Any]]):
    """An RO-Crate's metadata document."""


def run_files(run: RunRecord, named: Mapping[str, str]) -> dict[str, Entity]:
    """Return a graph of files by their path and what they are: the named ones, and those that every run leaves.

    Nextflow's own have the run's suffix.
    """
    graph: dict[str, Entity] = {}
    suffix = run.parameters.get("trace_report_suffix")
    engine = {f"pipeline_info/{name.format(suffix)}": meaning for name, meaning in _ENGINE_FILES.items() if suffix}
    for path, name in {**named, **_HEAD_FILES, **engine}.items():
        add_file(graph, path, name)
    return graph


def act(identifier: str, name: str, *, used: Iterable[Entity], made: Iterable[Entity], error: str | None) -> Entity:
    """Return an action of the pipeline, with what it used and made, and what it failed by, if it did."""
    entity: Entity = {
        "@id": identifier,
        "@type": "CreateAction",
        "name": name,
        "instrument": reference(PIPELINE),
        "object": references(used),
        "result": references(made),
        "actionStatus": FAILED if error else COMPLETED,
    }
    return entity | ({"error": error} if error else {})


def describe_crate(
    run: RunRecord,
    graph: dict[str, Entity],
    *,
    met: Iterable[Mapping[str, str]],
    used: Sequence[Entity],
    actions: Sequence[Entity],
    ended: datetime,
    whole: Mapping[str, Any],
    about: Mapping[str, str],
) -> Crate:
    """Return the crate of a run: one action for the whole, which made every file, and its parts.

    ``graph``: files by ``@id``, as `run_files` begins it.
    ``met``: versions of the software that did the work, by task.
    ``used``: slides or sections, and what else the parts used.
    ``whole``: what else the action of the whole says.
    ``about``: ``description`` and ``license`` of the results.
    """
    images, libraries = software(met)
    values = parameter_values(run.parameters)
    place = f"in containers of {run.container_engine}" if run.container_engine else "without containers"
    engine: Entity = {
        "@id": ENGINE,
        "@type": "ComputerLanguage",
        "name": "Nextflow",
        "version": run.nextflow_version,
        "url": reference("https://www.nextflow.io/"),
    }
    pipeline: Entity = {
        "@id": PIPELINE,
        "@type": ["SoftwareSourceCode", "ComputationalWorkflow"],
        "name": run.pipeline,
        "version": run.pipeline_version,
        **({"identifier": run.revision} if run.revision else {}),
        "programmingLanguage": reference(ENGINE),
        "softwareRequirements": references(libraries),
        "description": f"Tasks ran {place}, with the profiles: {run.profile}",
    }
    context = [*images, *values, *libraries, *used, engine, pipeline, *actions]
    graph.update({entity["@id"]: entity for entity in context})
    files = [entity for entity in graph.values() if entity["@type"] in PARTS]
    title = f"histocast {run.pipeline_version}, run {run.run_name}"
    graph[RUN] = act(RUN, title, used=[*used, *values], made=files, error=None) | {
        "identifier": run.session_id,
        "startTime": run.started,
        "endTime": ended.isoformat(timespec="seconds"),
        "containerImage": references(images),
        **whole,
    }
    metadata: Entity = {
        "@id": "ro-crate-metadata.json",
        "@type": "CreativeWork",
        "conformsTo": reference(SPECIFICATION),
        "about": reference("./"),
    }
    results: Entity = {
        "@id": "./",
        "@type": "Dataset",
        "name": f"histocast run {run.run_name}",
        "datePublished": ended.isoformat(timespec="seconds"),
        "conformsTo": reference(PROFILE),
        "hasPart": references(files),
        "mentions": [reference(RUN), *references(actions)],
        **about,
    }
    profile: Entity = {"@id": PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"}
    return Crate({"@context": CONTEXT, "@graph": [metadata, results, profile, *graph.values()]})


HIDDEN = "REDACTED"

# user:password@ of an address, and what query strings call a key.
_USERINFO = re.compile(r"(?<=://)[^/@\s,]+(?=@)")
_QUERY_KEY = re.compile(
    r"(?i)([?&;][^=&;\s]*(?:token|secret|password|passwd|signature|credential|apikey|api_key|sig|key)[^=&;\s]*=)[^&;\s,]+"
)


def redact(text: str) -> str:
    """Return the text without what looks like a key of somebody's.

    >>> redact("grpc://me:hunter2@gpu:8001")
    'grpc://REDACTED@gpu:8001'
    >>> redact("https://store/panel.txt?X-Amz-Signature=abc&part=1")
    'https://store/panel.txt?X-Amz-Signature=REDACTED&part=1'
    """
    return _QUERY_KEY.sub(rf"\1{HIDDEN}", _USERINFO.sub(HIDDEN, text))
