"""PROVENANCE: what a run was made of and what it made."""

from histocast.provenance.crate import describe_run

__all__ = ["describe_run"]
