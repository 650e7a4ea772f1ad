"""Every layout of measured spots gives the same spots, and every fault of a table is told with its line."""

from __future__ import annotations

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from histocast.errors import DataError, MissingInputError
from histocast.sections.labels import array_neighbourhood
from histocast.tiles import read_spots

ST = (
    "x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected\n"
    "4\t2\t4.0\t2.0\t1160.5\t580.25\t1\n"
    "5\t2\t5.0\t2.0\t1450.0\t581.0\t0\n"
    "3\t9\t3.0\t9.0\t870.0\t2610.0\t1\n"
)
VISIUM_HEADER = "barcode,in_tissue,array_row,array_col,pxl_row_in_fullres,pxl_col_in_fullres\n"
VISIUM = "AAAC-1,1,0,0,500,900\nAAAG-1,0,0,2,500,1100\nAAAT-1,1,1,1,673.2,1000\n"
CSV = "x,y\n100,50\n200.5,51\n101,149.5\n"


@pytest.fixture
def table(tmp_path):
    def write(content: str | bytes, name: str = "spots.tsv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def faults_of(path, **options) -> str:
    with pytest.raises(DataError) as caught:
        read_spots(path, **options)
    assert str(path) in caught.value.message
    return caught.value.message


def test_st_selection(table):
    spots = read_spots(table(ST))
    assert spots.names == ["4x2", "5x2", "3x9"]
    assert spots.x_level0_px.tolist() == [1160.5, 1450.0, 870.0]
    assert spots.y_level0_px.tolist() == [580.25, 581.0, 2610.0]
    assert spots.array_col.tolist() == [4, 5, 3]
    assert spots.array_row.tolist() == [2, 2, 9]
    assert spots.in_tissue.tolist() == [True, False, True]
    assert spots.row_major_rank().tolist() == [0, 1, 2]


@pytest.mark.parametrize("form", ["header", "list", "parquet", "gzip"])
def test_visium_pixels_are_row_then_column(table, tmp_path, form):
    if form == "parquet":
        path = tmp_path / "tissue_positions.parquet"
        rows = [line.split(",") for line in VISIUM.splitlines()]
        names = VISIUM_HEADER.strip().split(",")
        kinds = [str, int, int, int, float, float]
        columns = {
            name: [kind(row[at]) for row in rows] for at, (name, kind) in enumerate(zip(names, kinds, strict=True))
        }
        pq.write_table(pa.table(columns), path)
    elif form == "list":
        path = table(VISIUM, "tissue_positions_list.csv")
    elif form == "gzip":
        path = table(gzip.compress((VISIUM_HEADER + VISIUM).encode()), "tissue_positions.csv.gz")
    else:
        path = table(VISIUM_HEADER + VISIUM, "tissue_positions.csv")
    spots = read_spots(path)
    assert spots.names == ["AAAC-1", "AAAG-1", "AAAT-1"]
    assert spots.x_level0_px.tolist() == [900, 1100, 1000]
    assert spots.y_level0_px.tolist() == [500, 500, 673.2]
    assert spots.array_row.tolist() == [0, 0, 1]
    assert spots.array_col.tolist() == [0, 2, 1]
    assert spots.in_tissue.tolist() == [True, False, True]


@pytest.mark.parametrize(
    "content",
    [
        CSV,
        CSV.replace(",", ";"),
        CSV.replace(",", "\t"),
        "\ufeff" + CSV.replace("\n", "\r\n"),
        "X,Y\n\n 100, 50\n200.5,51\n\n101,149.5\n\n",
        '"x","y"\n"100","50"\n"200.5","51"\n"101","149.5"\n',
    ],
)
def test_plain_csv(table, content):
    spots = read_spots(table(content, "spots.csv"))
    assert spots.names == ["spot0", "spot1", "spot2"]
    assert spots.centres_level0_px().tolist() == [[100, 50], [200.5, 51], [101, 149.5]]
    assert spots.array_col.tolist() == [0, 1, 0]
    assert spots.array_row.tolist() == [0, 0, 1]
    assert spots.in_tissue.all()


def test_csv_may_name_spots_and_place_them(table):
    spots = read_spots(table("x,y,spot,array_row,array_col,in_tissue,comment\n7,8,b,4,5,0,hm\n70,80,a,0,1,1,\n"))
    assert spots.names == ["b", "a"]
    assert spots.array_row.tolist() == [4, 0]
    assert spots.in_tissue.tolist() == [False, True]
    assert spots.row_major_rank().tolist() == [1, 0]


def test_a_lattice_is_recovered_from_scattered_centres(table):
    random = np.random.default_rng(1)
    row, col = (axis.ravel() for axis in np.mgrid[:20, :30])
    x = 500 + 290 * col + random.normal(0, 15, col.size)
    y = 700 + 290 * row + random.normal(0, 15, col.size)
    lines = [f"{a},{b}" for a, b in zip(x, y, strict=True)]
    spots = read_spots(table("x,y\n" + "\n".join(lines)))
    assert (spots.array_row == row).mean() > 0.99
    assert (spots.array_col == col).mean() > 0.99
    assert spots.pitch_level0_px() == pytest.approx(290, rel=0.02)


@pytest.mark.parametrize(
    ("name", "expected"), [("square", 100.0), ("hexagonal", 100.0), ("line", 100.0), ("pair", 100.0)]
)
def test_pitch_of_arrays(table, name, expected):
    places: dict[str, list[tuple[float, float]]] = {
        "square": [(100 * i, 100 * j) for i in range(6) for j in range(6)],
        "hexagonal": [(100 * i + 50 * (j % 2), 86.6025 * j) for i in range(6) for j in range(6)],
        "line": [(100 * i, 0) for i in range(6)],
        "pair": [(0, 0), (60, 80)],
    }
    spots = read_spots(table("x,y\n" + "\n".join(f"{x},{y}" for x, y in places[name])))
    assert spots.pitch_level0_px() == pytest.approx(expected, rel=1e-4)


def test_a_single_spot_has_no_pitch(table):
    assert read_spots(table("x,y\n5,6\n")).pitch_level0_px() is None


def test_all_faults_of_a_table_at_once(table):
    content = (
        ST + "3.5\t2\t0\t0\t10\t20\t1\n6\t2\t0\t0\tfar\t20\tmaybe\n4\t2\t0\t0\t9000\t20\t1\n7\t7\t0\t0\tinf\t1\t2\n"
    )
    message = faults_of(table(content), slide_size_px=(2000, 3000))
    assert "line 5, column 'x': '3.5'" in message
    assert "expected: a whole number" in message
    assert "line 6, column 'pixel_x': 'far'" in message
    assert "line 6, column 'selected': 'maybe'" in message
    assert "line 7: duplicate spot '4x2', first on line 2" in message
    assert "line 7: spot '4x2' at (9000, 20) lies outside the slide" in message
    assert "line 8, column 'pixel_x': 'inf'" in message
    assert "line 8, column 'selected': '2'" in message
    assert "7 errors found" in message


def test_two_spots_at_one_place_are_refused(table):
    assert "duplicate spot at (100, 50), first on line 2" in faults_of(table(CSV + "100,50\n"))


def test_spots_outside_are_refused_only_in_tissue(table):
    path = table(VISIUM_HEADER + VISIUM)
    assert "lies outside the slide" in faults_of(path, slide_size_px=(950, 5000))
    inside = read_spots(table(VISIUM_HEADER + VISIUM.replace("500,1100", "500,99999")), slide_size_px=(2000, 2000))
    assert len(inside) == 3


def test_a_fault_of_every_line_is_not_told_on_every_line(table):
    content = "x,y\n" + "\n".join(f"{i},{9000 + i}" for i in range(500))
    message = faults_of(table(content), slide_size_px=(100, 100))
    assert message.count("lies outside the slide") == 20
    assert "and 480 more lines" in message


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "an empty file"),
        ("\n  \n", "an empty file"),
        ("x,y\n", "a header and no spots"),
        ("a,b\n1,2\n", "2 columns, none of a known name"),
        ("x,y\n1,2\n3\n4,5,6\n", "line 3: 1 cells"),
        ("x,y,x\n1,2,3\n", "appears twice"),
        ("x,z\n1,2\n", "columns 'x', 'z'"),
        ("x\ty\tnew_x\tnew_y\n4\t2\t4.0\t2.0\n", "add pixel_x and pixel_y"),
        (b"\xff\xfex\x00,\x00y\x00", "not UTF-8 text"),
        (b"\x1f\x8bnot gzip", "not UTF-8 text"),
        (b"PAR1 is not enough", "not a readable Parquet file"),
        (b"\x00\x01\x02\x03", "not text"),
        ("spot,x,y\n,1,2\n", "an empty cell"),
        ('x,y\n"1,2",\n', "'1,2'"),
        ("x,y\n1,1e300\n2,2\n", "line 2, column 'y': '1e300'"),
        ("x,y\n1,nan\n", "line 2, column 'y': 'nan'"),
        ("x,y\n1,\n", "line 2, column 'y': ''"),
        ("spot,x,y\n" + "A" * 200_000 + ",1,2\n", "line 2: not a row of a table"),
    ],
)
def test_what_is_no_table_of_spots(table, content, told):
    assert told in faults_of(table(content))


@pytest.mark.parametrize(
    ("column", "told"),
    [
        ({"x": [[1], [2]]}, "column 'x': '[1]'"),
        ({"x": [{"a": 1}, {"a": 2}]}, "column 'x'"),
        ({"x": [1.0, None]}, "line 2, column 'x': 'nan'"),
        ({"x": pa.array([2**64 - 1, 1], pa.uint64())}, "column 'x': '18446744073709551615'"),
        ({"X": [5, 6]}, "column 'x': the column appears twice"),
        ({"spot": ["A", None]}, "line 2, column 'spot': an empty cell"),
        ({"in_tissue": [1, None]}, "line 2, column 'in_tissue': 'nan'"),
    ],
)
def test_columns_of_parquet_that_are_no_spots(tmp_path, column, told):
    pq.write_table(pa.table({"spot": ["A", "B"], "x": [1, 300], "y": [1, 1], **column}), tmp_path / "s.parquet")
    assert told in faults_of(tmp_path / "s.parquet")


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(MissingInputError):
        read_spots(tmp_path / "none.csv")
    with pytest.raises(DataError, match="a folder"):
        read_spots(tmp_path)


def test_real_selections(shared_data):
    counts = {"C2": 187, "C3": 182, "C4": 187, "C5": 183, "C6": 179}
    for section, count in counts.items():
        spots = read_spots(shared_data / "her2st" / "spots" / f"{section}_selection.tsv", slide_size_px=(9300, 9950))
        assert len(spots) == count
        assert spots.in_tissue.all()
        # 200 um at about 0.69 um/px.
        assert spots.pitch_level0_px() == pytest.approx(290, rel=0.02)
        assert np.corrcoef(spots.array_col, spots.x_level0_px)[0, 1] > 0.999
        assert np.corrcoef(spots.array_row, spots.y_level0_px)[0, 1] > 0.999


@pytest.mark.parametrize("turned_deg", [0, 3, 17, 30, 90, -50])
@pytest.mark.parametrize("holes", [0.0, 0.3])
def test_a_hexagonal_array_is_recovered_however_it_is_turned(table, turned_deg, holes):
    random = np.random.default_rng(4)
    row, step = (axis.ravel() for axis in np.mgrid[:30, :24])
    kept = random.random(row.size) >= holes
    row, step = row[kept], step[kept]
    angle = np.deg2rad(turned_deg)
    x, y = 200 * step + 100 * (row % 2) + random.normal(0, 8, row.size), 173.2 * row
    x, y = 9000 + x * np.cos(angle) - y * np.sin(angle), 9000 + x * np.sin(angle) + y * np.cos(angle)
    spots = read_spots(table("x,y\n" + "\n".join(f"{a:.3f},{b:.3f}" for a, b in zip(x, y, strict=True))))
    places = np.stack([spots.array_row, spots.array_col], axis=1)
    assert len(np.unique(places, axis=0)) == len(spots)
    assert len(np.unique(places.sum(axis=1) % 2)) == 1
    near = array_neighbourhood(spots.array_row, spots.array_col)
    apart = np.hypot(x[:, None] - x, y[:, None] - y)
    assert (near.toarray() == (apart < 250)).mean() > 0.999


def test_no_two_spots_of_any_table_share_a_place(table):
    x, y = np.random.default_rng(2).uniform(0, 5000, (2, 400))
    spots = read_spots(table("x,y\n" + "\n".join(f"{a},{b}" for a, b in zip(x, y, strict=True))))
    assert len(set(zip(spots.array_row.tolist(), spots.array_col.tolist(), strict=True))) == 400
    given = table("x,y,array_row,array_col\n1,2,0,0\n300,2,0,1\n600,2,0,1\n")
    assert "line 4: duplicate place on the array, row 0 and column 1, first on line 3" in faults_of(given)


def test_in_tissue_in_every_spelling(table, tmp_path):
    yes, no = ("1", "1.0", "TRUE", "true", "True", "yes"), ("0", "0.0", "FALSE", "false", "False", "no")
    rows = "\n".join(f"{at},{at},{word}" for at, word in enumerate(yes + no))
    assert read_spots(table(f"x,y,in_tissue\n{rows}\n")).in_tissue.tolist() == [True] * 6 + [False] * 6
    assert "line 2, column 'in_tissue': 'maybe'" in faults_of(table("x,y,in_tissue\n1,2,maybe\n"))
    assert "line 2, column 'in_tissue': ''" in faults_of(table("x,y,in_tissue\n1,2,\n"))
    flags = {
        "bool": pa.array([True, False]),
        "int": pa.array([1, 0]),
        "float": pa.array([1.0, 0.0]),
        "text": pa.array(["true", "0"]),
        "category": pa.array(["True", "False"]).dictionary_encode(),
        "view": pa.array(["1", "0"], pa.string_view()),
    }
    for name, column in flags.items():
        names = pa.array(["A", "B"]).dictionary_encode() if name == "category" else pa.array(["A", "B"])
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"spot": names, "x": [1, 300], "y": [1, 1], "in_tissue": column}), path)
        spots = read_spots(path)
        assert (spots.names, spots.in_tissue.tolist()) == (["A", "B"], [True, False]), name
