"""Slides and tables where they lie: local files and S3 objects."""

from histocast.storage.digest import sampled_digest
from histocast.storage.fetch import fetch_bundle, fetch_file
from histocast.storage.open import is_in_s3, open_source
from histocast.storage.ranges import coalesce_gap, should_read_whole
from histocast.storage.source import Bytes, ObjectStat, Range, Source

__all__ = [
    "Bytes",
    "ObjectStat",
    "Range",
    "Source",
    "coalesce_gap",
    "fetch_bundle",
    "fetch_file",
    "is_in_s3",
    "open_source",
    "sampled_digest",
    "should_read_whole",
]
