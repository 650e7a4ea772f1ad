"""Claims: what starts a server starts it strictly; the batch script publishes an address only while it answers."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import numpy as np
import pytest
import yaml
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from histocast import __version__
from histocast.errors import ConfigError, UsageError
from histocast.inference.predictor import graphs_of
from histocast.inference.triton.model_repository import model_name
from histocast.inference.triton.repository_options import RepositoryOptions
from histocast.inference.triton.server_command import COMMAND, MUTUAL_TLS, server_options
from histocast.inference.triton.settings import DEFAULT_PORT, TOKEN_HEADER
from histocast.inference.triton.shared_memory import Regions
from histocast.inference.triton.task_server import free_port
from known_encoders import expected_embedding
from triton_server import Connect, RealServer, Served, find_server

TOKEN = "a-token-of-the-tests"
LISTENS = re.compile(r"--(grpc|http|metrics)=([\d.]+):(\d+)")


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
def test_each_file_starts_a_server_of_this_version_with_a_place_for_engines(root: Path, where: str) -> None:
    found = READERS[where](root)
    assert found.command[:2] == ["histocast", "serve"]
    assert [match[1] for word in found.command if (match := LISTENS.fullmatch(word))] == ["grpc", "http", "metrics"]
    # Nothing that a public registry would be asked for under a name that is not this project's.
    registry, _, name = found.image.partition("/")
    assert registry in ("localhost", "registry.example.org")
    assert name == f"histocast/triton:{__version__}"
    assert found.writable["engines"] == RepositoryOptions().engine_cache


def fetch(url: str, *, token: str | None = None, data: bytes | None = None) -> tuple[int, str]:
    try:
        with urlopen(Request(url, data, {TOKEN_HEADER: token} if token else {}), timeout=5) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


@pytest.fixture(scope="module")
def models(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `histocast repository` wrote."""
    models = tmp_path_factory.mktemp("deployed") / "models"
    program = [sys.executable, "-m", "histocast", "repository", "--backend", "python"]
    subprocess.run([*program, "--bundle", served.folder, "--outdir", models], check=True, timeout=60)
    return models


@dataclass(frozen=True)
class Deployed:
    """A real server that a file's command started."""

    grpc: int
    http: int
    metrics: int
    log: Path


@pytest.fixture(scope="module", params=READERS)
def deployed(request: pytest.FixtureRequest, root: Path, models: Path) -> Iterator[Deployed]:
    """The command as the file has it, with a token; only folder, addresses and ports are those of the tests."""
    given = READERS[request.param](root)
    assert "--models=/models" in given.command
    server = Deployed(free_port(), free_port(), free_port(), models.parent / f"{request.param}.log")
    command = [
        LISTENS.sub(lambda found: f"--{found[1]}=127.0.0.1:{getattr(server, found[1])}", word)
        for word in [f"--models={models}" if word == "--models=/models" else word for word in given.command[1:]]
    ]
    regions = Regions()
    with server.log.open("wb") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "histocast", *command),
                *(f"--option={regions.option}", "--option=--log-verbose=1"),
            ],
            env={**os.environ, COMMAND: find_server(), "HISTOCAST_TRITON_TOKEN": TOKEN},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        until_s = time.monotonic() + 60
        while fetch(f"http://127.0.0.1:{server.http}{given.ready}")[0] != 200 and time.monotonic() < until_s:
            assert process.poll() is None, server.log.read_text()
            time.sleep(0.1)
        yield server
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        regions.remove()


class TestDeployed:
    def test_it_answers_who_has_the_token_and_is_scraped(
        self, deployed: Deployed, served: Served, connect: Connect, tmp_path: Path
    ) -> None:
        url = f"grpc://127.0.0.1:{deployed.grpc}"
        (tmp_path / "token").write_text(f"{TOKEN}\n")
        tiles = np.full((3, 32, 32, 3), 70, np.uint8)
        for given in ({"token": TOKEN}, {"token_file": tmp_path / "token"}):
            found = connect(url, **given).infer("morphology", {"tiles": tiles})["embedding"]
            np.testing.assert_allclose(found, expected_embedding(tiles), atol=1e-5)
        for refused in ({}, {"token": "another-token-of-16"}):
            with pytest.raises(ConfigError, match="HISTOCAST_TRITON_TOKEN") as raised:
                connect(url, **refused)
            assert raised.value.exit_code == 78
        status, text = fetch(f"http://127.0.0.1:{deployed.metrics}/metrics")
        assert status == 200
        model = model_name("morphology", served.bundle.encoders[0])
        assert re.search(rf'nv_inference_request_success{{model="{model}",version="1"}} [1-9]', text)

    def test_each_model_was_warmed_up_with_its_largest_input(self, deployed: Deployed, served: Served) -> None:
        text = deployed.log.read_text()
        assert "Skipping batch 0 warmup" not in text
        for name, graph in graphs_of(served.bundle).items():
            assert re.search(
                rf"model '{model_name(name, graph)}' instance \S+ is running warmup sample 'largest'", text
            )

    def test_nothing_but_health_is_open_over_http(self, deployed: Deployed, served: Served) -> None:
        model = model_name("morphology", served.bundle.encoders[0])
        asked = (
            "",
            f"/models/{model}",
            f"/models/{model}/config",
            f"/models/{model}/stats",
            "/logging",
            "/trace/setting",
        )
        for path in (*asked, "/systemsharedmemory/status"):
            assert fetch(f"http://127.0.0.1:{deployed.http}/v2{path}")[0] == 403, path
            assert fetch(f"http://127.0.0.1:{deployed.http}/v2{path}", token=TOKEN)[0] == 200, path
        for path in (f"/models/{model}/infer", "/repository/index"):
            assert fetch(f"http://127.0.0.1:{deployed.http}/v2{path}", data=b"{}")[0] == 403, path

    def test_nothing_but_the_token_opens_grpc(self, deployed: Deployed, served: Served) -> None:
        model = model_name("morphology", served.bundle.encoders[0])
        with InferenceServerClient(f"127.0.0.1:{deployed.grpc}") as client:
            calls: list[Callable[..., object]] = [
                *(client.is_server_ready, client.get_server_metadata, client.get_model_repository_index),
                *(partial(ask, model) for ask in (client.get_model_metadata, client.get_model_config)),
                *(client.get_inference_statistics, client.get_trace_settings, client.get_log_settings),
                *(client.get_system_shared_memory_status, partial(client.infer, model, [])),
            ]
            for call in calls:
                with pytest.raises(InferenceServerException, match="restricted"):
                    call()

    @pytest.mark.parametrize("token", [None, TOKEN])
    @pytest.mark.parametrize("change", ["load", "unload"])
    def test_its_models_cannot_be_changed(
        self, deployed: Deployed, served: Served, change: str, token: str | None
    ) -> None:
        model = model_name("morphology", served.bundle.encoders[0])
        expected = "not allowed" if token else "restricted"
        url = f"http://127.0.0.1:{deployed.http}/v2/repository/models/{model}/{change}"
        status, text = fetch(url, token=token, data=b"{}")
        assert status >= 400
        assert expected in text
        with InferenceServerClient(f"127.0.0.1:{deployed.grpc}") as client:
            ask = client.load_model if change == "load" else client.unload_model
            with pytest.raises(InferenceServerException, match=expected):
                ask(model, headers={TOKEN_HEADER: token} if token else None)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"grpc": "0.0.0.0:8001"}, "no token .* 0.0.0.0:8001"),
        ({"grpc": "127.0.0.1:8001", "http": "[::]:8000"}, r"no token .* \[::\]:8000"),
        (
            {"grpc": "0.0.0.0:8001", "http": "0.0.0.0:8000", "more": [MUTUAL_TLS]},
            "no token for a server that other machines reach at 0.0.0.0:8000",
        ),
        ({"grpc": "0.0.0.0:8001", "more": ["--grpc-use-ssl=true"]}, "no token"),
        ({"grpc": "8001"}, "'8001' is no address"),
        ({"grpc": "127.0.0.1:grpc"}, "no address"),
        ({"grpc": "127.0.0.1:8001", "token": "short"}, "cannot be given"),
        ({"grpc": "127.0.0.1:8001", "token": "a,token:that=Triton_splits"}, "cannot be given"),
    ],
)
def test_a_server_that_others_reach_without_a_token_is_never_started(given: dict[str, Any], found: str) -> None:
    with pytest.raises(UsageError, match=found) as raised:
        server_options("/models", **given)
    assert "splits" not in raised.value.message


def test_a_server_that_asks_for_certificates_needs_no_token_and_has_no_secret_in_its_command_line() -> None:
    options = server_options("/models", grpc="0.0.0.0:8001", more=[MUTUAL_TLS])
    assert options[-1] == MUTUAL_TLS
    assert not [option for option in options if "restricted" in option]


def test_addresses_are_always_said() -> None:
    """Triton's own default is every network of the machine."""
    here = server_options("/models", grpc="127.0.0.1:8001")
    assert {"--grpc-address=127.0.0.1", "--allow-http=false", "--allow-metrics=false"} <= set(here)
    assert "--model-control-mode=none" in here
    all_three = server_options("/models", grpc="a:1", http="b:2", metrics="c:3", token=TOKEN)
    assert {"--grpc-address=a", "--http-address=b", "--metrics-address=c", "--metrics-port=3"} <= set(all_three)


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
    return next(int(word.rpartition("=")[2]) for word in command if "--exit-timeout-secs=" in word)


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


def test_the_batch_script_ends_its_server_in_time(root: Path) -> None:
    text = (root / "containers/triton.sbatch").read_text()
    warning_s = int(re.search(r"--signal=B:TERM@(\d+)", text)[1])
    assert warning_s > exit_timeout_s(text.split()), "the server can end before the node is taken away"
    assert subprocess.run(["bash", "-n", root / "containers/triton.sbatch"], check=False).returncode == 0


@pytest.mark.parametrize("file", ["Makefile", "containers/triton.sbatch"])
def test_what_else_starts_a_server_starts_it_by_the_same_verb(root: Path, file: str) -> None:
    text = (root / file).read_text()
    assert " serve --models " in text
    assert "--model-repository" not in text


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
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
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
        token_file = tmp_path / "url.token"
        assert token_file.stat().st_mode & 0o077 == 0
        with pytest.raises(ConfigError, match="refuses"):
            connect(url_file.read_text().strip())
        served_here = connect(url_file.read_text().strip(), token_file=token_file)
        found = served_here.infer("morphology", {"tiles": tiles})["embedding"]
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
