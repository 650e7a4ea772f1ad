"""Which sections are held out together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from histocast.errors import DataError, UsageError
from histocast.sections import protocols

By = Literal["patient", "section"]

ALL = "all"
"""Name of the training on every section, with nothing held out."""


class OfPatient(Protocol):
    """A section, prepared or a row of a training sheet."""

    @property
    def sample(self) -> str:
        """Its name."""

    @property
    def patient(self) -> str:
        """Pseudonym of whose it is."""


@dataclass(frozen=True)
class Fold:
    """One split of the sections of a training set."""

    name: str
    """The patient or section held out, the number of the group of patients, or ``all``."""
    train: tuple[str, ...]
    """Samples."""
    test: tuple[str, ...]


@dataclass(frozen=True)
class Split:
    """How a training set is split, in words that go beside every figure."""

    by: By
    folds: tuple[Fold, ...]
    description: str

    def fold(self, name: str | None) -> Fold:
        """The fold of a name; every section where ``None`` or ``all``.

        Raises `UsageError`: there is no such fold.
        """
        if name is None or name == ALL:
            return Fold(ALL, tuple(sorted(self.folds[0].train + self.folds[0].test)), ())
        found = next((fold for fold in self.folds if fold.name == name), None)
        if found is None:
            raise UsageError(
                f"no fold {name!r}", expected=f"{ALL}, or one of {', '.join(fold.name for fold in self.folds)}"
            )
        return found


def split_sections(sections: Sequence[OfPatient], *, by: By | Literal["auto"] | int) -> Split:
    """Leave one patient out; where there is one patient only, leave one section out and say so.

    ``by``: what is left out together: a patient, a section, or, by number, one of so many groups of patients.
    Raises `DataError`: there are too few patients, or sections, to tell apart.
    """
    patients = sorted({section.patient for section in sections})
    if isinstance(by, int):
        group = _deal(sections, patients, count=by)
        words = f"leave one of {by} groups of patients out ({len(patients)} patients)"
        return _split(sections, "patient", group, words)
    chosen: By = by if by != "auto" else ("patient" if len(patients) > 1 else "section")
    group = {section.sample: section.patient if chosen == "patient" else section.sample for section in sections}
    if len(set(group.values())) < 2:
        raise DataError(
            f"{len(set(group.values()))} {chosen}",
            expected=f"at least two {chosen}s, to hold one out",
            where="training set",
            advice="add sections, or set the recipe's folds to 'section'",
        )
    return _split(sections, chosen, group, describe(chosen, patients=len(patients)))


def _split(sections: Sequence[OfPatient], by: By, group: Mapping[str, str], description: str) -> Split:
    """One fold a group; ``group`` is by sample."""
    folds = []
    for name in sorted(set(group.values())):
        test = tuple(section.sample for section in sections if group[section.sample] == name)
        folds.append(Fold(name, tuple(section.sample for section in sections if section.sample not in test), test))
    return Split(by, tuple(folds), description)


def _deal(sections: Sequence[OfPatient], patients: Sequence[str], *, count: int) -> dict[str, str]:
    """Number of the group of every sample, from 1: patients in their order, each to the group of fewest sections."""
    if len(patients) < count:
        raise DataError(
            f"{len(patients)} patient{'s' if len(patients) != 1 else ''}",
            expected=f"at least {count}, one for each group of the recipe's folds",
            where="training set",
            advice="add sections, or set the recipe's folds to 'auto'",
        )
    of_patient = {name: [section.sample for section in sections if section.patient == name] for name in patients}
    groups: list[list[str]] = [[] for _ in range(count)]
    # Those with most sections first, so that the groups end alike.
    for name in sorted(patients, key=lambda name: (-len(of_patient[name]), name)):
        min(groups, key=len).extend(of_patient[name])
    width = len(str(count))
    return {sample: f"{number:0{width}d}" for number, group in enumerate(groups, start=1) for sample in group}


def describe(by: By, *, patients: int) -> str:
    """The split in words, with its caveat."""
    if by == "patient":
        return f"leave one patient out ({patients} patients)"
    if patients == 1:
        return "leave one section out, all of one patient: proves the mechanics, not generalisation"
    return f"leave one section out of {patients} patients: sections of one patient on both sides, which flatters"


def model_name(label: str, protocol: protocols.Protocol, fold: str) -> str:
    """Name of a model's folder; a colon is special in too many places."""
    return f"{label.replace(SEPARATOR, '-')}-{protocol}-{fold}"


SEPARATOR = ":"
