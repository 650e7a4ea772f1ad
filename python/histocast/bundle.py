"""A bundle: everything that decides a prediction, in one folder with one digest.

    bundle.json          the model below; its sha256 is the bundle's digest
    encoders/*.onnx      tiles -> features (absent where a licence forbids shipping: digest only)
    fusion.onnx          features of a region -> expression
    genes.parquet        the panel, in the order of the fusion graph's gene axis (`artifacts.GENES`)

Axis names of tensors are fixed once: ``spot token gene dim``, and ``tile`` for encoder inputs.
"""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, model_validator

from histocast.errors import ConfigError, MissingInputError
from histocast.records import Record, first_fault
from histocast.units import MAX_UM_PER_PX, MIN_UM_PER_PX

DType = Literal["uint8", "float16", "float32", "int32", "int64", "bool"]

NEIGHBOUR_SIDE = 5
"""Neighbourhood of a spot in tiles a side, the spot itself in the middle (METHODS: 25 tiles)."""


MAX_TILE_PX = 4096
"""Side of a tile: several times the largest that an encoder takes."""

MIN_PITCH_UM, MAX_PITCH_UM = 1.5, 10_000.0
"""Of a grid: a little less than the 2 um of the finest arrays, and more than a section is wide."""

MAX_AXIS = 1_000_000
"""Length of one axis of a tensor."""

MAX_GENES = 200_000
"""Several times the genes and transcripts of any annotation."""

MAX_REGION_SPOTS, MAX_HALO_SPOTS = 65_536, 256


def _check_member(name: str) -> str:
    """Return the path of a file within a bundle; raise `ValueError` for one that leads out of it."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not name.isprintable() or not path.name:
        raise ValueError("a path that is not within the bundle")
    return name


MemberPath = Annotated[str, AfterValidator(_check_member)]
"""Path of a file within the bundle, relative to its folder."""


class Spec(Record):
    """Base of all parts of a bundle: a record whose every number is finite."""

    model_config = ConfigDict(allow_inf_nan=False)


class TensorSpec(Spec):
    """Name, dtype and shape of one tensor; a named axis may have any length."""

    name: str
    dtype: DType
    shape: tuple[Annotated[int, Field(gt=0, le=MAX_AXIS)] | str, ...]


class GraphSpec(Spec):
    """One ONNX graph and its contract."""

    file: MemberPath | None
    """Path within the bundle; ``None`` where the licence forbids shipping and only the digest is given."""
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weights_file: MemberPath | None = None
    """File beside ``file`` that holds the graph's weights, where they are more than one ONNX file can hold."""
    weights_sha256: str | None = None

    def files(self) -> dict[str, str]:
        """Files the bundle ships of this graph, and their digests."""
        listed = ((self.file, self.sha256), (self.weights_file, self.weights_sha256))
        return {file: digest for file, digest in listed if file is not None and digest is not None}


class TileGeometry(Spec):
    """What a tile is, in physical units: the pyramid level never decides."""

    tile_px: int = Field(gt=0, le=MAX_TILE_PX)
    um_per_px: float = Field(ge=MIN_UM_PER_PX, le=MAX_UM_PER_PX)
    """Resolution of the encoder's input."""
    pitch_um: float = Field(ge=MIN_PITCH_UM, le=MAX_PITCH_UM)
    """Distance between grid tiles where no spots are given."""


class EncoderSpec(GraphSpec):
    """An encoder: ``tiles`` uint8 [tile, tile_px, tile_px, 3] RGB to one or more feature tensors [tile, ...]."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """Names a file, a column and a graph on a server."""
    version: str
    licence: str
    gated: bool = False
    """Whether its weights need the user's own access."""
    source: str = ""
    """Where its weights come from, where it has any."""

    def columns(self) -> dict[str, TensorSpec]:
        """Columns of ``features.parquet`` this encoder fills: ``<encoder>.<output>`` and its tensor."""
        return {f"{self.name}.{output.name}": output for output in self.outputs}


class FeatureStatistics(Spec):
    """Mean and sd of every dim of a feature column over the training set."""

    mean: tuple[float, ...]
    sd: tuple[Annotated[float, Field(gt=0)], ...]


class FusionSpec(GraphSpec):
    """The graph that turns the features of a region into expression.

    Input names are fixed: ``target`` [spot, dim] or [spot, token, dim], ``neighbour`` [spot, 25, dim] with
    ``neighbour_mask`` [spot, 25] (bool, row-major over a 5 x 5 lattice), ``context`` [spot, dim],
    ``grid_xy`` [spot, 2] (int64 column and row, from 0 within the region), ``nuclei`` [spot, ...],
    ``gene`` [gene, dim]. Outputs: ``expression`` and ``sd``, both [spot, gene] float32.
    """

    method: str
    feeds: dict[str, tuple[str, ...]]
    """Feature columns concatenated along the last axis for each feature input, for example
    ``{"target": ("morphology.embedding",), "neighbour": ("morphology.embedding",)}``."""
    region_spots: int = Field(default=1024, gt=0, le=MAX_REGION_SPOTS)
    """Most spots in one call, about those of the capture area the model was trained on."""
    halo_spots: int = Field(default=4, ge=0, le=MAX_HALO_SPOTS)
    """Ring of spots around a region's core that gives context and is predicted elsewhere."""
    statistics: dict[str, FeatureStatistics] = Field(default_factory=dict)
    """By feature column, what its values are standardised with before they enter the graph. A column that is not named
    enters as it is: of an encoder trained together with the graph, or where the graph standardises by itself."""
    standardise_within_slide: bool = False
    """Whether features are brought to mean 0 and sd 1 over the slide instead, which removes what differs between two
    slides: their predictions cannot be compared then."""
    unstandardised: tuple[str, ...] = ()
    """Feature columns that are not, even so: those of an encoder that was trained together with the graph."""
    precision: Literal["fp32", "fp16"] = "fp32"
    """What the graph computes in; its inputs and outputs are float32 either way."""


class ExpressionScale(Spec):
    """What a predicted number means."""

    name: str
    """Short name, for example ``log1p_cp10k``."""
    description: str
    normalisation: str
    """Library the counts were divided by, and to what total."""
    transform: str
    smoothing: str
    minimum: float | None = None
    """Smallest value the scale can take, 0 for logarithms of 1 + counts; ``None`` where there is none."""
    relative_to_section: bool = False
    """Whether a value says where in its section a gene is high, and not how high it is: then slides cannot be compared."""


class OutOfDistribution(Spec):
    """Distance of a tile to the training tiles: root mean square of its standardised features.

    ``ood_score = sqrt(mean(((feature - mean) / sd) ** 2))`` over ``column``'s dims; ``ood_flag`` above
    ``threshold``, the 99th percentile of held-out training tiles.
    """

    column: str
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    threshold: float


class Calibration(Spec):
    """How ``lower`` and ``upper`` were calibrated; the half-widths stand a gene in ``genes.parquet``."""

    coverage_percent: Literal[80, 90] = 90
    """Which interval the outputs carry."""
    method: str
    """For example ``split conformal on held-out sections``."""
    sections: int
    """Held-out sections it was calibrated on."""
    patients: int | None = None
    """Patients that these sections are of; ``None`` where nothing says so. Of one patient the intervals hold for that
    patient alone, and so does ``val_pcc``."""


class GeneTextSpec(Spec):
    """How the descriptions in ``genes.parquet`` were embedded, for a graph that takes genes by them."""

    encoder: str | None
    """The text encoder with its pooling, as `artifacts.GENE_EMBEDDINGS` names it; ``None`` where nothing said so,
    and then no other descriptions can be told to fit."""
    encoder_revision: str | None
    near_distance: float
    """Median distance of a training gene's description to the nearest other one: a gene that was never measured is
    ``similar_text`` up to it, else ``dissimilar_text`` (`histocast.fusion.selected_genes`)."""


class Metric(Spec):
    """A measured figure with the five facts without which it means nothing, and what it is of."""

    name: str
    value: float
    genes: str
    split: str
    normalisation: str
    smoothing: str
    averaging: str
    subject: str = "model"
    """``model`` or the control it belongs to, for example ``training mean``."""


class Bundle(Spec):
    """``bundle.json``."""

    schema_version: Literal[1] = 1
    name: str
    version: str
    created_by: str
    """Version of histocast that exported it."""
    description: str
    intended_use: str
    licence: str
    geometry: TileGeometry
    encoders: tuple[EncoderSpec, ...]
    fusion: FusionSpec
    genes_sha256: str
    gene_count: int = Field(ge=0, le=MAX_GENES)
    """0 for encoders without a model, as sections are prepared with."""
    gene_text: GeneTextSpec | None = None
    """``None`` where the graph knows its panel alone."""
    scale: ExpressionScale
    calibration: Calibration
    ood: OutOfDistribution
    training_data: dict[str, Any] = Field(default_factory=dict)
    metrics: tuple[Metric, ...] = ()

    @model_validator(mode="after")
    def _model_predicts_a_gene(self) -> Bundle:
        if self.gene_count == 0 and self.fusion.feeds:
            raise ValueError("gene_count is 0, and a model predicts at least one gene")
        return self

    @model_validator(mode="after")
    def _feeds_exist(self) -> Bundle:
        columns = set(self.feature_columns())
        for name, fed in self.fusion.feeds.items():
            if unknown := set(fed) - columns:
                raise ValueError(f"fusion input {name!r} is fed from unknown columns {sorted(unknown)}")
        return self

    @model_validator(mode="after")
    def _statistics_fit(self) -> Bundle:
        columns = self.feature_columns()
        for name, found in self.fusion.statistics.items():
            width = columns[name].shape[-1] if name in columns else "no column"
            if not len(found.mean) == len(found.sd) == width:
                raise ValueError(
                    f"fusion.statistics of {name!r} have {len(found.mean)} means and {len(found.sd)} sds for {width} dims"
                )
        return self

    @property
    def comparable_between_slides(self) -> bool:
        """Whether predictions of two slides can be compared, and not only places within one."""
        return not (self.scale.relative_to_section or self.fusion.standardise_within_slide)

    def feature_columns(self) -> dict[str, TensorSpec]:
        """Every column of ``features.parquet`` this bundle makes, in order."""
        return {name: spec for encoder in self.encoders for name, spec in encoder.columns().items()}


def sha256_of_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of_folder(folder: Path) -> str:
    """Hex sha256 of all files of a folder: of lines as ``sha256sum`` prints them, one per file, by relative path."""
    parts = sorted(part.relative_to(folder).as_posix() for part in folder.rglob("*") if part.is_file())
    lines = (f"{sha256_of_file(folder / part)}  {part}\n" for part in parts)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def bundle_digest(folder: Path) -> str:
    """``sha256:`` of ``bundle.json``, which holds the digests of everything else."""
    return "sha256:" + sha256_of_file(folder / "bundle.json")


def read_bundle(folder: Path) -> Bundle:
    """Read ``bundle.json`` without verifying the files beside it.

    Raises
    ------
    MissingInputError
        The folder holds no ``bundle.json``.
    ConfigError
        It is not a bundle of this schema.
    """
    path = folder / "bundle.json"
    try:
        if path.exists() and not path.is_file():
            raise ConfigError("not a regular file", expected="a bundle of schema version 1", where=str(path))
        return Bundle.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingInputError(
            "no bundle.json", expected="a bundle folder", where=str(folder), advice="check --bundle"
        ) from error
    except ValidationError as error:
        raise ConfigError(first_fault(error), expected="a bundle of schema version 1", where=str(path)) from error


def verify_files(folder: Path, bundle: Bundle) -> None:
    """Compare the digest of every file the bundle ships with the one it states.

    Raises `MissingInputError`: a file is absent; `ConfigError`: a file's bytes are not those the bundle was exported
    with, or a link leads out of the folder.
    """
    stated = {name: digest for graph in (*bundle.encoders, bundle.fusion) for name, digest in graph.files().items()}
    stated["genes.parquet"] = bundle.genes_sha256
    for name, expected in stated.items():
        path = folder / name
        if not path.is_file():
            raise MissingInputError(f"{name} is absent", where=str(folder), advice="copy the bundle again")
        check_within(path, folder)
        if (found := sha256_of_file(path)) != expected:
            raise ConfigError(
                f"{name} has sha256 {found}",
                expected=expected,
                where=str(folder),
                advice="the file was damaged or exchanged: copy the bundle again",
            )


def check_within(path: Path, folder: Path) -> None:
    """Raise `ConfigError` where a file of a bundle is a link, or lies behind one, that leads out of its folder."""
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(
            f"{path.relative_to(folder)} is a link that leads out of the bundle",
            expected="files that lie within it",
            where=str(folder),
            advice="copy the file to its place",
        )
