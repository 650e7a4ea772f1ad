"""Every fault of a samplesheet is told at once, with line, column, what was found and what was expected."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from histocast.errors import DataError, MissingInputError
from histocast.samplesheet import read_samplesheet


@pytest.fixture
def sheet(tmp_path):
    def write(content: str | bytes) -> str:
        path = tmp_path / "sheet.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def message_of(uri: str) -> str:
    """The one error that holds every fault."""
    _, faults = read_samplesheet(uri)
    with pytest.raises(DataError) as caught:
        faults.raise_if_any()
    assert caught.value.exit_code == 65
    return caught.value.message


GOOD = "sample,slide,mpp,spots\nS1,a.svs,0.5,\nS2,b.svs,,spots/b.tsv\n"


@pytest.mark.parametrize(
    "content",
    [
        GOOD,
        GOOD.replace("\n", "\r\n"),
        GOOD.replace("\n", "\r"),
        b"\xef\xbb\xbf" + GOOD.encode(),
        b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode(),
        GOOD.rstrip("\n"),
        GOOD + "\n\n",
        GOOD + ",,,\n , ,,\n",
        '"sample","slide","mpp","spots"\n"S1","a.svs","0.5",""\n"S2","b.svs","","spots/b.tsv"\n',
        " sample , slide,mpp, spots\n S1 ,a.svs , 0.5,\nS2,./b.svs,,spots/b.tsv\n",
        "spots,mpp,slide,sample\n,0.5,a.svs,S1\nspots/b.tsv,,b.svs,S2\n",
    ],
)
def test_what_spreadsheets_write_is_read(sheet, tmp_path, content):
    rows, faults = read_samplesheet(sheet(content))
    assert not faults.lines
    assert [(row.sample, row.mpp) for row in rows] == [("S1", 0.5), ("S2", None)]
    assert [row.slide for row in rows] == [str(tmp_path / "a.svs"), str(tmp_path / "b.svs")]
    assert [row.spots for row in rows] == [None, str(tmp_path / "spots" / "b.tsv")]


def test_only_sample_and_slide_are_needed_and_quotes_may_hold_commas(sheet, tmp_path):
    rows, faults = read_samplesheet(sheet('sample,slide\nS1,"a, b.svs"\nS2,/data/x.svs\nS3,s3://bucket/x.svs\n'))
    assert not faults.lines
    assert [row.slide for row in rows] == [str(tmp_path / "a, b.svs"), "/data/x.svs", "s3://bucket/x.svs"]


def test_relative_paths_begin_where_the_sheet_truly_lies(sheet, tmp_path):
    sheet(GOOD)
    task = tmp_path / "task"
    task.mkdir()
    (task / "staged.csv").symlink_to(tmp_path / "sheet.csv")
    rows, _ = read_samplesheet(str(task / "staged.csv"))
    assert rows[0].slide == str(tmp_path / "a.svs")


def test_all_faults_at_once(sheet):
    message = message_of(
        sheet(
            "sample,slid,mpp,Spots,note\n"
            "S1,a.svs,0.5,,\n"
            "S1,b.svs,zero,,\n"
            "../x,c.svs,0,,\n"
            ",d.svs,-0.5,,\n"
            ".hidden,e.svs,25,,\n"
            "S6,f.svs\n"
            'S7,g.svs,"0,5",,\n'
            "S8,h,i.svs,0.5,,\n"
            "-x,k.svs,nan,,\n"
            "pipeline_info,l.svs,,,\n"
        )
    )
    for told in (
        "line 1, column 'slid': an unknown column",
        "did you mean 'slide'?",
        "line 1, column 'Spots': an unknown column",
        "did you mean 'spots'?",
        "line 1, column 'slide': the column is missing",
        "line 3, column 'sample': duplicate sample 'S1', first on line 2",
        "line 3, column 'mpp': 'zero' is no number",
        "line 4, column 'sample': '../x' cannot name files",
        "line 4, column 'mpp': a resolution of 0 um/px",
        "line 5, column 'sample': an empty cell",
        "line 5, column 'mpp': a resolution of -0.5 um/px",
        "line 6, column 'sample': '.hidden' cannot name files",
        "line 6, column 'mpp': a resolution of 25 um/px",
        "line 7: 2 cells",
        "expected: 5, as in the header",
        "line 8, column 'mpp': '0,5' is no number",
        "write a decimal point",
        "line 9: 6 cells",
        "line 10, column 'sample': '-x' cannot name files",
        "line 10, column 'mpp': a resolution of nan um/px",
        "line 11, column 'sample': 'pipeline_info' is a name histocast uses itself",
    ):
        assert told in message
    assert "17 errors found" in message


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "the file is empty"),
        (b"\n \n\r\n", "the file is empty"),
        (b"\xef\xbb\xbf", "the file is empty"),
        (b"sample,slide\n", "a header and no rows"),
        (b"sample,slide\nS1\n", "1 cell\n"),
        (b"sample,slide\n,\n\n", "a header and no rows"),
        (b"sample\tslide\nS1\ta.svs\n", "columns are separated by tabs"),
        (b"sample;slide;mpp\nS1;a.svs;0,5\n", "columns are separated by semicolons"),
        (b"sample|slide\nS1|a.svs\n", "columns are separated by vertical bars"),
        (b"sample\nS1\n", "column 'slide': the column is missing"),
        (b"S1,a.svs\nS2,b.svs\n", "column 'sample': the column is missing"),
        ("sample,slide\nS1,a.svs\nS2,ß.svs\n".encode("latin-1"), "line 3: the byte 0xdf is not UTF-8"),
        ("sample,slide\nS1,a.svs\n".encode("utf-16"), "the text is UTF-16"),
        (b"PK\x03\x04 workbook", "the file is no text"),
        (b"sample,slide\n\x00\x01", "the file is no text"),
        (b'sample,slide\nS1,a.svs\nS2,"b.svs\n', "line 3: quotes do not match"),
        (b"sample,slide,\nS1,a.svs,\n", "column 3 has no name"),
        (b"sample,slide,slide\nS1,a,b\n", "column 'slide': the column appears twice"),
        (b"sample,slide,site,site\nS1,a,b,c\n", "column 'site': the column appears twice"),
        (b"sample,slide,a/b\nS1,a,b\n", "column 'a/b': a name that no table can have"),
        (b"sample,slide,site\nS1,a,b\x1bc\n", "line 2, column 'site': a character that cannot be printed"),
        (b"sample,slide,site\nS1,a," + b"b" * 201, "line 2, column 'site': 201 characters"),
        (b"sample,slide,Patient name\nS1,a,b\n", "column 'Patient name': the column's name suggests a person's name"),
        (b"sample,slide" + b"".join(b",m%d" % n for n in range(65)) + b"\nS1,a" + b",1" * 65, "65 columns of metadata"),
        (b"sample,slide\nS1,\n", "line 2, column 'slide': an empty cell"),
        (b"sample,slide\nS1,https://host/a.svs\n", "a https:// address"),
        (b"sample,slide\nA,a.svs\nA.slide,b.svs\n", "'A.slide' ends like a file of another sample"),
        (b"sample,slide\nS 1,a.svs\n", "'S 1' cannot name files"),
        (
            b"sample,slide\n\n\nS1,a.svs\n\nS1,b.svs\n",
            "line 6, column 'sample': duplicate sample 'S1', first on line 4",
        ),
        (b"sample,slide\nS1,a.svs\ns1,b.svs\n", "duplicate sample 's1', equal but for case to 'S1', first on line 2"),
        (b"sample,slide\nSummary.HTML,a.svs\nCohort,b.svs\n", "'Summary.HTML' is a name histocast uses itself"),
        (b'sample,slide\nS1,"a\nb.svs"\nS1,b.svs\n', "line 4, column 'sample': duplicate sample 'S1', first on line 2"),
    ],
)
def test_each_fault_is_named_where_it_is(sheet, content, told):
    assert told in message_of(sheet(content))


def test_faults_come_in_the_order_of_lines_and_only_close_names_are_suggested(sheet):
    message = message_of(sheet("sample,slide,site,mp\nS1,a.svs,x,\nS1,,x,\nS 3,c.svs,x,\n"))
    lines = [int(line) for line in re.findall(r"\d+\. \S+ line (\d+)", message)]
    assert lines == sorted(lines) == [1, 3, 3, 4]
    assert re.findall("did you mean '(.*)'", message) == ["mpp"]


def test_other_columns_are_metadata_and_those_that_identify_a_person_need_to_be_allowed(sheet):
    content = "sample,slide,site,MRN,grade,mp\nS1,a.svs,North,1234567,,x\nS2,b.svs,,,2,\n"
    message = message_of(sheet(content))
    for told in ("column 'MRN'", "a number given to one person", "--allow_metadata 'MRN'", "did you mean 'mpp'?"):
        assert told in message
    assert "1234567" not in message
    rows, faults = read_samplesheet(sheet(content), allow_metadata=["MRN", "mp"])
    assert not faults.lines
    assert [row.metadata for row in rows] == [{"site": "North", "MRN": "1234567", "mp": "x"}, {"grade": "2"}]
    _, faults = read_samplesheet(sheet(content), allow_metadata=["MRN", "mp", "SSN"])
    assert "no column 'SSN'" in faults.lines[0]


@pytest.mark.parametrize("name", ["$", "*", "?", "[", "{", "\t"])
def test_a_name_that_no_container_could_be_given_is_refused_within_one_alone(sheet, monkeypatch, name):
    content = f'sample,slide\nS1,"a{name}b.svs"\n'
    rows, faults = read_samplesheet(sheet(content))
    assert rows
    assert not faults.lines
    monkeypatch.setenv("HISTOCAST_IMAGE", "localhost/histocast/client")
    told = message_of(sheet(content))
    assert f"line 2, column 'slide': a path that holds {name!r}" in told
    assert "rename" in told


def test_a_sheet_that_is_not_there_or_no_file(tmp_path: Path):
    with pytest.raises(MissingInputError):
        read_samplesheet(str(tmp_path / "none.csv"))
    with pytest.raises(DataError, match="a folder"):
        read_samplesheet(str(tmp_path))
