"""Entities of an RO-Crate's graph: flat mappings that name one another by ``@id``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from histocast.provenance.redact import redact
from histocast.software import IMAGE

Entity = dict[str, Any]

MEDIA_TYPES = {
    "h5ad": "application/x-hdf5",
    "parquet": "application/vnd.apache.parquet",
    "html": "text/html",
    "json": "application/json",
    "txt": "text/tab-separated-values",
    "md": "text/markdown",
}
BYTES = "application/octet-stream"


def reference(identifier: str) -> Entity:
    """Return what stands for an entity elsewhere."""
    return {"@id": identifier}


def references(entities: Iterable[Entity]) -> list[Entity]:
    """Return what stands for each of these."""
    return [reference(entity["@id"]) for entity in entities]


def add_file(graph: dict[str, Entity], path: str, name: str, *, sha256: str | None = None) -> Entity:
    """Add a file of the results, its path relative to their folder, and return it."""
    entity: Entity = {
        "@id": quote(path),
        "@type": "File",
        "name": name,
        "encodingFormat": MEDIA_TYPES.get(path.rpartition(".")[2], BYTES),
        **({"sha256": sha256} if sha256 else {}),
    }
    graph[entity["@id"]] = entity
    return entity


def container_image(image: str) -> Entity:
    """Return an image by its parts: ``[registry/]name[:tag][@sha256:digest]``."""
    named, _, digest = image.partition("@")
    path, _, tag = named.rpartition(":") if ":" in named.rpartition("/")[2] else (named, "", "")
    first, _, rest = path.partition("/")
    # As container engines tell a registry from a user: by a dot, a port, or this name.
    has_registry = bool(rest) and ("." in first or ":" in first or first == "localhost")
    entity: Entity = {
        "@id": f"#image/{quote(image)}",
        "@type": "ContainerImage",
        "name": rest if has_registry else path,
        "additionalType": reference("https://w3id.org/ro/terms/workflow-run#DockerImage"),
    }
    parts = {"registry": first if has_registry else "", "tag": tag, "sha256": digest.removeprefix("sha256:")}
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
    met = sorted({pair for by_name in versions for pair in by_name.items()})
    libraries = [
        {
            "@id": f"#software/{quote(name)}-{quote(version)}",
            "@type": "SoftwareApplication",
            "name": name,
            "softwareVersion": version,
        }
        for name, version in met
        if name != IMAGE
    ]
    return [container_image(version) for name, version in met if name == IMAGE], libraries
