"""Every file is in the room that its name says, and libraries are where they are allowed and nowhere else."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ELSEWHERE = {
    "conch",  # from its authors' repository alone: docs/genes.md
    "mypy_boto3_s3",  # types, of boto3-stubs
    "triton_python_backend_utils",  # comes with the server
}


EVERYWHERE = {"cv2", "markupsafe", "numpy", "pyarrow", "pydantic", "scipy", "typing_extensions"}
"""Libraries that every room may import."""


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache'])"
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={"PYTHONPATH": str(folder / "python"), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def copy(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package and its contracts, to be changed."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(root / "python", folder / "python", ignore=shutil.ignore_patterns("*.parquet", "__pycache__"))
    shutil.copy(root / "pyproject.toml", folder)
    return folder


def test_a_new_room_is_covered_on_the_day_it_is_made(copy: Path) -> None:
    libraries = ("torch", "boto3", "tritonclient", "tifffile", "matplotlib", "polars", "onnxruntime", "pandas", "typer")
    room = copy / "python" / "histocast" / "new_room"
    room.mkdir()
    (room / "__init__.py").write_text("".join(f"import {library}\n" for library in libraries))

    ended = lint_imports(copy)

    assert ended.returncode != 0
    assert "histocast.new_room" in ended.stdout.partition("not listed as layers")[2]
    refused = set(re.findall(r"histocast\.new_room -> (\w+)", ended.stdout))
    assert refused == set(libraries)


@pytest.mark.parametrize("folder", ["python", "tests"])
def test_no_file_name_stands_twice(root: Path, folder: str) -> None:
    names = Counter(path.name for path in (root / folder).rglob("*.py"))

    assert {name for name, count in names.items() if count > 1} <= {"__init__.py", "__main__.py", "conftest.py"}


def test_every_test_file_runs_alone(root: Path) -> None:
    """pytest finds modules of ``tests/`` and of the file's own folder; those of others only where they ran before."""
    tests = root / "tests"
    home = {path.stem: path.parent for path in tests.rglob("*.py")}

    strays = {
        f"{path.relative_to(tests)} imports {name}"
        for path in tests.rglob("*.py")
        for name in imports(path)
        if home.get(name, tests) not in (tests, path.parent)
    }

    assert strays == set()


def test_every_library_is_confined_to_rooms_or_allowed_in_all(root: Path) -> None:
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]
    confined = {name for contract in settings["contracts"] for name in contract.get("forbidden_modules", ())}

    assert libraries(root) - confined - EVERYWHERE - {"mypy_boto3_s3"} == set()


def test_every_library_that_is_imported_is_declared(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    stated = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    declared = {normal(re.match(r"[\w.-]+", line)[0]) for line in stated}
    distributions = packages_distributions()

    undeclared = {
        name
        for name in libraries(root) - ELSEWHERE
        if not declared & {normal(each) for each in distributions.get(name, [name])}
    }

    assert undeclared == set()


def libraries(root: Path) -> set[str]:
    """Top-level names of what the package imports and neither is nor Python has."""
    found = {name for path in (root / "python").rglob("*.py") for name in imports(path)}
    return found - set(sys.stdlib_module_names) - {"histocast", "histocast_demo"}


def imports(path: Path) -> set[str]:
    """Top-level names of what a file imports."""
    tree = ast.parse(path.read_text())
    return {name.partition(".")[0] for node in ast.walk(tree) for name in imports_of(node)}


def imports_of(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []


def normal(name: str) -> str:
    """A distribution's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_what_one_more_of_a_kind_costs_is_as_the_page_says(root: Path) -> None:
    page = (root / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| [\w ]+ \| `([\w.-]+)` \| \d+ \| \d+ \| (\d+) \| \d+ \|", page, re.MULTILINE)
    places = ("python", "modules", "conf", "bin", "main.nf", "nextflow.config", "nextflow_schema.json")
    assert len(rows) == 5
    for name, files in rows:
        pattern = name.replace(".", r"\.").replace("_", "[_-]")
        listed = subprocess.run(
            ["git", "grep", "--untracked", "-lE", pattern, "--", *places],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        assert len(listed) == int(files), f"{name}: {listed}"
