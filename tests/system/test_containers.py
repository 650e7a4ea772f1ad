"""Images are built from nothing but package registries, and tasks in them give what tasks give without."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import anndata
import numpy as np
import pytest

from histocast import __version__, predict_slide
from pipeline_runs import Launcher, Run
from same_results import assert_same_results
from several_files import write_dicom_series, write_mirax
from stained_sections import paint_stained

# Building an image takes two minutes, and several times as long on a machine with other work.
pytestmark = pytest.mark.timeout(1800)

BASE = "localhost/histocast-base:bookworm"
IMAGE = f"localhost/histocast/client:{__version__}"
SOME_USER = "12345:12345"

# For a machine with the old and the new control groups side by side, few open files, and no bridge of networks.
ENGINE_SETTINGS = """
[containers]
default_ulimits = ["nofile=1000:1000", "nproc=1000:1000"]
netns = "host"

[engine]
runtime = "runc"
"""

Call = Callable[..., str]


@pytest.fixture(scope="module")
def engine() -> Iterator[dict[str, str]]:
    """Environment in which podman keeps its images in a folder of its own."""
    # Not below pytest's folder, because podman refuses long paths.
    folder = Path(tempfile.mkdtemp(prefix="images-"))
    (folder / "containers.conf").write_text(ENGINE_SETTINGS)
    (folder / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n'
    )
    yield {
        "CONTAINERS_CONF": str(folder / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        "BUILDAH_ISOLATION": "chroot",
    }
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for place in reversed([place for place in mounted if place.startswith(f"{folder}/")]):
        subprocess.run(["umount", "--lazy", place], check=True)
    # A build that a time-out cut off may still be writing.
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def call(engine: dict[str, str], root: Path) -> Call:
    """Runs a command in the checkout with the engine's environment, and returns what it wrote."""

    def run(*command: str | Path, code: int = 0) -> str:
        done = subprocess.run(
            command,
            env={**os.environ, **engine},
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == code, f"{command}:\n{done.stdout[-4000:]}"
        return done.stdout

    return run


@pytest.fixture(scope="module")
def base(call: Call) -> str:
    """An image of Debian with Python, from the mirror that this machine's own packages come from."""
    mirror = call(
        *("apt-get", "indextargets", "--format", "$(REPO_URI)"), "Identifier: Packages", "Codename: bookworm"
    ).split()[0]
    # Whom this machine trusts, the build trusts, also behind a proxy that inspects.
    certificates = "copy-in /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs"
    make = shlex.join(
        [
            *("mmdebstrap", "--quiet", "--variant=minbase", "--include=ca-certificates,python3,python3-venv"),
            *(f"--customize-hook={certificates}", "bookworm", "-", mirror),
        ]
    )
    call("bash", "-o", "pipefail", "-c", f"{make} | podman import - {BASE}")
    return BASE


@pytest.fixture(scope="module")
def client(call: Call, base: str) -> str:
    """The image of the predict workflow, as `make images` builds it."""
    call("make", "images", "ENGINE=podman", "IMAGES=client", f"BUILD_ARGS=--build-arg BASE={base}")
    return IMAGE


@pytest.fixture(scope="module")
def triton(call: Call, base: str) -> str:
    """The image of the inference server on a base without the server, which no package registry has."""
    arguments = f"BUILD_ARGS=--build-arg BASE={base} --build-arg TRITON={base}"
    call("make", "images", "ENGINE=podman", "IMAGES=triton", arguments)
    return IMAGE.replace("client", "triton")


@pytest.fixture(scope="module")
def train(call: Call, base: str) -> str:
    """The image of the train workflow, as `make images` builds it."""
    call("make", "images", "ENGINE=podman", "IMAGES=train", f"BUILD_ARGS=--build-arg BASE={base}")
    return IMAGE.replace("client", "train")


@pytest.fixture(scope="module")
def cohort(call: Call, base: str) -> str:
    """The image of the last step of a run with ``--cohort true``."""
    call("make", "images", "ENGINE=podman", "IMAGES=cohort", f"BUILD_ARGS=--build-arg BASE={base}")
    return IMAGE.replace("client", "cohort")


@pytest.mark.parametrize("name", ["client", "triton", "cohort", "train"])
def test_an_image_works_as_schedulers_start_it(call: Call, request: pytest.FixtureRequest, name: str) -> None:
    """Any user, a read-only root, and the commands of a job of AWS Batch."""
    image = request.getfixturevalue(name)

    lines = call("containers/try-image", "podman", image).splitlines()

    assert len(lines) == 5
    assert all(line.startswith(f"{image}: works ") and line.endswith(f"({__version__})") for line in lines)


@pytest.mark.parametrize(
    ("instructions", "complaint"),
    [
        ("WORKDIR /", "fails as its default user in its default folder"),
        ("USER 0", "fails as its default user in its default folder"),
        ("USER 0\nRUN chmod 1777 /opt/histocast\nUSER 65532", "/opt/histocast is writable"),
        ("ENV HOME=/root", "fails as its default user in its default folder"),
        ("USER 0\nRUN rm $(command -v ps)\nUSER 65532", "ps: command not found"),
        ("WORKDIR /srv\nUSER 0\nRUN chmod 1777 /srv\nUSER 65532", "fails with a read-only root"),
        ('ENTRYPOINT ["histocast"]', 'has the entrypoint ["histocast"]'),
    ],
)
def test_an_image_that_schedulers_could_not_start_is_refused(
    call: Call, client: str, tmp_path: Path, instructions: str, complaint: str
) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {client}\n{instructions}\n")
    image = "localhost/histocast/broken:0"
    call("podman", "build", "--tag", image, tmp_path)

    assert complaint in call("containers/try-image", "podman", image, code=1)


def test_the_client_image_is_small_unprivileged_and_says_what_it_is(call: Call, client: str) -> None:
    (image,) = json.loads(call("podman", "image", "inspect", client))

    assert image["Size"] < 1.5e9
    assert image["Config"]["User"] == "65532"
    assert not image["Config"].get("Entrypoint")
    labels = image["Config"]["Labels"]
    expected = {"title": "histocast", "version": __version__, "licenses": "Apache-2.0"}
    for name, value in expected.items():
        assert labels[f"org.opencontainers.image.{name}"] == value
    assert labels["org.opencontainers.image.revision"]


def test_the_client_image_holds_what_prediction_needs_and_no_torch(call: Call, client: str) -> None:
    find = (
        "from importlib.util import find_spec as f; print(*(bool(f(n)) for n in ('onnxruntime', 'torch', 'sklearn')))"
    )
    assert call("podman", "run", "--rm", client, "python", "-c", find).split() == ["True", "False", "False"]


def test_the_cohort_image_opens_spatialdata_for_any_user_without_a_network(call: Call, cohort: str) -> None:
    """Its libraries keep what they compile in folders that a task may not have."""
    given = ("--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp", "--user", "12345:0")
    script = "import scanpy, spatialdata; print('opened')"
    assert call("podman", "run", *given, cohort, "python", "-W", "ignore", "-c", script).endswith("opened\n")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Nextflow runs as root here, and tasks as another user, who must be able to read and write in its folder."""
    folder = Path(tempfile.mkdtemp(prefix="contained-"))
    folder.chmod(0o777)
    before = os.umask(0)
    yield folder
    os.umask(before)
    shutil.rmtree(folder)


def test_slides_give_the_same_in_containers_of_a_user_who_can_write_nowhere_else(
    root: Path,
    new_launcher: Callable[[str], Launcher],
    on_this_machine: Run,
    engine: dict[str, str],
    call: Call,
    client: str,
    open_folder: Path,
    tmp_path: Path,
) -> None:
    launch = Launcher(root, open_folder, new_launcher("nextflow").nextflow)
    # The checkout may lie where that user may not look.
    archive, bundle = open_folder / "archive", open_folder / "bundle"
    shutil.copytree(root / "assets" / "test", archive)
    shutil.copytree(root / "assets" / "demo-bundle", bundle)
    several = add_slides_of_several_files(archive)
    given = ("--input", archive / "samplesheet.csv", "--bundle", bundle)
    settings = launch.folder / "here.config"
    settings.write_text(f"podman.runOptions = '--user {SOME_USER} --read-only'\n")

    run = launch("-profile", "podman,test", "-c", settings, *given, env=engine)

    assert run.code == 0, run.output
    scripts = [path.read_text() for path in (launch.folder / "work").rglob(".command.run")]
    # CONCLUDE alone runs within Nextflow.
    assert len(scripts) == len(run.trace()) - 1
    assert all(f"--user {SOME_USER} --read-only" in script and IMAGE in script for script in scripts)
    owners = {path.stat().st_uid for path in (launch.folder / "work").rglob("*.h5ad")}
    assert owners == {int(SOME_USER.split(":", maxsplit=1)[0])}
    assert_same_results(run, on_this_machine)
    assert_predicted_as_by_the_verb(run, several, bundle, tmp_path)
    (image,) = json.loads(call("podman", "image", "inspect", IMAGE))
    assert_it_says_which_image(run, image["Digest"])


def add_slides_of_several_files(archive: Path) -> dict[str, Path]:
    """Add a MIRAX slide behind a link, and a DICOM series named by its coarse level."""
    pixels = paint_stained(seed=1, side_px=1024)
    slide = write_mirax(archive / "elsewhere" / "case 1.mrxs", pixels)
    (archive / "link.mrxs").symlink_to(slide)
    series = write_dicom_series(archive / "series", [pixels, np.ascontiguousarray(pixels[::4, ::4])])
    sheet = archive / "samplesheet.csv"
    rows = sheet.read_text().splitlines()
    commas = "," * (rows[0].count(",") - 1)
    assert rows[0].startswith("sample,slide")
    sheet.write_text("\n".join([*rows, f"M,link.mrxs{commas}", f"D,series/{series[1].name}{commas}", ""]))
    return {"M": archive / "link.mrxs", "D": series[1]}


def assert_predicted_as_by_the_verb(run: Run, slides: dict[str, Path], bundle: Path, folder: Path) -> None:
    """A task that saw fewer of a slide's files would have found other tiles, or none."""
    for sample, slide in slides.items():
        here = predict_slide(slide, bundle=bundle, outdir=folder / sample, sample=sample)
        contained = run.outdir / sample / f"{sample}.h5ad"
        mine, other = anndata.read_h5ad(contained), anndata.read_h5ad(here)
        assert mine.n_obs > 5
        np.testing.assert_array_equal(mine.obsm["spatial"], other.obsm["spatial"])
        np.testing.assert_array_equal(mine.X, other.X)


def assert_it_says_which_image(run: Run, digest: str) -> None:
    """The run's provenance, and a result on its own, name the image by tag and digest."""
    graph = json.loads((run.outdir / "pipeline_info" / "provenance.json").read_text())["@graph"]
    (entity,) = (entity for entity in graph if entity["@type"] == "ContainerImage")
    assert (entity["registry"], entity["name"], entity["tag"]) == ("localhost", "histocast/client", __version__)
    assert f"sha256:{entity['sha256']}" == digest
    data = anndata.read_h5ad(run.outdir / "A" / "A.h5ad", backed="r")
    assert data.uns["histocast"]["software"]["image_digest"] == digest
