"""A gene panel is read in its own order, and every wrong line of it is told at once."""

from __future__ import annotations

import pyarrow as pa
import pytest

from histocast.artifacts import GENES
from histocast.errors import DataError, MissingInputError
from histocast.fusion.panel import read_panel

SYMBOLS = ["ERBB2", "KRT8", "KRT18", "FASN", "TWIN", "TWIN", "LINC9"]
IDS = [*(f"ENSG{number:011d}" for number in range(6)), "LINC9"]


@pytest.fixture
def genes() -> pa.Table:
    count = len(SYMBOLS)
    columns = {
        "gene_id": IDS,
        "gene_symbol": SYMBOLS,
        "seen_in_training": [True] * count,
        "val_pcc": [0.1] * count,
        "mean": [1.0] * count,
        "interval_80": [1.3] * count,
        "interval_90": [1.7] * count,
    }
    return pa.table(columns, schema=GENES.arrow())


@pytest.fixture
def panel(tmp_path):
    def write(content: str | bytes):
        path = tmp_path / "panel.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize(
    "content",
    [
        "KRT18\nERBB2\nENSG00000000003\n",
        "# mine\n\nKRT18  # luminal\n ERBB2 \nENSG00000000003.14",
        b"\xef\xbb\xbfKRT18\r\nERBB2\r\nENSG00000000003\r\n",
    ],
)
def test_rows_come_in_the_files_order(panel, genes, content):
    assert read_panel(panel(content), genes) == [2, 0, 3]


def test_a_gene_is_found_by_its_other_names_where_the_bundle_lacks_the_one_given(panel, genes):
    renamed = {"HER2": ("ENSG00000000000", "ERBB2"), "KRT8": ("ENSG00000000002",), "C1orf1": ("OTHER", "LINC9")}
    found = read_panel(panel("HER2\nKRT8\nC1orf1\n"), genes, other_names=lambda name: renamed.get(name, ()))
    assert found == [0, 1, 6]
    with pytest.raises(DataError, match=r"'ERBB2' is already on line 1"):
        read_panel(panel("HER2\nERBB2\n"), genes, other_names=lambda name: renamed.get(name, ()))


def test_a_gene_without_ensembl_id_is_found_by_its_symbol(panel, genes):
    assert read_panel(panel("LINC9\n"), genes) == [6]


def test_all_faults_are_listed_with_line_and_what_looks_alike(panel, genes):
    with pytest.raises(DataError) as caught:
        read_panel(panel("ERBB2\nKRT81\nerbb2\n\nTWIN\nENSG00000000000\nKRT8,FASN\nQQQQ\n"), genes)
    message = caught.value.message
    assert "6 errors found" in message
    assert "line 2: unknown gene 'KRT81'" in message
    assert "did you mean 'KRT8' or 'KRT18'?" in message
    assert "line 3: unknown gene 'erbb2'" in message
    assert "write 'ERBB2'" in message
    assert "line 5: 'TWIN' is the symbol of 2 genes" in message
    assert "ENSG00000000004, ENSG00000000005" in message
    assert "line 6: 'ENSG00000000000' is already on line 1" in message
    assert "line 7: 'KRT8,FASN' holds a comma" in message
    assert "write one name per line" in message
    assert "line 8: unknown gene 'QQQQ'" in message


def test_a_line_that_names_no_gene_is_not_quoted(panel, genes):
    with pytest.raises(DataError, match="line 2: 31 characters that name no gene") as caught:
        read_panel(panel("ERBB2\nroot:x:0:0:root:/root:/bin/bash\n"), genes)
    assert "root:x" not in caught.value.message


@pytest.mark.parametrize("content", ["", "\n\n", "# nothing yet\n"])
def test_an_empty_panel_is_refused(panel, genes, content):
    with pytest.raises(DataError, match="no gene"):
        read_panel(panel(content), genes)


def test_a_panel_that_is_not_text_is_refused(panel, genes):
    with pytest.raises(DataError, match="not a text file"):
        read_panel(panel(b"\xff\xfeK\x00R\x00T\x008\x00"), genes)


def test_a_panel_that_is_not_there(tmp_path, genes):
    with pytest.raises(MissingInputError):
        read_panel(tmp_path / "none.txt", genes)
    with pytest.raises(DataError, match="not a regular file"):
        read_panel(tmp_path, genes)
