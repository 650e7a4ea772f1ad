"""Images are built from nothing but package registries, and tasks in them give what tasks give without."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import anndata
import pytest

from histocast import __version__
from pipeline_runs import Launcher, Run
from same_results import assert_same_results

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
def client(call: Call, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image of the predict workflow, as `make images` builds it, on a base made here."""
    import_base(call, tmp_path_factory.mktemp("base") / "root")
    call("make", "images", "ENGINE=podman", "IMAGES=client", f"BUILD_ARGS=--build-arg BASE={BASE}")
    return IMAGE


def import_base(call: Call, folder: Path) -> None:
    """Make an image of Debian with Python, from the mirror this machine's own packages come from."""
    mirror = call(
        *("apt-get", "indextargets", "--format", "$(REPO_URI)"), "Identifier: Packages", "Codename: bookworm"
    ).split()[0]
    call(
        *("debootstrap", "--variant=minbase", "--include=ca-certificates,python3,python3-venv"),
        *("bookworm", folder, mirror),
    )
    # Whom this machine trusts, the build trusts, also behind a proxy that inspects.
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", folder / "etc/ssl/certs/ca-certificates.crt")
    for package in (folder / "var/cache/apt/archives").glob("*.deb"):
        package.unlink()
    call("bash", "-o", "pipefail", "-c", f"tar --directory '{folder}' --create . | podman import - {BASE}")
    shutil.rmtree(folder)


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


def test_a_task_of_any_user_finds_its_shell_and_its_caches_where_all_else_is_read_only(call: Call, client: str) -> None:
    script = (
        'id -u; ps -o comm= -p 1; mkdir -p "$XDG_CACHE_HOME" "$MPLCONFIGDIR"; touch "$HOME/any"; '
        "histocast --version; touch /opt/histocast/any"
    )
    told = call("podman", "run", "--rm", "--read-only", "--user", SOME_USER, client, "bash", "-euc", script, code=1)
    assert told.splitlines()[:3] == ["12345", "bash", __version__]
    assert "Read-only file system" in told


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Nextflow runs as root here, and tasks as another user, who must be able to read and write in its folder."""
    folder = Path(tempfile.mkdtemp(prefix="contained-"))
    folder.chmod(0o777)
    before = os.umask(0)
    yield folder
    os.umask(before)
    shutil.rmtree(folder)


def test_the_demo_archive_gives_the_same_in_containers_of_a_user_who_can_write_nowhere_else(
    root: Path,
    new_launcher: Callable[[str], Launcher],
    on_this_machine: Run,
    engine: dict[str, str],
    call: Call,
    client: str,
    open_folder: Path,
) -> None:
    launch = Launcher(root, open_folder, new_launcher("nextflow").nextflow)
    # The checkout may lie where that user may not look.
    archive, bundle = open_folder / "archive", open_folder / "bundle"
    shutil.copytree(root / "demo" / "archive", archive)
    shutil.copytree(root / "assets" / "demo-bundle", bundle)
    given = ("--input", archive / "samplesheet.csv", "--bundle", bundle, "--max_cpus", "2")
    settings = launch.folder / "here.config"
    settings.write_text(f"podman.runOptions = '--user {SOME_USER} --read-only'\n")

    run = launch("-profile", "podman,demo", "-c", settings, *given, env=engine)

    assert run.code == 0, run.output
    scripts = [path.read_text() for path in (launch.folder / "work").rglob(".command.run")]
    # CONCLUDE alone runs within Nextflow.
    assert len(scripts) == len(run.trace()) - 1
    assert all(f"--user {SOME_USER} --read-only" in script and IMAGE in script for script in scripts)
    owners = {path.stat().st_uid for path in (launch.folder / "work").rglob("*.h5ad")}
    assert owners == {int(SOME_USER.split(":", maxsplit=1)[0])}
    assert_same_results(run, on_this_machine)
    (image,) = json.loads(call("podman", "image", "inspect", IMAGE))
    assert_it_says_which_image(run, image["Digest"])


def assert_it_says_which_image(run: Run, digest: str) -> None:
    """The run's provenance, and a result on its own, name the image by tag and digest."""
    graph = json.loads((run.outdir / "pipeline_info" / "provenance.json").read_text())["@graph"]
    (entity,) = (entity for entity in graph if entity["@type"] == "ContainerImage")
    assert (entity["registry"], entity["name"], entity["tag"]) == ("localhost", "histocast/client", __version__)
    assert f"sha256:{entity['sha256']}" == digest
    data = anndata.read_h5ad(run.outdir / "D1" / "D1.h5ad", backed="r")
    assert data.uns["histocast"]["software"]["image_digest"] == digest
