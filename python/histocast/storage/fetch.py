"""Whole small objects: tables into a folder, a bundle into a cache that is named by content."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from histocast.artifacts import write_atomically
from histocast.bundle import read_bundle, sha256_of_file
from histocast.errors import ConfigError, MissingInputError, OutputError
from histocast.storage.cache import ARRIVING, LOCK, hold_folder, make_room
from histocast.storage.lock import exclusive_lock
from histocast.storage.open import is_in_s3, open_source

BUNDLE_FILE = "bundle.json"
GENES_FILE = "genes.parquet"


def fetch_file(uri: str, folder: Path) -> Path:
    """Return a local path of a small file: itself, or a copy of the S3 object in ``folder``.

    Raises `MissingInputError`: there is no such file, or it may not be read; `DataError`: it is a folder;
    `OutputError`: ``folder`` cannot be written.
    """
    with open_source(uri) as source:
        if source.is_local:
            return source.local_copy(folder)
        target = folder / PurePosixPath(uri).name
        _download(uri, target)
        return target


def fetch_bundle(uri: str, cache: Path, *, files: Sequence[str] | None = None, limit_bytes: int | None = None) -> Path:
    """Return the local folder of a bundle: itself, or a copy of the ``s3://`` prefix below ``cache``.

    The copy lies under the digest of its ``bundle.json``, so that a changed bundle is another folder, and
    each file appears there only whole and with the digest the bundle states.

    ``uri``: folder or ``s3://bucket/prefix``.
    ``cache``: where copies are kept and found again.
    ``files``: the files to copy; all the bundle ships where ``None``.
    ``limit_bytes``: most that a cache may hold which processes of this machine share; of those one fetches at a time,
        and what none of them uses makes room. ``None`` where the cache is this process's own.
    Raises `MissingInputError`: there is no ``bundle.json``, or a file it names is absent; `ConfigError`: it is not a
    bundle, or a file's bytes are not those it states; `OutputError`: the cache cannot be written; `UsageError`: it is
    the address of a store that is not supported.
    """
    if not is_in_s3(uri, name="--bundle"):
        folder = Path(uri)
        if not (folder / BUNDLE_FILE).is_file():
            raise MissingInputError(f"no {BUNDLE_FILE}", expected="a bundle folder", where=uri, advice="check --bundle")
        return folder
    prefix = uri.rstrip("/")
    with open_source(f"{prefix}/{BUNDLE_FILE}") as source:
        content = source.read(0, source.stat().size_bytes)
    folder = cache / f"sha256-{hashlib.sha256(content).hexdigest()}"
    if limit_bytes is None:
        _write_bundle_file(folder, content)
        _fetch_members(prefix, folder, _absent(folder, files))
        return folder
    hold_folder(folder)
    _write_bundle_file(folder, content)
    if _absent(folder, files):
        with exclusive_lock(cache / LOCK):
            # Another process may have fetched them meanwhile.
            absent = _absent(folder, files)
            make_room(cache, needed_bytes=_size_of_objects(prefix, absent), limit_bytes=limit_bytes)
            _fetch_members(prefix, folder, absent)
    return folder


def _write_bundle_file(folder: Path, content: bytes) -> None:
    if not (folder / BUNDLE_FILE).is_file():
        with write_atomically(folder / BUNDLE_FILE) as path:
            path.write_bytes(content)


def _absent(folder: Path, files: Sequence[str] | None) -> dict[str, str]:
    """Files of a bundle that are wanted and not in its folder, with their digests."""
    bundle = read_bundle(folder)
    digests = {name: digest for graph in (*bundle.encoders, bundle.fusion) for name, digest in graph.files().items()}
    digests[GENES_FILE] = bundle.genes_sha256
    return {
        name: digest
        for name, digest in digests.items()
        if (files is None or name in files) and not (folder / name).is_file()
    }


def _size_of_objects(prefix: str, names: Iterable[str]) -> int:
    total_bytes = 0
    for name in names:
        with open_source(f"{prefix}/{name}") as source:
            total_bytes += source.stat().size_bytes
    return total_bytes


def _fetch_members(prefix: str, folder: Path, digests: Mapping[str, str]) -> None:
    arriving = folder.with_name(folder.name + ARRIVING)
    try:
        for name, expected in digests.items():
            _download(f"{prefix}/{name}", arriving / name)
            if (found := sha256_of_file(arriving / name)) != expected:
                raise ConfigError(
                    f"{name} has sha256 {found}",
                    expected=expected,
                    where=prefix,
                    advice="the object was damaged or exchanged: upload the bundle again",
                )
            with write_atomically(folder / name) as path:
                (arriving / name).replace(path)
    finally:
        shutil.rmtree(arriving, ignore_errors=True)


def _download(uri: str, target: Path) -> None:
    with open_source(uri) as source:
        source.stat()
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            copy = source.local_copy(target.parent)
            copy.replace(target)
        except OSError as error:
            raise OutputError(
                f"cannot write {target.name}: {error.strerror or error}",
                where=str(target.parent),
                advice="check that the folder exists, that it may be written and that the disk has room",
            ) from error
