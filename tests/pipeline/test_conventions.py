"""What platforms and people that know nf-core look for: schemas, descriptions of modules, reports, citations."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from histocast import __version__
from histocast.parameter_forms import FORMS
from histocast.parameters import Parameters, pipeline_schema
from histocast.samplesheet import _SAMPLE, COLUMNS

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    path for path in (ROOT / "modules").glob("*.nf") if re.search("^process ", path.read_text(), re.MULTILINE)
)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_a_module_is_described_as_it_is(module):
    text = re.sub(r"(?m)(^|\s)//.*$", "", module.read_text())
    described = yaml.safe_load(module.with_suffix(".meta.yml").read_text())
    declared = {
        part: (re.search(rf"    {part}:\n(.*?)(?=\n\n|\Z)", text, re.DOTALL) or ["", ""])[1]
        for part in ("input", "output")
    }
    names = {
        "input": re.findall(r"\b(?:path|val)[ (](\w+)", declared["input"]),
        "output": re.findall(r"emit: (\w+)", declared["output"]),
    }
    assert described["name"] == module.stem
    assert described["process"] == re.search(r"^process (\w+)", text, re.MULTILINE)[1]
    assert described["description"]
    for part, found in names.items():
        entries = described.get(part, [])
        assert [name for entry in entries for name in entry] == found
        assert all(
            facts["description"] and facts["type"] in ("file", "value") for entry in entries for facts in entry.values()
        )


def test_every_description_is_of_a_module():
    assert {path.name.split(".")[0] for path in (ROOT / "modules").glob("*.meta.yml")} == {
        path.stem for path in MODULES
    }


def test_the_schema_of_the_samplesheet_has_its_columns():
    items = json.loads((ROOT / "assets" / "schema_input.json").read_text())["items"]
    assert tuple(items["required"]) == COLUMNS.required
    assert set(items["properties"]) == {*COLUMNS.required, *COLUMNS.optional}
    assert items["properties"]["sample"]["pattern"] == f"^{_SAMPLE.pattern}$"


def test_parameters_that_name_files_open_a_file_picker_and_have_help():
    schema = pipeline_schema()
    assert schema["$id"].endswith("nextflow_schema")
    found = {name: facts for group in schema["$defs"].values() for name, facts in group["properties"].items()}
    assert set(found) == set(Parameters.model_fields)
    assert set(FORMS) <= set(found)
    # What names a file or folder is picked, and nothing else is.
    picked = {name for name, facts in found.items() if "format" in facts}
    named = {
        name
        for name, facts in found.items()
        if re.search(
            r"(?i)^(CSV|GMT|Model bundle|What to predict: a file|Recipe|Embedded genes|Folder)|weights",
            facts["description"],
        )
    }
    assert named - {"encoders"} <= picked
    assert "max_memory" not in picked
    assert (ROOT / found["input"]["schema"]).is_file()
    assert all(found[name]["help_text"] for name in ("input", "bundle", "genes", "outdir", "cohort", "formats"))
    assert all(group["fa_icon"].startswith("fas fa-") for group in schema["$defs"].values())


def test_reports_of_the_platform_are_files_that_a_run_publishes():
    reports = yaml.safe_load((ROOT / "tower.yml").read_text())["reports"]
    output = (ROOT / "docs" / "output.md").read_text()
    for pattern, facts in reports.items():
        assert facts["display"]
        assert pattern.rpartition("/")[2].replace("*", "<sample>") in output


def test_the_manifest_names_who_made_it_as_the_citation_does():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    manifest = (ROOT / "nextflow.config").read_text().partition("\n}")[0]
    assert f"version = '{__version__}'" in manifest
    assert f"name: '{citation['authors'][0]['name']}'" in manifest


def test_each_citation_says_where_it_is_found():
    entries = re.findall(r"(?m)^- (.*(?:\n  .*)*)", (ROOT / "CITATIONS.md").read_text())
    assert len(entries) >= 8
    for entry in entries:
        assert re.search(r"doi:10\.\d{4,}/\S+|arXiv:\d{4}\.\d{5}|J Mach Learn Res", entry)
        assert re.search(r"\((19|20)\d\d\)", entry)
