"""Gene sets are read as they are published, and scored only where their genes are predicted."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from histocast.cohort.score_signatures import find_signatures, read_gmt, score_slides
from histocast.errors import DataError, MissingInputError

GENES = pa.table({"gene_symbol": ["ERBB2", "GRB7", "KRT5", "KRT14"], "gene_id": ["ENSG1", "ENSG2", "ENSG3", "ENSG4"]})


def write(tmp_path, text: str | bytes):
    path = tmp_path / "sets.gmt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_sets_are_read_and_their_genes_found_by_symbol_or_id(tmp_path):
    text = (
        "HER2\thttp://x\tERBB2\tgrb7\tERBB2\t\r\nBASAL\tna\tENSG3.2\tKRT14\tKRT17\tEGFR\n\nOTHER\tna\tTP53\tMYC\tKRT5\n"
    )
    sets = read_gmt(write(tmp_path, text))
    assert sets["HER2"] == ("ERBB2", "grb7")
    found = find_signatures(sets, GENES)
    assert [(each.name, each.genes, each.columns.tolist(), each.is_scored) for each in found] == [
        ("HER2", 2, [0, 1], True),
        ("BASAL", 4, [2, 3], True),
        ("OTHER", 3, [2], False),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the file is empty"),
        ("A\tx\tB\nA\tx\tC\n", "line 2: 'A' a second time"),
        ("A,x,B\nC\tx\n\tx\tB\n", "line 3: no gene set"),
        (b"\xff\xfe\x00A", "not a text file"),
    ],
)
def test_what_is_no_gmt_file_is_refused_by_its_lines(tmp_path, text, told):
    with pytest.raises(DataError, match=told):
        read_gmt(write(tmp_path, text))
    with pytest.raises(MissingInputError):
        read_gmt(tmp_path / "none.gmt")


def test_sets_of_which_too_few_genes_are_predicted_are_refused():
    with pytest.raises(DataError, match="of the best, B, 1 of 3 genes") as caught:
        find_signatures({"A": ("X",), "B": ("ERBB2", "Y", "Z")}, GENES)
    assert "50%" in caught.value.message


def test_a_score_is_the_mean_z_score_of_the_genes_that_vary():
    values = np.random.default_rng(0).normal(2, 1, (30, 4)).astype(np.float32)
    values[:, 1] = 5.0
    found = find_signatures({"HER2": ("ERBB2", "GRB7"), "NONE": ("X", "Y", "KRT5"), "FLAT": ("GRB7",)}, GENES)
    scores = score_slides(values, found, mean=values.mean(axis=0, dtype=float), sd=np.array([1.5, 0, 1, 1]))
    np.testing.assert_allclose(scores[:, 0], (values[:, 0] - values[:, 0].mean()) / 1.5, rtol=1e-4, atol=1e-5)
    assert np.isnan(scores[:, 1:]).all()
