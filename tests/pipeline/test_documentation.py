"""The manual knows every parameter, every file and every column."""

from __future__ import annotations

from pathlib import Path

import pytest

from histocast.artifacts import EXPRESSION, FEATURES, SUMMARY, TILES, TableSchema
from histocast.parameters import Parameters


def test_every_parameter_is_in_the_manual(root: Path) -> None:
    guide = (root / "docs" / "usage.md").read_text()

    missing = {name for name in Parameters.model_fields if f"`--{name}`" not in guide}

    assert missing == set()


@pytest.mark.parametrize("schema", [TILES, FEATURES, EXPRESSION, SUMMARY], ids=lambda schema: schema.artifact)
def test_every_column_of_a_table_is_in_the_manual(root: Path, schema: TableSchema) -> None:
    guide = (root / "docs" / "output.md").read_text()

    missing = {column.name for column in schema.columns if f"`{column.name}`" not in guide}

    assert missing == set()
