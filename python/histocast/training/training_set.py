"""A training set in memory: designs and labels of all its sections, for one recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histocast.bundle import EncoderSpec, FusionSpec, TensorSpec
from histocast.errors import DataError, MissingInputError
from histocast.fusion.fusion_inputs import FusionInputs
from histocast.records import read_record
from histocast.sections.labels import make_labels
from histocast.sections.measured_panel import Panel, find_panel
from histocast.sections.protocols import Protocol
from histocast.sections.section import SECTION_FILE, Section, SectionRecord, open_section
from histocast.training.recipe import Recipe

GEOMETRY_TOLERANCE = 1e-9


def list_sections(folder: Path) -> tuple[SectionRecord, ...]:
    """Every prepared section in a folder, by sample.

    Raises `MissingInputError`: there is none; `DataError`: sections were made with different tiles or encoders.
    """
    files = sorted(folder.glob(f"*/{SECTION_FILE}"))
    if not files:
        raise MissingInputError(
            "no prepared section",
            expected=f"<sample>/{SECTION_FILE}",
            where=str(folder),
            advice="run prepare for every row of the training sheet",
        )
    records = tuple(read_record(file, SectionRecord) for file in files)
    first = records[0]
    for record in records[1:]:
        if (record.geometry, record.encoders) != (first.geometry, first.encoders):
            raise DataError(
                f"section {record.sample} was made with other tiles or encoders than {first.sample}",
                expected="one geometry and one set of encoders",
                where=str(folder),
                advice="run prepare again with one recipe",
            )
    return records


@dataclass(frozen=True)
class TrainingSet:
    """The open sections of a set and the panel found in them."""

    sections: tuple[Section, ...]
    panel: Panel
    recipe: Recipe

    @property
    def records(self) -> tuple[SectionRecord, ...]:
        """What the sections are made of."""
        return tuple(section.record for section in self.sections)

    @property
    def encoders(self) -> tuple[EncoderSpec, ...]:
        """The encoders whose outputs the recipe takes."""
        return tuple(encoder for encoder in self.records[0].encoders if encoder.name in self.recipe.encoders)

    def choose(self, samples: Sequence[str]) -> tuple[Section, ...]:
        """Sections by sample, in the order of the set."""
        return tuple(section for section in self.sections if section.record.sample in samples)

    def labels(self, section: Section, protocol: Protocol) -> NDArray[np.float32]:
        """Labels [measured, gene] of a section on the protocol's scale; NaN for genes that are masked in it.

        Raises `DataError`: a gene that was measured has no label at some spot.
        """
        columns = self.panel.columns[section.record.sample]
        labels = make_labels(
            protocol,
            section.counts,
            panel=columns,
            array_row=section.store.array_row[section.measured],
            array_col=section.store.array_col[section.measured],
            missing=self.recipe.missing_genes,
        )
        absent = int(np.isnan(labels[:, columns >= 0]).any(axis=1).sum())
        if absent:
            raise DataError(
                f"{absent} of {len(section)} spots have labels that are no numbers under the protocol {protocol}",
                expected="one spot at each place of the array",
                where=f"sample {section.record.sample}",
                advice="check array_row and array_col of its spots, and run prepare again",
            )
        return labels

    def gather(
        self, section: Section, fusion: FusionSpec, *, fixed: Mapping[str, NDArray[Any]] | None = None
    ) -> FusionInputs:
        """Inputs of the fusion graph over a section, made as PREDICT makes them; ``fixed`` are not features."""
        return FusionInputs.prepare(fusion, section.store, pitch_level0_px=section.record.pitch_level0_px, fixed=fixed)


@contextmanager
def open_training_set(folder: Path, recipe: Recipe) -> Iterator[TrainingSet]:
    """Yield the sections of a folder and the recipe's panel in them.

    Raises `MissingInputError`: the folder holds no prepared section; `DataError`: sections do not fit together or the
    recipe, or panel genes were not measured that have to be.
    """
    records = list_sections(folder)
    _refuse_misfit(records[0], recipe, where=str(folder))
    with ExitStack() as stack:
        sections = tuple(stack.enter_context(open_section(folder / record.sample)) for record in records)
        panel = find_panel(
            recipe.panel,
            sections,
            missing=recipe.missing_genes,
            least=recipe.least_measured,
            where=f"recipe {recipe.name}",
        )
        yield TrainingSet(sections, panel, recipe)


def _refuse_misfit(record: SectionRecord, recipe: Recipe, *, where: str) -> None:
    stated, found = recipe.geometry, record.geometry
    same = stated.tile_px == found.tile_px and abs(stated.um_per_px - found.um_per_px) < GEOMETRY_TOLERANCE
    if not same:
        raise DataError(
            f"tiles of {found.tile_px} px at {found.um_per_px:g} um/px",
            expected=f"{stated.tile_px} px at {stated.um_per_px:g} um/px, as the recipe {recipe.name} says",
            where=where,
            advice="run prepare again with this recipe",
        )
    columns = feature_tensors(record.encoders)
    if unknown := [column for column in recipe.features if column not in columns]:
        raise DataError(
            f"no features {', '.join(unknown)}",
            expected=f"some of {', '.join(columns)}",
            where=where,
            advice="run prepare again with this recipe",
        )


def feature_tensors(encoders: Sequence[EncoderSpec]) -> dict[str, TensorSpec]:
    """Every feature column the encoders fill, and its tensor."""
    return {name: spec for encoder in encoders for name, spec in encoder.columns().items()}


def section_index(sections: Sequence[Section]) -> NDArray[np.int64]:
    """Number of the section of every measured spot, sections one after another: [spot]."""
    return np.repeat(np.arange(len(sections)), [len(section) for section in sections])
