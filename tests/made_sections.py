"""A training set whose counts follow its features by known weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from histocast.artifacts import write_json
from histocast.bundle import Bundle
from histocast.records import LevelRecord, SlideRecord
from histocast.sections.section import prepare_section
from histocast.training.recipe import Recipe
from spot_files import SLIDE_DIGEST, square_array, write_features, write_tiles

COLUMNS, ROWS = 11, 9
PITCH_PX, UM_PER_PX = 290.0, 0.69
DIM = 96
SIGNALS = 4
PANEL = tuple(f"GENE{number}" for number in range(60))
OTHERS = tuple(f"OTHER{number}" for number in range(40))


def made_recipe(**changes: object) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "made",
            "geometry": {"tile_px": 224, "um_per_px": UM_PER_PX, "pitch_um": 200.0},
            "panel": PANEL,
            # Trees on every fold would take most of the time of tests that are not about them.
            "controls": (),
            "options": {"alphas": [0.001, 0.01, 0.1, 1.0, 10.0]},
            **changes,
        }
    )


def made_features(seed: int) -> np.ndarray:
    """Features [spot, dim] whose first four are smooth over the section and decide expression."""
    random = np.random.default_rng(seed)
    rows, cols = (axis.ravel() for axis in np.mgrid[:ROWS, :COLUMNS])
    # Real features move together: eight hidden quantities that expression does not follow.
    mixing = np.random.default_rng(98).normal(size=(8, DIM))
    features = random.normal(scale=0.5, size=(COLUMNS * ROWS, 8)) @ mixing
    for signal in range(SIGNALS):
        slope, shift = random.normal(size=2), random.uniform(0, 6)
        features[:, signal] = 1.5 * np.sin(rows * slope[0] / 2 + cols * slope[1] / 2 + shift)
    # What dyes a whole section, which expression does not follow.
    features[:, SIGNALS:] += random.normal(scale=0.3, size=DIM - SIGNALS)
    return features


def gene_weights() -> np.ndarray:
    """How the panel and the other genes follow the signals: [signal, gene]."""
    return np.random.default_rng(99).normal(scale=0.5, size=(SIGNALS, len(PANEL) + len(OTHERS)))


def gene_rates(features: np.ndarray) -> np.ndarray:
    """Expected counts [spot, gene]: log-linear in the signals, also of section against section."""
    return np.asarray(40.0 * np.exp(features[:, :SIGNALS] @ gene_weights()))


def made_counts(features: np.ndarray, seed: int) -> np.ndarray:
    """Counts [spot, gene]: Poisson."""
    return np.random.default_rng(seed).poisson(gene_rates(features))


@dataclass(frozen=True)
class Patient:
    """How one patient's section was stained, scanned and sequenced: none of it says anything about expression."""

    depth: float
    """Its counts, as a share of those of `made_counts`."""
    stain: int
    """0 or 1: moves every feature, those that expression follows too."""
    scanner: int
    """0 or 1: stretches every feature."""

    def see(self, features: np.ndarray) -> np.ndarray:
        """Features as its slide shows them."""
        dye = np.random.default_rng(97).normal(scale=0.5, size=features.shape[1])
        return (features + (self.stain - 0.5) * dye) * (1.0 + 0.1 * (self.scanner - 0.5))

    def count(self, features: np.ndarray, seed: int) -> np.ndarray:
        """Counts of the true features: shallower by its depth, and where the first signal is low."""
        random = np.random.default_rng(seed)
        depth = self.depth * np.exp(0.5 * features[:, :1] + 0.3 * random.normal(size=(len(features), 1)))
        return random.poisson(depth * gene_rates(features))


def write_stages(
    folder: Path, *, sample: str, seed: int, unreadable: tuple[int, ...] = (), patient: Patient | None = None
) -> np.ndarray:
    """What TILE and ENCODE would have written; returns the features that expression follows."""
    folder.mkdir(parents=True, exist_ok=True)
    centres, array_row, array_col = square_array(COLUMNS, ROWS, pitch_px=PITCH_PX)
    write_tiles(folder / "tiles.parquet", centres, array_row=array_row, array_col=array_col, sample=sample)
    features = made_features(seed)
    ids = np.arange(len(features))
    columns = {"morphology.embedding": features if patient is None else patient.see(features)}
    write_features(folder / "features.parquet", ids, columns, unreadable=unreadable, sample=sample)
    record = SlideRecord(
        sample=sample,
        slide_digest=SLIDE_DIGEST,
        reader="made",
        width_px=3400,
        height_px=2800,
        levels=(LevelRecord(width_px=3400, height_px=2800, downsample=1.0),),
        um_per_px=UM_PER_PX,
        um_per_px_source="samplesheet",
        tile_px=224,
        requested_um_per_px=UM_PER_PX,
        pitch_um=PITCH_PX * UM_PER_PX,
        layout="spots",
        tile_count=len(features),
        tissue_area_mm2=1.0,
        pen_fraction=0.0,
        thumbnail_um_per_px=8.0,
        bundle_digest="sha256:0",
    )
    write_json(folder / "slide.json", record)
    return features


def spot_names() -> list[str]:
    _, rows, cols = square_array(COLUMNS, ROWS)
    return [f"{col}x{row}" for row, col in zip(rows, cols, strict=True)]


def write_counts(path: Path, counts: np.ndarray, *, spots: list[str], genes: tuple[str, ...] = PANEL + OTHERS) -> Path:
    lines = ["\t".join(["", *genes])]
    lines += ["\t".join([spot, *map(str, row)]) for spot, row in zip(spots, counts, strict=True)]
    path.write_text("\n".join(lines) + "\n")
    return path


def make_training_set(folder: Path, bundle: Bundle, *, patients: dict[str, str | Patient]) -> Path:
    """Sections by sample name, prepared into ``folder/set``: of a named patient, or of one of their own."""
    for number, (sample, of) in enumerate(patients.items()):
        stages, patient = folder / "stages" / sample, of if isinstance(of, Patient) else None
        unreadable = (5,) if number == 0 else ()
        features = write_stages(stages, sample=sample, seed=number, unreadable=unreadable, patient=patient)
        found = made_counts(features, 50 + number) if patient is None else patient.count(features, 50 + number)
        counts = write_counts(stages / "counts.tsv", found, spots=spot_names())
        name = of if isinstance(of, str) else sample
        prepare_section(stages, patient=name, counts=counts, bundle=bundle, outdir=folder / "set")
    return folder / "set"
