"""Every column that `histocast genes` writes is explained in docs/output.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from histocast.artifacts import GENE_EMBEDDINGS, GENE_NAMES, GENE_TEXTS, TableSchema

DTYPES = {"string": "string", "list<item: string>": "list of string", "int32": "int32", "bool": "bool"}


@pytest.mark.parametrize(
    ("file", "schema"),
    [("gene-names.parquet", GENE_NAMES), ("gene-texts.parquet", GENE_TEXTS), ("genes.parquet", GENE_EMBEDDINGS)],
)
def test_every_column_is_listed_with_its_type(file: str, schema: TableSchema, root: Path) -> None:
    docs = (root / "docs" / "output.md").read_text(encoding="utf-8")
    section = docs.split("## Results of `histocast genes`")[1].split("\n## ")[0]
    own = section.split(f"\n`{file}`:")[1].split("\n`gene")[0]
    listed = dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", own, re.MULTILINE))
    carried = set(re.findall(r"`(\w+)`", own.split("as above, and")[0])) if "as above, and" in own else set()
    written = {field.name: DTYPES[str(field.type)] for field in schema.arrow()}
    if schema is GENE_EMBEDDINGS:
        written["embedding"] = "fixed-size list of float32"
    assert listed.keys() | carried == written.keys()
    assert listed == {name: written[name] for name in listed}
