"""What someone sees who meets the command line for the first time."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

import histocast as histocast_package
from histocast.cli import GROUPS, VERBS, find_stage, make_parser, option_of
from histocast.stages.stage import Positional
from stained_sections import write_stained_slide

Verb = Callable[..., CompletedProcess[str]]


def test_help_lists_every_verb_once_in_groups_and_cuts_no_line(histocast: Verb) -> None:
    done = histocast("--help", env={"COLUMNS": "80"})

    lines = done.stdout.splitlines()
    for heading, names in GROUPS.items():
        section = lines[lines.index(f"{heading}:") + 1 :][: len(names)]
        summaries = [(find_stage(name).__doc__ or "").partition("\n")[0] for name in names]
        assert [line.split(maxsplit=name.count(" ") + 1) for line, name in zip(section, names, strict=True)] == [
            [*name.split(), summary] for name, summary in zip(names, summaries, strict=True)
        ]
    assert all(len(line) <= 80 for line in lines[:-1])


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_of_a_verb_is_a_field_that_says_what_it_means(verb: str) -> None:
    stage = find_stage(verb)
    text = make_parser(verb, stage).format_help()

    assert [name for name, field in stage.model_fields.items() if not field.description] == []
    assert "Undefined" not in text
    assert "Annotated[" not in text
    positional = {name for name, field in stage.model_fields.items() if Positional() in field.metadata}
    options = {option_of(name, field) for name, field in stage.model_fields.items() if name not in positional}
    assert options <= set(re.findall(r"--[\w-]+", text))


def test_the_package_shows_its_public_names_and_each_is_there(tmp_path: Path) -> None:
    assert {"open_slide", "predict_slide", "read_bundle", "Check", "Tile", "Encode", "Predict"} <= set(
        dir(histocast_package)
    )
    assert all(getattr(histocast_package, name) is not None for name in dir(histocast_package))
    with pytest.raises(AttributeError, match="no attribute 'slide_open'"):
        _ = histocast_package.slide_open
    write_stained_slide(tmp_path / "a.tiff", seed=1)
    with histocast_package.open_slide(tmp_path / "a.tiff") as slide:
        pixels, um_per_px = slide.thumbnail(256)
    assert max(pixels.shape) <= 256
    assert um_per_px > slide.facts.um_per_px


def test_doctor_says_what_is_here_and_verifies_a_bundle(histocast: Verb, demo_bundle: Path) -> None:
    done = histocast("doctor", "--bundle", demo_bundle)

    assert done.returncode == 0, done.stderr
    found = {line[6:17].strip(): line[:6].strip() for line in done.stdout.splitlines() if line[:6].strip()}
    assert {"histocast", "GPU", "cohorts", "formats", "nextflow", "scratch", "bundle"} <= set(found)
    assert found["bundle"] == found["scratch"] == "ok"


def test_doctor_names_every_fault_and_ends_with_the_code_of_the_first(histocast: Verb, tmp_path: Path) -> None:
    (tmp_path / "slide.svs").write_bytes(b"no slide")

    done = histocast("doctor", "--bundle", tmp_path / "absent", "--slide", tmp_path / "slide.svs")

    assert done.returncode == 66
    faults = [line for line in done.stdout.splitlines() if line.startswith("fault")]
    assert [line.split()[1] for line in faults] == ["bundle", "slide"]
    assert "Traceback" not in done.stdout + done.stderr
