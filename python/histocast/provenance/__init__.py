"""PROVENANCE and LINEAGE: what a run was made of and what it made."""

from histocast.provenance.crate import describe_run
from histocast.provenance.lineage import GivenFile, MadeBundle, UsedSection, describe_training

__all__ = ["GivenFile", "MadeBundle", "UsedSection", "describe_run", "describe_training"]
