"""Slides and tables where they lie: local files and S3 objects."""

from histocast.storage.digest import sampled_digest
from histocast.storage.fetch import fetch_bundle, fetch_file
from histocast.storage.open import open_source
from histocast.storage.source import ObjectStat, Source

__all__ = ["ObjectStat", "Source", "fetch_bundle", "fetch_file", "open_source", "sampled_digest"]
