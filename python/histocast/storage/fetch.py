"""Whole small objects: tables into a folder, a bundle into a cache that is named by content."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from histocast.bundle import bundle_digest, read_bundle, sha256_of_file
from histocast.errors import ConfigError, MissingInputError, OutputError
from histocast.storage.open import open_source

BUNDLE_FILE = "bundle.json"
GENES_FILE = "genes.parquet"


def fetch_file(uri: str, folder: Path) -> Path:
    """Return a local path of a small file: itself, or a copy of the S3 object in ``folder``.

    Raises
    ------
    MissingInputError
        There is no such file, or it may not be read.
    DataError
        It is a folder.
    OutputError
        ``folder`` cannot be written.
    """
    with open_source(uri) as source:
        if source.is_local:
            return source.local_copy(folder)
        target = folder / PurePosixPath(uri).name
        _download(uri, target)
        return target


def fetch_bundle(uri: str, cache: Path, *, files: Sequence[str] | None = None) -> Path:
    """Return the local folder of a bundle: itself, or a copy of the ``s3://`` prefix below ``cache``.

    The copy lies under the digest of its ``bundle.json``, so that a changed bundle is another folder, and
    each file appears there only whole and with the digest the bundle states.

    Parameters
    ----------
    uri:
        Folder or ``s3://bucket/prefix``.
    cache:
        Where copies are kept and found again.
    files:
        The files to copy; all the bundle ships where ``None``.

    Raises
    ------
    MissingInputError
        There is no ``bundle.json``, or a file it names is absent.
    ConfigError
        It is not a bundle, or a file's bytes are not those it states.
    """
    if not uri.startswith("s3://"):
        folder = Path(uri)
        if not (folder / BUNDLE_FILE).is_file():
            raise MissingInputError(f"no {BUNDLE_FILE}", expected="a bundle folder", where=uri, advice="check --bundle")
        return folder
    prefix = uri.rstrip("/")
    cache.mkdir(parents=True, exist_ok=True)
    arriving = Path(tempfile.mkdtemp(prefix=".arriving-", dir=cache))
    try:
        _download(f"{prefix}/{BUNDLE_FILE}", arriving / BUNDLE_FILE)
        folder = cache / bundle_digest(arriving).replace(":", "-")
        folder.mkdir(parents=True, exist_ok=True)
        (arriving / BUNDLE_FILE).replace(folder / BUNDLE_FILE)
        _fetch_members(prefix, arriving, folder, files)
    finally:
        shutil.rmtree(arriving, ignore_errors=True)
    return folder


def _fetch_members(prefix: str, arriving: Path, folder: Path, files: Sequence[str] | None) -> None:
    bundle = read_bundle(folder)
    digests = {name: digest for graph in (*bundle.encoders, bundle.fusion) for name, digest in graph.files().items()}
    digests[GENES_FILE] = bundle.genes_sha256
    for name, expected in digests.items():
        target = folder / name
        if (files is not None and name not in files) or target.is_file():
            continue
        if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
            raise ConfigError(f"a file named {name!r}", expected="a path within the bundle", where=prefix)
        _download(f"{prefix}/{name}", arriving / name)
        if (found := sha256_of_file(arriving / name)) != expected:
            raise ConfigError(
                f"{name} has sha256 {found}",
                expected=expected,
                where=prefix,
                advice="the object was damaged or exchanged: upload the bundle again",
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        (arriving / name).replace(target)


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
