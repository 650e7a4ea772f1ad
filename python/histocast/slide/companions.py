"""Slides of several files: which files and folders beside a slide are part of it.

    .mrxs          3DHISTECH MIRAX      the folder of the same name
    .vms .vmu      Hamamatsu            the files of its folder that it lists
    DICOM          any name             the files of its folder that belong to the same series

OpenSlide finds all of them by the slide's own path, so they must lie beside it. Formats of several files that
OpenSlide does not read are refused by their suffix: what their first file shows is no slide.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from histocast.errors import DataError
from histocast.foreign_errors import is_machine_fault
from histocast.slide.dicom import series_of
from histocast.storage import Source, open_source, sampled_digest

MIRAX = ".mrxs"
LISTS = (".vms", ".vmu")
DICOM = ".dcm"
SEVERAL_FILES = (MIRAX, *LISTS, DICOM)
"""Suffixes of slides that are several files each."""

UNREAD = {
    ".afi": "a list of fluorescence images, which is no H&E slide",
    ".ndpis": "a list of fluorescence images, which is no H&E slide",
    ".vsi": "an Olympus or Evident slide of several files, which OpenSlide does not read",
}
"""Suffixes of formats of several files that are refused, and why."""

# Never DICOM: their folders need not be searched, nor their first bytes be read.
_SINGLE_FILE = (".svs", ".tif", ".tiff", ".ndpi", ".scn", ".bif", ".svslide", ".czi", ".png", ".jpg", ".jpeg", ".jp2")
_MAX_LIST_BYTES = 1 << 20


def slide_files(path: Path, *, name: str) -> tuple[Path, ...]:
    """Return the path to open a local slide by, and then the files and folders beside it that are part of it, sorted.

    Companions are looked for beside the path, and beside what it links to where there are more.

    ``path``: the slide; of a DICOM series any file.
    ``name``: how errors call the slide.
    Raises `DataError`: a companion is absent, or the format is one of several files that is not read.
    """
    refuse_unread(path.name, name=name)
    places = dict.fromkeys((path, path.resolve()))
    found = [(place, *_companions(place)) for place in places]
    best = max(found, key=len)
    _require_all(best, name=name)
    return best


def refuse_unread(uri: str, *, name: str) -> None:
    """Raise `DataError` for a format of several files that is not read, by the suffix of its path or URI."""
    for suffix, what in UNREAD.items():
        if uri.lower().endswith(suffix):
            raise DataError(
                what, expected="an H&E slide", where=name, advice="export the slide as one pyramidal TIFF or OME-TIFF"
            )


def refuse_in_store(uri: str, *, name: str) -> None:
    """Raise `DataError` for a slide of several files in an object store, by the suffix of its URI."""
    refuse_unread(uri, name=name)
    if uri.lower().endswith(SEVERAL_FILES):
        raise incomplete("a slide of several files in a store", name=name)


def incomplete(found: str, *, name: str) -> DataError:
    """Return the error for a slide whose companions cannot be reached."""
    return DataError(
        found,
        expected="the index file with all its companions, on a local disk",
        where=name,
        advice="copy the whole slide to a local disk, or convert it to one pyramidal TIFF",
    )


def companions_version(files: Sequence[Path]) -> str | None:
    """Return what changes when a companion changes, is added or goes: a digest of names, sizes and times.

    ``files``: as `slide_files` returns them. ``None`` comes back for a slide of one file.
    """
    if len(files) < 2:
        return None
    digest = hashlib.sha256()
    for file in _members(files[1:]):
        status = file.stat()
        place = file.relative_to(files[0].parent)
        digest.update(f"{place}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def slide_digest(source: Source) -> str:
    """Return the sampled digest of a slide with its companions; the same for each file of a DICOM series.

    Raises `DataError`: a companion is absent; `MissingInputError` or `StorageUnavailable`: as for `Source.stat`.
    """
    own = sampled_digest(source)
    files = slide_files(source.local_copy(Path()), name=source.name) if source.is_local else ()
    if len(files) < 2:
        return own
    digests = [own]
    for file in _members(files[1:]):
        with open_source(str(file), name=source.name) as companion:
            digests.append(sampled_digest(companion))
    return f"sampled-sha256:{hashlib.sha256(''.join(sorted(digests)).encode()).hexdigest()}"


def _members(companions: Sequence[Path]) -> list[Path]:
    """The files among companions and within their folders, sorted."""
    within = (file for folder in companions if folder.is_dir() for file in folder.rglob("*"))
    return sorted(file for file in (*companions, *within) if file.is_file())


def _companions(path: Path) -> list[Path]:
    suffix = path.suffix.lower()
    if suffix == MIRAX:
        folder = path.with_suffix("")
        return [folder] if folder.is_dir() else []
    if suffix in LISTS:
        return sorted({file for _, file in _listed(path) if file.exists()})
    if suffix not in _SINGLE_FILE and (series := series_of(path)):
        folder = path.parent
        return [file for file in _series_in(folder, folder.stat().st_mtime_ns).get(series, ()) if file != path]
    return []


def _require_all(files: tuple[Path, ...], *, name: str) -> None:
    path = files[0]
    suffix = path.suffix.lower()
    if suffix == MIRAX and len(files) == 1:
        raise incomplete("a MIRAX index file without the folder of the same name beside it", name=name)
    if suffix in LISTS:
        absent = sum(key.startswith(("imagefile", "mapfile")) and not file.exists() for key, file in _listed(path))
        if absent or len(files) == 1:
            raise incomplete(f"a slide of several files, of which {absent or 'all others'} are absent", name=name)


def _listed(path: Path) -> list[tuple[str, Path]]:
    """Keys in lower case, and the files of the same folder that a Hamamatsu index gives for them."""
    try:
        with path.open(encoding="latin-1") as stream:
            lines = stream.read(_MAX_LIST_BYTES).splitlines()
    except OSError as error:
        if is_machine_fault(error):
            raise
        return []
    pairs = (line.partition("=")[::2] for line in lines if "=" in line)
    # A name with a folder would lead out of the slide's own.
    return [
        (key.strip().lower(), path.parent / value.strip())
        for key, value in pairs
        if key.strip().lower().startswith(("imagefile", "mapfile", "optimisationfile", "macroimage"))
        and value.strip()
        and not set(value) & set("/\\\0")
    ]


@lru_cache(maxsize=64)
def _series_in(folder: Path, modified_ns: int) -> dict[str, list[Path]]:  # noqa: ARG001 - a changed folder is read again
    """Files of a folder by their DICOM series; read once, because all slides of an archive may lie in it."""
    series: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() not in _SINGLE_FILE and (found := series_of(file)):
            series.setdefault(found, []).append(file)
    return series
