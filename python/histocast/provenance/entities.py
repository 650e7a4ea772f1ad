"""Entities of an RO-Crate's graph: flat mappings that name one another by ``@id``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from histocast.provenance.redact import redact
from histocast.software import IMAGE, IMAGE_DIGEST

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

TERMS = "https://w3id.org/ro/terms/workflow-run"


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


def container_image(image: str, found: str | None = None) -> Entity:
    """Return an image by its parts: ``[registry/]name[:tag][@sha256:digest]``.

    Parameters
    ----------
    image:
        As the configuration names it.
    found:
        The digest that its name does not say: ``sha256:...``, or ``sampled-sha256:...`` of an image's file.
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
