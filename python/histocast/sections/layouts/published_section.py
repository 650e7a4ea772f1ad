"""What every layout finds: a section's files, its patient, and what tells its resolution."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from histocast.errors import ErrorCollector, MissingInputError


@dataclass(frozen=True)
class SpotRow:
    """A measured spot of a table that has to be written anew, because the published one has another form."""

    name: str
    x_level0_px: float
    y_level0_px: float
    array_row: int | None = None
    array_col: int | None = None
    in_tissue: bool = True


@dataclass(frozen=True)
class PublishedSection:
    """One section as its data set publishes it."""

    sample: str
    patient: str
    slide: Path
    """An image, or one in a ``.gz``, which is unpacked."""
    counts: Path
    spots: Path | Callable[[], Sequence[SpotRow]]
    """A table that `histocast.tiles.read_spots` reads, or what reads the rows of another one."""
    um_per_px: float | None = None
    """As published; where it is not, it follows from the spots."""
    pitch_um: float | None = None
    """Distance between neighbouring spots on the array."""


@dataclass(frozen=True)
class SheetOptions:
    """What a user says about the sections to take."""

    samples: tuple[str, ...] = ()
    """The sections to take; all of them where empty."""
    patients: Mapping[str, str] = field(default_factory=dict)
    """Patient of each sample, for data sets that do not say."""
    where: Mapping[str, str] = field(default_factory=dict)
    """Values that columns of the data set's own table must have."""
    metadata: Path | None = None
    """The data set's own table, where it lies elsewhere."""
    slides: Path | None = None
    """Folder of full-resolution slides, where they lie elsewhere."""
    pitch_um: float | None = None
    """Distance between spots, over the data set's own."""

    def takes(self, sample: str) -> bool:
        """Whether the section is asked for."""
        return not self.samples or sample in self.samples


def first_folder(folder: Path, names: Sequence[str], *, what: str) -> Path:
    """The first of several folders that is there.

    Raises `MissingInputError`: none is.
    """
    for name in names:
        if (folder / name).is_dir():
            return folder / name
    raise MissingInputError(f"no folder of {what}", expected=f"one of {', '.join(names)}", where=str(folder))


def only_file(candidates: Sequence[Path], faults: ErrorCollector, *, what: str, expected: str) -> Path | None:
    """The one file among the candidates; none or several are noted as a fault."""
    found = sorted({path for path in candidates if path.is_file()})
    if len(found) == 1:
        return found[0]
    listed = ", ".join(path.name for path in found[:4])
    faults.add(f"{what}: {f'{len(found)} files ({listed})' if found else 'no file'}", expected=expected)
    return None
