"""Claims: a bundle is accepted as it was exported, and one changed byte, shape, count or gene is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from onnx.numpy_helper import from_array
from onnx.parser import parse_model

from histocast.artifacts import GENES, write_json, write_table
from histocast.bundle import Bundle, sha256_of_file
from histocast.errors import ConfigError, MissingInputError
from histocast.inference import verify_bundle
from histocast.inference.graph_memory import least_call_bytes
from histocast.records import Provenance
from known_encoders import write_encoder, write_shipped_bundle

FILES = ["encoders/morphology.onnx", "encoders/nuclei.onnx", "fusion.onnx", "genes.parquet"]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_shipped_bundle(tmp_path, write_encoder(tmp_path, "nuclei", output="map"))


def rewrite(folder: Path, bundle: Bundle, **changes: object) -> None:
    write_json(folder / "bundle.json", bundle.model_copy(update=changes))


def test_a_bundle_as_exported_is_returned(tmp_path: Path, bundle: Bundle) -> None:
    assert verify_bundle(tmp_path) == bundle


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0, 0.5, -1])
def test_one_flipped_byte_anywhere_is_a_configuration_error(
    tmp_path: Path, bundle: Bundle, name: str, place: float
) -> None:
    content = bytearray((tmp_path / name).read_bytes())
    content[int(place * len(content)) if place >= 0 else -1] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=name) as raised:
        verify_bundle(tmp_path)
    assert raised.value.exit_code == 78


@pytest.mark.parametrize("name", [*FILES, "bundle.json"])
def test_an_absent_file_is_a_missing_input(tmp_path: Path, bundle: Bundle, name: str) -> None:
    (tmp_path / name).unlink()
    with pytest.raises(MissingInputError, match=name):
        verify_bundle(tmp_path)


def test_an_encoder_that_is_not_shipped_is_no_fault_of_the_bundle(tmp_path: Path, bundle: Bundle) -> None:
    first, second = bundle.encoders
    (tmp_path / str(second.file)).unlink()
    rewrite(tmp_path, bundle, encoders=(first, second.model_copy(update={"file": None})))
    assert verify_bundle(tmp_path).encoders[1].file is None


def test_a_graph_with_the_stated_digest_and_another_shape_is_refused(tmp_path: Path, bundle: Bundle) -> None:
    fusion = bundle.fusion
    outputs = tuple(output.model_copy(update={"shape": ("spot", 31)}) for output in fusion.outputs)
    rewrite(tmp_path, bundle, fusion=fusion.model_copy(update={"outputs": outputs}))
    with pytest.raises(ConfigError, match=r"fusion.*expression"):
        verify_bundle(tmp_path)


def test_two_encoders_of_one_name_are_refused(tmp_path: Path, bundle: Bundle) -> None:
    first, second = bundle.encoders
    rewrite(tmp_path, bundle, encoders=(first, second.model_copy(update={"name": first.name})))
    with pytest.raises(ConfigError, match="names that differ"):
        verify_bundle(tmp_path)


def test_a_panel_of_another_length_is_refused(tmp_path: Path, bundle: Bundle) -> None:
    rewrite(tmp_path, bundle, gene_count=31)
    with pytest.raises(ConfigError, match="30 genes"):
        verify_bundle(tmp_path)


def test_a_model_of_no_gene_is_refused(tmp_path: Path, bundle: Bundle) -> None:
    rewrite(tmp_path, bundle, gene_count=0)
    with pytest.raises(ConfigError, match="gene_count is 0"):
        verify_bundle(tmp_path)


def test_a_gene_that_stands_twice_is_named(tmp_path: Path, bundle: Bundle) -> None:
    path = tmp_path / "genes.parquet"
    table = pq.read_table(path)
    ids = table.column("gene_id").to_pylist()
    ids[7] = ids[3]
    table = table.set_column(0, table.schema.field(0), [ids])
    write_table(path, table, Provenance(artifact="genes", schema_version=GENES.version, sample="bundle"))
    rewrite(tmp_path, bundle, genes_sha256=sha256_of_file(path))
    with pytest.raises(ConfigError, match=ids[3]):
        verify_bundle(tmp_path)


def test_a_panel_that_is_no_panel_is_a_configuration_error(tmp_path: Path, bundle: Bundle) -> None:
    path = tmp_path / "genes.parquet"
    path.write_bytes(b"symbol\nTP53\n")
    rewrite(tmp_path, bundle, genes_sha256=sha256_of_file(path))
    with pytest.raises(ConfigError, match=r"genes\.parquet"):
        verify_bundle(tmp_path)


def test_a_graph_that_predicts_more_genes_than_the_panel_lists_is_refused(tmp_path: Path, bundle: Bundle) -> None:
    path = tmp_path / "genes.parquet"
    write_table(
        path,
        pq.read_table(path).slice(0, 29),
        Provenance(artifact="genes", schema_version=GENES.version, sample="bundle"),
    )
    rewrite(tmp_path, bundle, genes_sha256=sha256_of_file(path), gene_count=29)
    with pytest.raises(ConfigError, match="30 genes"):
        verify_bundle(tmp_path)


HELD = {
    # Each is released once the next is made: two of 1,024 float32 at most.
    "a = Add (target, target) b = Add (a, a) c = Add (b, b) expression = Add (c, c)": 2 * 4096,
    "a = Add (target, target) b = Add (a, a) c = Add (a, b) expression = Add (a, c)": 3 * 4096,
    # Weights are in the file, whose size bounds them.
    "a = Add (target, weights) expression = Add (a, a)": 2 * 4096,
    "a = Cast <to = 7> (target) expression = Cast <to = 1> (a)": 8192 + 4096,
    # What depends on the values of inputs counts as one.
    "a = NonZero (target) b = Cast <to = 1> (a) c = ReduceSum <keepdims = 0> (b) expression = Add (target, c)": 4100,
}


@pytest.mark.parametrize("nodes", HELD)
def test_what_a_graph_holds_at_once_is_known_without_running_it(tmp_path: Path, nodes: str) -> None:
    model = parse_model(
        f'<ir_version: 8, opset_import: ["" : 18]> g (float[spot] target) => (float[spot] expression) {{ {nodes} }}'
    )
    model.graph.initializer.append(from_array(np.zeros(1024, np.float32), "weights"))
    path = tmp_path / "graph.onnx"
    path.write_bytes(model.SerializeToString())
    assert least_call_bytes(path, {"spot": 1024}) == HELD[nodes]
