"""Which source a sample is taken from, where several hold it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from histocast.artifacts import SLIDE_SUMMARY, SLIDES, SUMMARY, open_parquet
from histocast.cohort.find_results import EarlierCohort, Results
from histocast.errors import DataError
from histocast.storage.listing import fetch_files

Inputs = tuple[str | None, ...]
_ROLES = ("slide", "bundle", "genes")


def choose_sources(found: Sequence[Results | EarlierCohort], scratch: Path) -> list[frozenset[str]]:
    """For each source the samples to leave out of it, because another source has the same slide.

    Of a sample that is in several sources the last one with a prediction counts, else the last.

    Raises `DataError`: two sources hold predictions of one sample that were made of different slides or models.
    """
    known = [_known_samples(source, scratch) for source in found]
    places: dict[str, list[int]] = {}
    for place, samples in enumerate(known):
        for sample in samples:
            places.setdefault(sample, []).append(place)
    skip: list[set[str]] = [set() for _ in found]
    for sample, at in places.items():
        if len(at) == 1:
            continue
        inputs = {place: known[place][sample] or _read_inputs(found[place], sample, scratch) for place in at}
        predicted = {place: made for place, made in inputs.items() if made}
        if len(set(predicted.values())) > 1:
            listed = "; ".join(f"{found[place].uri}: {' '.join(map(str, made))}" for place, made in predicted.items())
            raise DataError(
                f"sample {sample!r} is there {len(at)} times, and not of one slide and one model: {listed}",
                expected="each sample once, or the same slide again",
                advice="give samples of different slides different names, and gather one cohort for each bundle",
            )
        kept = max(predicted, default=at[-1])
        for place in at:
            if place != kept:
                skip[place].add(sample)
    return [frozenset(samples) for samples in skip]


def _known_samples(source: Results | EarlierCohort, scratch: Path) -> dict[str, Inputs | None]:
    """Every sample of a source; of an earlier cohort with the digests of what its prediction was made of."""
    if isinstance(source, EarlierCohort):
        columns = ["sample", *(f"{role}_digest" for role in _ROLES)]
        for path in fetch_files([source.slides], scratch):
            with open_parquet(path, SLIDES)[0] as file:
                rows = file.read(columns).to_pylist()
        return {
            row["sample"]: tuple(row[name] for name in columns[1:]) if row["bundle_digest"] else None for row in rows
        }
    samples: dict[str, Inputs | None] = dict.fromkeys(source.slides)
    for path in fetch_files([source.summary] if source.summary else [], scratch):
        with open_parquet(path, SUMMARY)[0] as file:
            samples |= dict.fromkeys(file.read(["sample"])["sample"].to_pylist())
    return samples


def _read_inputs(source: Results | EarlierCohort, sample: str, scratch: Path) -> Inputs | None:
    """Digests of what a prediction was made of, from its slide summary; none where there is none."""
    if isinstance(source, EarlierCohort) or sample not in source.slides:
        return None
    for path in fetch_files([source.slides[sample]], scratch):
        file, provenance = open_parquet(path, SLIDE_SUMMARY)
        file.close()
    return tuple(provenance.inputs.get(role) for role in _ROLES)
