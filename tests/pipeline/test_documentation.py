"""The manual knows every parameter, every file and every column."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from histocast import errors
from histocast.artifacts import (
    EXPRESSION,
    FEATURES,
    GENE_EMBEDDING,
    GENE_EMBEDDINGS,
    GENE_NAMES,
    GENE_P90,
    GENE_TEXTS,
    GENES,
    PREDICTED_GENES,
    SIGNATURES,
    SLIDE_SUMMARY,
    SLIDES,
    SUMMARY,
    TILES,
    TableSchema,
)
from histocast.bundle import Bundle, EncoderSpec, FusionSpec, Metric
from histocast.cli import VERBS, find_stage, option_of
from histocast.encoders.exported_encoder import ExportedEncoder
from histocast.evaluation.figures import Figure
from histocast.evaluation.scores import GENE_SCHEMA, SECTION_SCHEMA
from histocast.evaluation.summary import Evaluation, SubjectSummary
from histocast.expression.slide_summary import SlideFacts
from histocast.parameters import Parameters
from histocast.records import (
    BatchStatus,
    CheckRecord,
    SampleRecord,
    SampleStatus,
    SlideRecord,
    StageError,
    StatusRecord,
)
from histocast.sections.protocols import PROTOCOLS
from histocast.sections.read_training_sheet import TrainingRow
from histocast.sections.section import SectionRecord
from histocast.slide import companions, openslide, resolution, tiff_layout, tiff_pages
from histocast.training.history import Metrics
from histocast.training.plan_models import Plan, PlannedModel
from histocast.training.train_record import TrainRecord
from histocast.units import MAX_UM_PER_PX, MIN_UM_PER_PX

VERB = re.compile(r"(?<![\w./-])histocast ((?:genes )?[a-z][a-z-]*) ([^`\n|#]*)")
RUN = re.compile(r"nextflow [^`\n]*run ([^`\n#]*)")
OPTION = re.compile(r"(?<!\S)--[a-z][\w-]*")


def test_every_parameter_is_in_the_manual(root: Path) -> None:
    guide = (root / "docs" / "usage.md").read_text()

    missing = {name for name in Parameters.model_fields if f"`--{name}`" not in guide}

    assert missing == set()


NAME = re.compile(r"`([^`]+)`")
NAMED_GENE = {"gene_id", "gene_symbol", "approved_symbol"}

# Each table of columns, by the line before it, and what the text beside it names besides.
TABLES: dict[str, tuple[TableSchema, set[str]]] = {
    "### `summary.html`, `summary.parquet`": (SUMMARY, set()),
    "### `<sample>.parquet`": (EXPRESSION, set()),
    "### `<sample>.genes.parquet`": (PREDICTED_GENES, set()),
    "### `<sample>.slide.parquet`": (SLIDE_SUMMARY, set()),
    "### `slides.parquet`": (SLIDES, set()),
    "### `signatures.parquet`": (SIGNATURES, set()),
    "`genes.parquet` of a bundle:": (GENES, {GENE_EMBEDDING, GENE_P90}),
    "`gene-names.parquet`:": (GENE_NAMES, set()),
    "`gene-texts.parquet`:": (GENE_TEXTS, set()),
    "`genes.parquet`: `gene_id`": (GENE_EMBEDDINGS, {GENE_EMBEDDING}),
    "`tiles.parquet`:": (TILES, set()),
}
GIVEN_ABOVE = {GENE_TEXTS.artifact: NAMED_GENE, GENE_EMBEDDINGS.artifact: {*NAMED_GENE, "text", "source"}}

# Each record, by its heading.
RECORDS: dict[str, type[BaseModel]] = {
    "`samples.json`": CheckRecord,
    "`samples` of `samples.json`": SampleRecord,
    "`slide.json`": SlideRecord,
    "Facts of `slide.parquet`": SlideFacts,
    "`status.json`": SampleStatus,
    "`<stage>.status.json`": StatusRecord,
    "`error` of a status": StageError,
    "`outcomes.json`": BatchStatus,
    "`plan.json`": Plan,
    "`models` of `plan.json`": PlannedModel,
    "`section.json`": SectionRecord,
    "`train.json`": TrainRecord,
    "`metrics.json`": Metrics,
    "`evaluation.json`": Evaluation,
    "`summaries` of `evaluation.json`": SubjectSummary,
    "`figures` of `evaluation.json`": Figure,
    "`bundle.json`": Bundle,
    "`encoders` of `bundle.json`": EncoderSpec,
    "`fusion` of `bundle.json`": FusionSpec,
    "`metrics` of `bundle.json`": Metric,
    "`encoder.json`": ExportedEncoder,
}


def names_of_rows(text: str, *, column: int = 0) -> set[str]:
    """What the first table of a text names in a column."""
    lines = text.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = list(itertools.takewhile(lambda line: line.startswith("|"), lines[first:]))
    return {name for row in rows[2:] for name in NAME.findall(row.split("|")[column + 1])}


def after(guide: str, start: str) -> str:
    """The text after the one line that begins so."""
    starts = [found.start() for found in re.finditer(rf"^{re.escape(start)}", guide, flags=re.MULTILINE)]
    assert len(starts) == 1, f"{start} stands {len(starts)} times"
    return guide[starts[0] + len(start) :]


@pytest.mark.parametrize("start", TABLES)
def test_a_table_of_columns_names_those_that_are_written_and_no_other(root: Path, start: str) -> None:
    schema, besides = TABLES[start]
    columns = {column.name for column in schema.columns} | besides

    found = names_of_rows(after((root / "docs" / "output.md").read_text(), start))

    assert found | GIVEN_ABOVE.get(schema.artifact, set()) == columns


@pytest.mark.parametrize("schema", [FEATURES], ids=lambda schema: schema.artifact)
def test_every_column_that_stands_in_a_sentence_is_in_the_manual(root: Path, schema: TableSchema) -> None:
    guide = (root / "docs" / "output.md").read_text()

    missing = {column.name for column in schema.columns if f"`{column.name}`" not in guide}

    assert missing == set()


def test_tables_of_an_evaluation_name_every_column_and_no_other(root: Path) -> None:
    sentence = "`sections.parquet` and `genes.parquet` of an evaluation both have"
    text = after((root / "docs" / "output.md").read_text(), sentence)
    named = {name for name in NAME.findall(text.partition("Then")[0]) if name.isidentifier()}
    both = named - {*PROTOCOLS, "model"}

    assert both | names_of_rows(text, column=1) == {*SECTION_SCHEMA, *GENE_SCHEMA}


@pytest.mark.parametrize("heading", RECORDS)
def test_a_table_of_keys_names_those_of_the_record_and_no_other(root: Path, heading: str) -> None:
    records = after((root / "docs" / "output.md").read_text(), "## Records, key by key")

    found = names_of_rows(after(records, f"### {heading}\n"))

    assert found == set(RECORDS[heading].model_fields) - {"schema_version"}


def test_the_manual_says_of_slides_what_the_readers_read_convert_and_refuse(root: Path) -> None:
    guide = (root / "docs" / "usage.md").read_text()
    text = after(guide, "### What is read, converted and refused").partition("\n## ")[0]
    names = {
        "none": "none", "jpeg2000": "JPEG 2000", "jpeg": "JPEG", "webp": "WebP", "lzw": "LZW", "deflate": "Deflate",
        "zstd": "Zstandard", "packbits": "PackBits", "lzma": "LZMA",
    }  # fmt: skip
    stated = re.search(r"^\| tiles or strips; (.*) compression \| read \|", text, flags=re.MULTILINE)[1]
    assert sorted(re.split(r", | or ", stated)) == sorted(
        names[each] for each in set(tiff_layout._COMPRESSIONS.values())
    )
    sparse = re.search(r"leave out what was not scanned \(([^)]+)\)", text)[1].lower().split(", ")
    assert sorted(sparse) == sorted(openslide._SPARSE_VENDORS)
    assert f"tiles of more than {tiff_pages._MAX_TILE_SIDE_PX:,} px along a side" in text
    assert tiff_pages._AS_LARGE == 0.25
    assert "over a quarter of its pixels" in text
    assert f"outside {MIN_UM_PER_PX:g} to {MAX_UM_PER_PX:g} um/px" in text
    assert f"more than {resolution._MAX_ANISOTROPY:.0%}".replace("%", " %") in text
    others = re.search(r"Other formats of several files \(([^)]+)\)", guide)[1]
    assert set(NAME.findall(others)) == set(companions.UNREAD)


def test_every_json_file_that_the_code_writes_has_its_table_of_keys(root: Path) -> None:
    source = "\n".join(path.read_text() for path in sorted((root / "python").rglob("*.py")))
    written = set(re.findall(r'"([a-z]+\.json)"', source))
    # An RO-Crate has a manual of its own, run.json is what Nextflow tells PROVENANCE; the others are of text encoders as
    # they are published, which histocast reads.
    elsewhere = {"provenance.json", "run.json", "config.json", "tokenizer.json"}
    described = {name for heading in RECORDS for name in NAME.findall(heading) if name.endswith(".json")}

    assert written - elsewhere - described == set()


def test_every_exit_code_is_in_the_manual_and_no_other(root: Path) -> None:
    text = after((root / "docs" / "output.md").read_text(), "## Exit codes")
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.HistocastError)
    ]

    told = {int(code) for code in re.findall(r"^\| (\d+) \|", text, flags=re.MULTILINE)}

    assert told == {0, *(kind.exit_code for kind in kinds)}
    # And what the pipeline does about each is what it is configured to do.
    retried = set(re.findall(r"^\| (\d+) \|[^|]*\| (?:yes|of a slide)", text, flags=re.MULTILINE))
    assert retried == {"66", "70", "73", "75"}


def test_every_column_of_a_training_sheet_is_in_the_manual(root: Path) -> None:
    guide = (root / "docs" / "usage.md").read_text()
    named = re.search(r"The table has the columns `([^`]+)`", guide)[1]

    assert set(re.findall(r"\w+", named)) == set(TrainingRow.model_fields)


def manual(root: Path) -> dict[str, str]:
    """Every page, with the lines of a command joined."""
    pages = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    return {page.name: page.read_text().replace("\\\n", " ") for page in pages}


def test_the_manual_gives_verbs_no_option_that_they_lack(root: Path) -> None:
    named, lacking = 0, set()
    for page, text in manual(root).items():
        for verb, options in VERB.findall(text):
            fields = find_stage(verb).model_fields if verb in VERBS else {}
            known = {option_of(name, field) for name, field in fields.items()}
            used = set(OPTION.findall(options)) - {"--help"}
            named += len(used)
            lacking |= {(page, verb, option) for option in used - known}

    assert lacking == set()
    assert named > 50


def test_the_manual_gives_runs_no_parameter_that_does_not_exist(root: Path) -> None:
    known = {f"--{name}" for name in Parameters.model_fields}
    used = {
        (page, name) for page, text in manual(root).items() for run in RUN.findall(text) for name in OPTION.findall(run)
    }

    assert {(page, name) for page, name in used if name not in known} == set()
    assert len(used) > 20
