"""Claims: what starts a server starts it strictly; the batch script publishes an address only while it answers."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
import pytest
import yaml

from histocast import __version__
from histocast.serving.repository import RepositoryOptions, model_name
from histocast.serving.server_memory import Regions
from histocast.serving.task_server import free_port
from histocast.serving.triton_settings import DEFAULT_PORT
from known_encoders import expected_embedding
from triton_server import Connect, RealServer, Served, find_server

STRICT = {
    "--model-control-mode=explicit",
    "--load-model=*",
    "--strict-readiness=true",
    "--disable-auto-complete-config",
}


@dataclass(frozen=True)
class Deployment:
    """What a file says of one server."""

    image: str
    command: list[str]
    ready: str
    """Path of the probe that says whether it may be used."""
    writable: dict[str, str]
    """Where volumes that it may write are mounted, by volume."""


def by_default(text: str) -> str:
    """A text of compose.yaml where no variable is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def read_compose(root: Path) -> Deployment:
    service = yaml.safe_load((root / "containers/compose.yaml").read_text())["services"]["triton"]
    mounts = [by_default(volume).split(":") for volume in service["volumes"]]
    return Deployment(
        image=by_default(service["image"]),
        command=[by_default(word) for word in service["command"]],
        ready=urlsplit(service["healthcheck"]["test"][-1]).path,
        writable={mount[0]: mount[1] for mount in mounts if mount[2:] != ["ro"]},
    )


def read_manifest(root: Path) -> dict[str, dict]:
    return {each["kind"]: each for each in yaml.safe_load_all((root / "containers/kubernetes.yaml").read_text())}


def read_kubernetes(root: Path) -> Deployment:
    container = read_manifest(root)["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    mounts = container["volumeMounts"]
    return Deployment(
        image=container["image"],
        command=container["args"],
        ready=container["readinessProbe"]["httpGet"]["path"],
        writable={mount["name"]: mount["mountPath"] for mount in mounts if not mount.get("readOnly")},
    )


READERS = {"compose": read_compose, "kubernetes": read_kubernetes}


@pytest.mark.parametrize("where", READERS)
def test_each_file_starts_a_strict_server_of_this_version_with_a_place_for_engines(root: Path, where: str) -> None:
    found = READERS[where](root)
    assert found.command[0] == "tritonserver"
    assert set(found.command) >= STRICT
    # Nothing that a public registry would be asked for under a name that is not this project's.
    registry, _, name = found.image.partition("/")
    assert registry in ("localhost", "registry.example.org")
    assert name == f"histocast/triton:{__version__}"
    assert found.writable["engines"] == RepositoryOptions().engine_cache


def fetch(url: str) -> tuple[int, str]:
    try:
        with urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, ""
    except OSError:
        return 0, ""


@pytest.mark.parametrize("where", READERS)
def test_each_file_s_command_starts_a_real_server_that_meets_its_probes_and_is_scraped(
    root: Path, where: str, served: Served, connect: Connect, tmp_path: Path
) -> None:
    """The command as it stands there, over what `histocast repository` wrote; only places and ports are this test's."""
    models = tmp_path / "models"
    program = [sys.executable, "-m", "histocast", "repository", "--backend", "python"]
    subprocess.run([*program, "--bundle", served.folder, "--outdir", models], check=True, timeout=60)
    given = READERS[where](root)
    assert "--model-repository=/models" in given.command
    command = [word.replace("=/models", f"={models}") for word in given.command[1:]]
    grpc, http, metrics = free_port(), free_port(), free_port()
    regions = Regions()
    places = [f"--{name}-address=127.0.0.1" for name in ("grpc", "http", "metrics")]
    ports = [f"--grpc-port={grpc}", f"--http-port={http}", f"--metrics-port={metrics}"]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            [find_server(), *command, *places, *ports, regions.option], stdout=log, stderr=log, start_new_session=True
        )
    try:
        until_s = time.monotonic() + 60
        while fetch(f"http://127.0.0.1:{http}{given.ready}")[0] != 200 and time.monotonic() < until_s:
            assert server.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.1)
        tiles = np.full((3, 32, 32, 3), 70, np.uint8)
        found = connect(f"grpc://127.0.0.1:{grpc}").infer("morphology", {"tiles": tiles})["embedding"]
        np.testing.assert_allclose(found, expected_embedding(tiles), atol=1e-5)
        status, text = fetch(f"http://127.0.0.1:{metrics}/metrics")
        assert status == 200
        model = model_name("morphology", served.bundle.encoders[0])
        assert re.search(rf'nv_inference_request_success{{model="{model}",version="1"}} [1-9]', text)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        regions.remove()


def test_compose_hands_over_the_gpu_and_is_scraped_by_prometheus(root: Path) -> None:
    compose = yaml.safe_load((root / "containers/compose.yaml").read_text())
    service = compose["services"]["triton"]
    assert f"{DEFAULT_PORT}:{DEFAULT_PORT}" in service["ports"]
    assert service["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    assert seconds(service["stop_grace_period"]) > exit_timeout_s(service["command"])
    scrape = yaml.safe_load(compose["configs"]["prometheus"]["content"])["scrape_configs"][0]
    assert scrape["static_configs"] == [{"targets": ["triton:8002"]}]
    used = {volume.split(":")[0] for each in compose["services"].values() for volume in each["volumes"]}
    assert set(compose["volumes"]) == {name for name in used if name.isalpha()}


def test_compose_serves_the_folder_that_its_own_command_makes(root: Path) -> None:
    """Docker resolves a relative path against the folder of compose.yaml, and the command runs in the checkout."""
    file = root / "containers/compose.yaml"
    text = file.read_text()
    made = re.search(r"histocast repository .*--outdir (\S+)", text)[1]
    assert f"-f {file.relative_to(root)} " in text, "the command names the file as it is called from the checkout"
    volumes = yaml.safe_load(text)["services"]["triton"]["volumes"]
    served = next(by_default(volume).split(":")[0] for volume in volumes if ":/models:" in volume)
    assert (file.parent / served).resolve() == (root / made).resolve()
    ignored = (root / ".gitignore").read_text().splitlines()
    assert f"/{made}/" in ignored


def seconds(text: str) -> int:
    return int(text[:-1]) * {"s": 1, "m": 60}[text[-1]]


def exit_timeout_s(command: list[str]) -> int:
    return next(int(word.split("=")[1]) for word in command if word.startswith("--exit-timeout-secs="))


def test_kubernetes_balances_by_name_and_waits_for_readiness(root: Path) -> None:
    manifest = read_manifest(root)
    deployment, service = manifest["Deployment"]["spec"], manifest["Service"]["spec"]
    pod = deployment["template"]["spec"]
    container = pod["containers"][0]
    assert service["clusterIP"] == "None", "headless: the name stands for every server"
    assert service["selector"] == deployment["selector"]["matchLabels"]
    assert service["selector"].items() <= deployment["template"]["metadata"]["labels"].items()
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports["grpc"] == DEFAULT_PORT
    assert all(ports[port["name"]] == port["port"] for port in service["ports"])
    assert deployment["template"]["metadata"]["annotations"]["prometheus.io/port"] == str(ports["metrics"])
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] in ports
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 900, "TensorRT compiles for minutes"
    assert pod["terminationGracePeriodSeconds"] > exit_timeout_s(container["args"])
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert pod["securityContext"]["runAsNonRoot"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    claims = {v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v}
    assert claims == {manifest["PersistentVolumeClaim"]["metadata"]["name"]}
    namespaces = {each["metadata"].get("namespace", each["metadata"]["name"]) for each in manifest.values()}
    assert namespaces == {"histocast"}


def test_every_file_that_an_image_takes_from_a_stage_is_made_there(root: Path) -> None:
    """The image `triton` stands on a base that not every builder can fetch; what goes into it can be read."""
    stages: dict[str, str] = {}
    parents: dict[str, str] = {}
    text = (root / "containers/Dockerfile").read_text().replace("\\\n", " ")
    for block in re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]:
        head, _, body = block.partition("\n")
        parent, _, name = head.partition(" AS ")
        stages[name], parents[name] = body, parent

    def lines_of(stage: str) -> str:
        return lines_of(parents[stage]) + stages[stage] if stage in stages else ""

    taken = [(name, *found) for name, body in stages.items() for found in re.findall(r"--from=(\S+) (\S+)", body)]
    assert {name for name, *_ in taken} >= {"client", "train", "triton"}
    for name, source, path in taken:
        maker = "/opt/build" if path.startswith("/opt/build/") else path
        assert maker in lines_of(source), f"stage {name} takes {path} from {source}, which does not make it"
    for name in ("client", "train", "triton"):
        for label in ("title", "licenses", "description"):
            assert f"org.opencontainers.image.{label}=" in lines_of(name), f"image {name} lacks the label {label}"
    folders = stages["triton"]
    for folder in ("/models", RepositoryOptions().engine_cache):
        assert folder in folders
    assert "ENTRYPOINT []" in folders


def test_the_batch_script_starts_servers_as_strictly(root: Path) -> None:
    text = (root / "containers/triton.sbatch").read_text().replace("'", "")
    assert all(option in text for option in STRICT)
    warning_s = int(re.search(r"--signal=B:TERM@(\d+)", text)[1])
    assert warning_s > exit_timeout_s(text.split()), "the server can end before the node is taken away"
    assert subprocess.run(["bash", "-n", root / "containers/triton.sbatch"], check=False).returncode == 0


def test_the_batch_script_publishes_an_address_that_answers_and_takes_it_back(
    root: Path, served: Served, connect: Connect, tmp_path: Path
) -> None:
    server = RealServer(tmp_path)
    server.add(served.folder, served.bundle)
    url_file = tmp_path / "url"
    job = subprocess.Popen(
        ["bash", root / "containers/triton.sbatch"],
        env={
            **os.environ,
            "MODELS": str(server.repository),
            "URL_FILE": str(url_file),
            "TRITONSERVER": find_server(),
            "HOST": "127.0.0.1",
        },
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until_s = time.monotonic() + 60
        while not url_file.exists() and time.monotonic() < until_s:
            assert job.poll() is None
            time.sleep(0.1)
        tiles = np.full((3, 32, 32, 3), 70, np.uint8)
        found = connect(url_file.read_text().strip()).infer("morphology", {"tiles": tiles})["embedding"]
        np.testing.assert_allclose(found, expected_embedding(tiles), atol=1e-5)
        job.send_signal(signal.SIGTERM)
        assert job.wait(timeout=30) == 143
        assert not url_file.exists()
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)


def test_the_batch_script_fails_where_the_server_does(root: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    program = shutil.which("false")
    done = subprocess.run(
        ["bash", root / "containers/triton.sbatch"],
        env={**os.environ, "MODELS": f"{tmp_path}/models", "URL_FILE": f"{tmp_path}/url", "TRITONSERVER": str(program)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "did not come up" in done.stderr
    assert not (tmp_path / "url").exists()


@pytest.mark.parametrize("name", ["MODELS", "URL_FILE"])
def test_the_batch_script_asks_for_what_it_needs(root: Path, name: str) -> None:
    given = {"MODELS": "/m", "URL_FILE": "/u", "PATH": os.environ["PATH"]}
    del given[name]
    done = subprocess.run(
        ["bash", root / "containers/triton.sbatch"], env=given, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode != 0
    assert name in done.stderr
