"""Which sections are held out together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from histocast.errors import DataError, UsageError

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
    """The patient or section held out, or ``all``."""
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

        Raises
        ------
        UsageError
            There is no such fold.
        """
        if name is None or name == ALL:
            return Fold(ALL, tuple(sorted(self.folds[0].train + self.folds[0].test)), ())
        found = next((fold for fold in self.folds if fold.name == name), None)
        if found is None:
            raise UsageError(
                f"no fold {name!r}", expected=f"{ALL}, or one of {', '.join(fold.name for fold in self.folds)}"
            )
        return found


def split_sections(sections: Sequence[OfPatient], *, by: Literal["patient", "section", "auto"]) -> Split:
    """Leave one patient out; where there is one patient only, leave one section out and say so.

    Raises
    ------
    DataError
        There are fewer than two patients, or sections, to tell apart.
    """
    patients = sorted({section.patient for section in sections})
    chosen: By = by if by != "auto" else ("patient" if len(patients) > 1 else "section")
    groups = patients if chosen == "patient" else sorted(section.sample for section in sections)
    if len(groups) < 2:
        raise DataError(
            f"{len(groups)} {chosen}",
            expected=f"at least two {chosen}s, to hold one out",
            where="training set",
            advice="add sections, or set the recipe's folds to 'section'",
        )
    folds = []
    for name in groups:
        test = tuple(s.sample for s in sections if (s.patient if chosen == "patient" else s.sample) == name)
        folds.append(Fold(name, tuple(s.sample for s in sections if s.sample not in test), test))
    return Split(chosen, tuple(folds), describe(chosen, patients=len(patients)))


def describe(by: By, *, patients: int) -> str:
    """The split in words, with its caveat."""
    if by == "patient":
        return f"leave one patient out ({patients} patients)"
    if patients == 1:
        return "leave one section out, all of one patient: proves the mechanics, not generalisation"
    return f"leave one section out of {patients} patients: sections of one patient on both sides, which flatters"
