"""The machine of a task says which image its name stood for, before the task starts."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from histocast.storage import open_source, sampled_digest

HERE, ELSEWHERE, ITS_ID = ("sha256:" + letter * 64 for letter in "abc")


def ask(root: Path, engine: str, given: str | Path, *, path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [root / "bin" / "image-digest", engine, given],
        env={**os.environ, "PATH": f"{path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )


def put_engine(folder: Path, name: str, script: str) -> None:
    """An engine that says what the real one says."""
    (folder / name).write_text(f"#!/bin/bash\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("image", "told", "digest"),
    [
        (
            "lab.org:5000/histocast/client:1",
            (f"else.org/histocast/client@{ELSEWHERE}", f"lab.org:5000/histocast/client@{HERE}", ITS_ID),
            HERE,
        ),
        ("lab.org:5000/histocast/client", (f"lab.org:5000/histocast/client@{HERE}", ITS_ID), HERE),
        (f"lab.org/client@{HERE}", (f"lab.org/client@{HERE}", ITS_ID), HERE),
        ("localhost/histocast/client:1", (ITS_ID,), ITS_ID),
        # podman writes the ID bare.
        (
            "localhost/histocast/client:1",
            (f"else.org/histocast/client@{ELSEWHERE}", ITS_ID.removeprefix("sha256:")),
            ITS_ID,
        ),
    ],
)
def test_an_image_is_known_by_where_it_came_from_else_by_its_id(
    root: Path, tmp_path: Path, image: str, told: tuple[str, ...], digest: str
) -> None:
    lines = "\\n".join(told)
    put_engine(tmp_path, "docker", f"[[ $2 == inspect && ${{@: -1}} == '{image}' ]] && printf '{lines}\\n'")
    done = ask(root, "docker", image, path=tmp_path)
    assert (done.stdout, done.stderr) == (f"{digest}\n", "")


def test_an_image_that_is_not_here_is_brought_first(root: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    put_engine(
        tmp_path,
        "podman",
        f"case $1 in pull) touch '{here}'; echo pulled ;; image) [[ -e '{here}' ]] && echo '{ITS_ID}' ;; esac",
    )
    assert ask(root, "podman", "lab.org/client:1", path=tmp_path).stdout == f"{ITS_ID}\n"


def test_an_image_that_nobody_has_is_left_to_the_engine_to_report(root: Path, tmp_path: Path) -> None:
    put_engine(tmp_path, "podman", "[[ $1 == pull ]] && echo 'no such image' >&2; exit 125")
    done = ask(root, "podman", "lab.org/client:1", path=tmp_path)
    assert done.stdout == ""
    assert done.stderr == "no such image\n"


@pytest.mark.parametrize(
    ("engine", "size_bytes"),
    [("apptainer", 0), ("apptainer", 10), ("singularity", 65_536), ("apptainer", 100_001), ("singularity", 1_000_003)],
)
def test_an_image_file_is_known_as_a_slide_is(root: Path, tmp_path: Path, engine: str, size_bytes: int) -> None:
    image = tmp_path / "client-0.1.0.img"
    image.write_bytes(os.urandom(size_bytes))
    script = tmp_path / ".command.run"
    script.write_text(
        "nxf_launch() {\n"
        f'    env - PATH="$PATH" {engine} exec --no-home -B /data -B {tmp_path} {image} /bin/bash -c "cd /work"\n'
        "}\n"
    )
    with open_source(str(image), version=None, name="image") as source:
        expected = sampled_digest(source)
    assert ask(root, "file", script, path=tmp_path).stdout == f"{expected}\n"
